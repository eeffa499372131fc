//! The machine: what it is called and what runs it.

use nix::sys::utsname;

/// What the kernel says of the machine (uname(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uname {
    /// The operating system, `Linux`.
    pub sysname: String,
    /// The host's name.
    pub nodename: String,
    /// The kernel's release.
    pub release: String,
    /// The kernel's version.
    pub version: String,
    /// The hardware, `x86_64`.
    pub machine: String,
}

/// Returns what the kernel says of the machine; fields that it does not tell are empty.
pub fn uname() -> Uname {
    let Ok(names) = utsname::uname() else {
        let none = String::new;
        return Uname {
            sysname: none(),
            nodename: none(),
            release: none(),
            version: none(),
            machine: none(),
        };
    };
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    Uname {
        sysname: text(names.sysname()),
        nodename: text(names.nodename()),
        release: text(names.release()),
        version: text(names.version()),
        machine: text(names.machine()),
    }
}

/// Returns the host's name.
pub fn hostname() -> String {
    uname().nodename
}

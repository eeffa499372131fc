//! What the kernel says about this host.

/// The host as `uname` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name of the operating system.
    pub os: String,
    /// The name of the host.
    pub hostname: String,
    /// The release of the kernel.
    pub release: String,
    /// The version of the kernel.
    pub version: String,
    /// The hardware.
    pub machine: String,
}

impl Host {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// Those of `uname`, which has none on Linux.
    pub fn read() -> nix::Result<Self> {
        let uname = nix::sys::utsname::uname()?;
        let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
        Ok(Self {
            os: text(uname.sysname()),
            hostname: text(uname.nodename()),
            release: text(uname.release()),
            version: text(uname.version()),
            machine: text(uname.machine()),
        })
    }
}

//! What the kernel says about this host.

use std::io;

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

/// How busy the host is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// The load averages over 1, 5 and 15 minutes.
    pub averages: [f64; 3],
    /// How many threads run at once.
    pub cpus: u32,
}

impl Load {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// Where `/proc/loadavg` cannot be read, or is not what it is on Linux.
    pub fn read() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/loadavg")?;
        let averages = averages(&text)
            .ok_or_else(|| io::Error::other(format!("/proc/loadavg holds {text:?}")))?;
        let cpus = std::thread::available_parallelism()?.get();
        Ok(Self {
            averages,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        })
    }
}

/// Returns how many processor sockets this host has; 1 where the kernel does not say.
pub fn sockets() -> i32 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let ids: std::collections::BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("physical id"))
        .collect();
    i32::try_from(ids.len().max(1)).unwrap_or(1)
}

fn averages(text: &str) -> Option<[f64; 3]> {
    let mut numbers = text.split_whitespace().map(|word| {
        let number: Option<f64> = word.parse().ok();
        number.filter(|number| number.is_finite() && *number >= 0.0)
    });
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_averages_are_the_first_three_numbers() {
        assert_eq!(
            averages("1.52 0.80 0.43 2/812 4711\n"),
            Some([1.52, 0.8, 0.43])
        );
        for text in ["", "1.0 2.0", "1.0 NaN 3.0", "1.0 -2 3.0", "a b c"] {
            assert_eq!(averages(text), None, "{text}");
        }
        let load = Load::read().expect("Linux has load averages");
        assert!(load.cpus > 0);
    }
}

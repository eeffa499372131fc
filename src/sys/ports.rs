//! Who listens on a port of TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use super::process;

/// A program that runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// Its process id.
    pub pid: u32,
    /// The name of its executable, or what it calls itself.
    pub name: String,
}

impl Program {
    /// Asks the kernel what a process runs.
    pub fn of(pid: u32) -> Self {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let name = exe.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let name = name.or_else(|| {
            let own = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(own.trim().to_owned())
        });
        Self {
            pid,
            name: name.unwrap_or_default(),
        }
    }
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// The users that the sockets belong to.
    pub uids: BTreeSet<u32>,
    /// The processes that have them open; none if they are other users' and may not be looked at.
    pub programs: BTreeSet<Program>,
}

/// Returns who listens on these ports, at whatever address; a port that is free is not there.
pub fn holders(ports: &[u16]) -> io::Result<BTreeMap<u16, Holder>> {
    let mut sockets = listening(&fs::read_to_string("/proc/net/tcp")?);
    // Where there is no IPv6 there is no such file.
    if let Ok(text) = fs::read_to_string("/proc/net/tcp6") {
        sockets.extend(listening(&text));
    }
    sockets.retain(|socket| ports.contains(&socket.port));
    let mut holders: BTreeMap<u16, Holder> = BTreeMap::new();
    for socket in &sockets {
        let holder = holders.entry(socket.port).or_default();
        holder.uids.insert(socket.uid);
    }
    if sockets.is_empty() {
        return Ok(holders);
    }
    for pid in process::pids()? {
        // One that is another user's, or gone meanwhile.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else {
                continue;
            };
            let inode = target.to_str().and_then(inode);
            for socket in sockets.iter().filter(|s| Some(s.inode) == inode) {
                let holder = holders.entry(socket.port).or_default();
                holder.programs.insert(Program::of(pid));
            }
        }
    }
    Ok(holders)
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    port: u16,
    uid: u32,
    inode: u64,
}

/// Returns the sockets of `/proc/net/tcp` that listen (proc_net(5)).
fn listening(text: &str) -> Vec<Socket> {
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        (*fields.get(3)? == LISTEN).then_some(())?;
        Some(Socket {
            port: u16::from_str_radix(port, 16).ok()?,
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    };
    text.lines().skip(1).filter_map(socket).collect()
}

fn inode(target: &str) -> Option<u64> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_is_found_in_the_kernels_table() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:0FDD 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:0FDE 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0\n";
        let expected = Socket {
            port: 4061,
            uid: 1000,
            inode: 4711,
        };
        assert_eq!(listening(text), [expected]);
        let six = "head\n 0: 00000000000000000000000000000000:0FE0 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 9 1\n";
        assert_eq!(listening(six)[0].port, 4064);
        assert_eq!(listening("head\nrubbish\n"), []);
        assert_eq!(inode("socket:[12]"), Some(12));
        assert_eq!(inode("pipe:[12]"), None);
    }

    #[test]
    fn a_socket_of_this_process_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holders(&[port]).unwrap();
        let pids: Vec<u32> = found[&port].programs.iter().map(|p| p.pid).collect();
        assert!(pids.contains(&std::process::id()), "{found:?}");
        assert!(holders(&[]).unwrap().is_empty());
    }
}

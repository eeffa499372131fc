//! Whose the other end of a TCP connection is, as far as this host knows.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::process::pids;

/// Whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This process has it open, perhaps among others.
    Process(u32),
    /// It is one of this host, and no process has it any more.
    Gone,
    /// It is another host's, or may not be seen.
    Unknown,
}

/// How often a connection is looked for in the kernel's table.
const LOOKS: usize = 3;

/// Returns whose the socket at `address` is that is connected with `other`. Looks at process `first` before all others.
///
/// Reads the kernel's table of connections, and open files of processes: blocks for about a millisecond, more where there are thousands.
pub fn owner(address: SocketAddr, other: SocketAddr, first: Option<u32>) -> Owner {
    if !address.ip().to_canonical().is_loopback() && address.ip() != other.ip() {
        return Owner::Unknown;
    }
    // The table is read in pieces, between which connections come and go: one that is there may be missed, hardly again and again.
    match (0..LOOKS).find_map(|_| inode(address, other)) {
        None | Some(0) => Owner::Gone,
        Some(inode) => match holder(inode, first) {
            Some(pid) => Owner::Process(pid),
            None => Owner::Unknown,
        },
    }
}

/// Returns a process that has a socket open.
fn holder(inode: u64, first: Option<u32>) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
    };
    let all = pids().unwrap_or_default();
    first.into_iter().chain(all).find(has)
}

/// Returns the number of the socket of a connection: 0 for one that no process has any more.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let wanted = (canonical(local), canonical(remote));
    lines().find_map(|(local, remote, inode)| {
        ((canonical(local), canonical(remote)) == wanted).then_some(inode)
    })
}

/// Both addresses of a socket, and its number.
type Line = (SocketAddr, SocketAddr, u64);

fn lines() -> impl Iterator<Item = Line> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
    let texts = tables.filter_map(|table| fs::read_to_string(table).ok());
    texts.flat_map(|text| text.lines().skip(1).filter_map(line).collect::<Vec<_>>())
}

fn line(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    let inode = words.nth(6)?.parse().ok()?;
    Some((address(local)?, address(remote)?, inode))
}

/// Reads an address: words of 32 bits in the order of this host, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_other_end_of_a_connection_is_ours_and_then_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let local = server.local_addr().unwrap();
        let me = std::process::id();
        assert_eq!(owner(peer, local, None), Owner::Process(me));
        assert_eq!(owner(peer, local, Some(1)), Owner::Process(me));
        drop(client);
        // A process that another test is just starting may have it open for a moment.
        let limit = Instant::now() + Duration::from_secs(20);
        while owner(peer, local, Some(me)) != Owner::Gone {
            assert!(Instant::now() < limit, "it is still somebody's");
        }
        let far = "192.0.2.1:5".parse().unwrap();
        assert_eq!(owner(far, local, None), Owner::Unknown);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(address("0100007F:0FDD"), "127.0.0.1:4061".parse().ok());
        assert_eq!(
            address("00000000000000000000000001000000:0FDD"),
            "[::1]:4061".parse().ok()
        );
        assert_eq!(address("0100007F"), None);
        assert_eq!(address("01007F:0FDD"), None);
    }
}

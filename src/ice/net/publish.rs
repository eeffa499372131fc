//! Where an adapter listens, and where it says that it does.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on every address of a host; an empty one is all addresses of this machine. Returns the sockets, which have one port together.
/// What listens there already and was left to this process is taken from `inherited`.
pub(super) async fn listen(
    host: &str,
    port: u16,
    inherited: &mut Vec<std::net::TcpListener>,
) -> Result<Vec<TcpListener>, (String, io::Error)> {
    let all = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    if host.is_empty() {
        // One socket of IPv6 takes both; a machine may have no IPv6.
        let socket = bind(all[0], inherited).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ => bind(all[1], inherited),
        });
        return match socket {
            Ok(socket) => Ok(vec![socket]),
            Err(error) => Err((format!("*:{port}"), error)),
        };
    }
    let mut addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => lookup_host((host, port))
            .await
            .map_err(|error| (host.to_owned(), error))?
            .collect(),
    };
    addresses.dedup();
    let mut sockets: Vec<TcpListener> = Vec::new();
    for mut address in addresses {
        if let Some(Ok(first)) = sockets.first().map(TcpListener::local_addr) {
            address.set_port(first.port());
        }
        match bind(address, inherited) {
            Ok(socket) => sockets.push(socket),
            // A name may have an address that this machine has not, such as one of IPv6.
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && !sockets.is_empty() => {}
            Err(error) => return Err((address.to_string(), error)),
        }
    }
    match sockets.is_empty() {
        true => Err((host.to_owned(), io::ErrorKind::AddrNotAvailable.into())),
        false => Ok(sockets),
    }
}

fn bind(
    address: SocketAddr,
    inherited: &mut Vec<std::net::TcpListener>,
) -> io::Result<TcpListener> {
    let is_there =
        |socket: &std::net::TcpListener| socket.local_addr().is_ok_and(|local| local == address);
    if let Some(at) = inherited.iter().position(is_there) {
        let socket = inherited.swap_remove(at);
        socket.set_nonblocking(true)?;
        return TcpListener::from_std(socket);
    }
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns the addresses by which others reach this machine; that of the loopback only where there is no other.
pub(super) fn interfaces() -> Vec<IpAddr> {
    let mut found = BTreeSet::new();
    if let Ok(all) = getifaddrs() {
        for interface in all {
            let up = interface.flags.contains(InterfaceFlags::IFF_UP);
            let Some(address) = interface.address.filter(|_| up) else {
                continue;
            };
            if let Some(v4) = address.as_sockaddr_in() {
                found.insert(IpAddr::V4(v4.ip()));
            } else if let Some(v6) = address.as_sockaddr_in6() {
                found.insert(IpAddr::V6(v6.ip()));
            }
        }
    }
    let outside = |ip: &&IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        // An address of a link means nothing without the name of the link.
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let outer: Vec<IpAddr> = found.iter().filter(outside).copied().collect();
    match outer.is_empty() {
        true => vec![Ipv4Addr::LOCALHOST.into()],
        false => outer,
    }
}

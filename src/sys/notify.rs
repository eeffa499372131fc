//! Tells whoever started this process that it is ready: the protocol of `sd_notify(3)`.
//!
//! By hand and not by the `sd-notify` crate, which cannot reach a socket in the abstract namespace (`@name`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends one datagram to a notification socket, given as in `NOTIFY_SOCKET`.
pub(crate) fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.connect_addr(&address)?;
    // A full queue must not stop whoever has something to say.
    datagram.set_nonblocking(true)?;
    datagram.send(text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_sockets_with_a_path_and_abstract_ones() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("n");
        let name = format!("omero-grid-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (socket, address) in sockets {
            send(&address, "READY=1\n").unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }
}

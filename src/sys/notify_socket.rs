//! The socket that a server says `READY=1` on (sd_notify(3)).
//!
//! It has an abstract name, so that no path is too long and none stays behind; who sent a message is told by the kernel.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use sha2::{Digest, Sha256};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::model::ServerId;

/// The longest message that is read, in bytes; the rest of a longer one is lost.
const MAX_MESSAGE: usize = 4096;

/// What a server told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// It is ready.
    pub ready: bool,
    /// It is about to end.
    pub stopping: bool,
    /// It is alive.
    pub watchdog: bool,
    /// How it is, in its own words.
    pub status: Option<String>,
}

/// A server's end of the line.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    name: String,
    also: Option<u32>,
}

impl NotifySocket {
    /// Listens for one run of a server. Messages of this process's user, of root and of `also` are heard.
    ///
    /// The name depends on the arguments only, so that the next node hears a server that it adopted. Needs a running runtime.
    pub fn bind(
        state: &Path,
        server: &ServerId,
        instance: &str,
        also: Option<u32>,
    ) -> io::Result<Self> {
        let hash = |bytes: &[u8]| -> String {
            Sha256::digest(bytes)[..8]
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect()
        };
        let name = format!(
            "omero-grid/{}/{}/{instance}",
            hash(state.as_os_str().as_encoded_bytes()),
            hash(server.as_str().as_bytes()),
        );
        let socket = StdDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket)?,
            name,
            also,
        })
    }

    /// Returns the value of `NOTIFY_SOCKET`.
    pub fn address(&self) -> String {
        format!("@{}", self.name)
    }

    /// Waits for the next message of a permitted user. Cancel safe.
    pub async fn recv(&self) -> io::Result<Told> {
        loop {
            let mut bytes = [0_u8; MAX_MESSAGE];
            let (length, sender) = self
                .socket
                .async_io(Interest::READABLE, || receive(&self.socket, &mut bytes))
                .await?;
            let permitted = sender.is_some_and(|sender| {
                let uid = sender.uid();
                uid == 0 || uid == nix::unistd::geteuid().as_raw() || Some(uid) == self.also
            });
            if permitted {
                return Ok(parse(bytes.get(..length).unwrap_or_default()));
            }
        }
    }
}

fn receive(
    socket: &UnixDatagram,
    bytes: &mut [u8],
) -> io::Result<(usize, Option<UnixCredentials>)> {
    let mut parts = [IoSliceMut::new(bytes)];
    let mut control = cmsg_space!(UnixCredentials);
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        // Descriptors that somebody sends along are never wanted; what arrives is closed on execve at least.
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    // Descriptors find no room in `control` and are closed by the kernel; then the list is cut short, which is no error.
    let sender = message.cmsgs().ok().and_then(|mut list| {
        list.find_map(|entry| match entry {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender),
            _ => None,
        })
    });
    Ok((message.bytes, sender))
}

fn parse(bytes: &[u8]) -> Told {
    let text = String::from_utf8_lossy(bytes);
    let mut told = Told::default();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => told.ready = true,
            Some(("STOPPING", "1")) => told.stopping = true,
            Some(("WATCHDOG", "1")) => told.watchdog = true,
            Some(("STATUS", status)) => told.status = Some(status.to_owned()),
            _ => {}
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hears_a_server_that_is_ready() {
        let server = "Blitz-0".parse().unwrap();
        let instance = format!("test{}", std::process::id());
        let socket = NotifySocket::bind(Path::new("/grid"), &server, &instance, None).unwrap();
        let address = SocketAddr::from_abstract_name(&socket.address()[1..]).unwrap();
        let sender = StdDatagram::unbound().unwrap();
        sender.send_to_addr(b"STATUS=half way\n", &address).unwrap();
        assert_eq!(
            socket.recv().await.unwrap(),
            Told {
                status: Some("half way".to_owned()),
                ..Told::default()
            }
        );
        sender
            .send_to_addr(b"X\nREADY=1\nREADY=2\xff\n", &address)
            .unwrap();
        assert!(socket.recv().await.unwrap().ready);
        assert!(NotifySocket::bind(Path::new("/grid"), &server, &instance, None).is_err());
    }

    #[test]
    fn ignores_what_it_does_not_know() {
        for bytes in [
            &b""[..],
            b"READY",
            b"READY=0",
            b"ready=1",
            b"\xff\xfe",
            b"=1\n=\n",
        ] {
            assert_eq!(parse(bytes), Told::default());
        }
        assert!(parse(b"MAINPID=1\nSTOPPING=1\nWATCHDOG=1").stopping);
    }
}

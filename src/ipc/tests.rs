//! Both ends of a link over a real socket, and peers that do not behave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::message::blitz::{BlitzLink, Event, Reply, Request};
use super::*;
use crate::model::SessionId;

/// Answers `Users`, refuses everything else, and tells one event.
struct Answers;

impl Handler<BlitzLink> for Answers {
    async fn handle(self: Arc<Self>, _: Arc<Peer>, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Users { .. } => Ok(Reply::Users { users: Vec::new() }),
            Request::Ids { .. } => std::future::pending().await,
            _ => Err(Refusal::new(RefusalKind::Refused, "not today").hint("tomorrow")),
        }
    }

    fn events(&self, _: &Peer) -> Option<mpsc::Receiver<Event>> {
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Event::Resync).unwrap();
        Some(receiver)
    }
}

struct Served {
    path: PathBuf,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _temp: tempfile::TempDir,
}

fn serve() -> Served {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let listener = Listener::bind(&path, &[]).unwrap();
    let (stop, stopped) = watch::channel(false);
    let me = Hello::new(Role::Blitz, "Blitz-0");
    let serving = tokio::spawn(listener.serve::<BlitzLink, _>(me, Arc::new(Answers), stopped));
    Served {
        path,
        stop,
        serving,
        _temp: temp,
    }
}

async fn connect(served: &Served) -> (Client<BlitzLink>, Hello, mpsc::Receiver<Event>) {
    Client::connect(&served.path, &Hello::new(Role::Node, "n"))
        .await
        .unwrap()
}

fn users() -> Request {
    Request::Users {
        authority: message::blitz::Authority::Owner,
    }
}

/// A peer by hand: sends and receives frames as they are.
struct Raw(UnixStream);

impl Raw {
    async fn connect(served: &Served) -> Self {
        Self(UnixStream::connect(&served.path).await.unwrap())
    }

    async fn greeted(served: &Served) -> Self {
        let mut raw = Self::connect(served).await;
        raw.send(br#"{"protocol":1,"role":"node","name":"n","pid":1,"from the future":[1]}"#)
            .await;
        assert!(raw.receive().await.unwrap().contains(r#""role":"blitz""#));
        raw
    }

    async fn send(&mut self, document: &[u8]) {
        let length = u32::try_from(document.len()).unwrap().to_be_bytes();
        self.0
            .write_all(&[&length, document].concat())
            .await
            .unwrap();
    }

    /// Returns the next document, or `None` at the end of the connection.
    async fn receive(&mut self) -> Option<String> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await.ok()?;
        let mut document = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut document).await.ok()?;
        Some(String::from_utf8(document).unwrap())
    }
}

#[tokio::test]
async fn a_request_is_answered_or_refused_and_events_come_unasked() {
    let served = serve();
    let (client, peer, mut events) = connect(&served).await;
    assert_eq!((peer.role, peer.name.as_str()), (Role::Blitz, "Blitz-0"));
    assert!(matches!(
        client.call(&users()).await,
        Ok(Reply::Users { .. })
    ));
    let refused = client
        .call(&Request::Join {
            session: SessionId::random(),
        })
        .await;
    let Err(CallError::Refused(refusal)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (refusal.kind, refusal.hint.as_deref()),
        (RefusalKind::Refused, Some("tomorrow"))
    );
    assert!(matches!(events.recv().await, Some(Event::Resync)));
}

#[tokio::test]
async fn a_request_that_takes_long_holds_up_no_other() {
    let served = serve();
    let (client, _, _events) = connect(&served).await;
    let slow = client.clone();
    let slow = tokio::spawn(async move {
        slow.call(&Request::Ids {
            after: None,
            limit: 1,
        })
        .await
    });
    assert!(matches!(
        client.call(&users()).await,
        Ok(Reply::Users { .. })
    ));
    served.stop.send_replace(true);
    assert!(matches!(slow.await.unwrap(), Err(CallError::Lost)));
    client.closed().await;
    served.serving.await.unwrap();
    assert!(!served.path.exists());
}

#[tokio::test]
async fn an_unknown_request_is_answered_with_an_error_and_the_connection_goes_on() {
    let served = serve();
    let mut raw = Raw::greeted(&served).await;
    raw.send(br#"{"kind":"request","id":7,"body":{"type":"from_the_future","x":1}}"#)
        .await;
    raw.send(br#"{"kind":"request","id":8,"body":{"type":"users","authority":{"as":"owner"},"unknown field":1}}"#).await;
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let document = raw.receive().await.unwrap();
        if !document.contains(r#""kind":"event""#) {
            answers.push(document);
        }
    }
    answers.sort();
    assert!(
        answers
            .iter()
            .any(|a| a.contains(r#""kind":"refusal","id":7"#) && a.contains("unsupported")),
        "{answers:?}"
    );
    assert!(
        answers
            .iter()
            .any(|a| a.contains(r#""kind":"reply","id":8"#)),
        "{answers:?}"
    );
}

#[tokio::test]
async fn rubbish_costs_its_sender_the_connection_and_nobody_else_anything() {
    let served = serve();
    let (client, _, _events) = connect(&served).await;
    for rubbish in [
        &b"\xff\xff\xff\xff"[..],
        b"\x00\x00\x00\x03abc",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&served).await;
        raw.0.write_all(rubbish).await.unwrap();
        while raw.receive().await.is_some() {}
        let mut raw = Raw::greeted(&served).await;
        raw.0.write_all(rubbish).await.unwrap();
        while raw.receive().await.is_some() {}
    }
    // Half a frame, and silence: the peer waits for the rest, others do not.
    let mut half = Raw::greeted(&served).await;
    half.0.write_all(b"\x00\x00\x01\x00{").await.unwrap();
    assert!(matches!(
        client.call(&users()).await,
        Ok(Reply::Users { .. })
    ));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_in_words() {
    let served = serve();
    let mut raw = Raw::connect(&served).await;
    raw.send(br#"{"protocol":2,"role":"node","name":"n","pid":1}"#)
        .await;
    assert!(raw.receive().await.unwrap().contains(r#""protocol":1"#));
    assert!(raw.receive().await.is_none());
}

#[tokio::test]
async fn nobody_there_is_told_from_other_trouble() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let me = Hello::new(Role::Node, "n");
    let result = Client::<BlitzLink>::connect(&path, &me).await;
    assert!(matches!(result, Err(ConnectError::Nobody { .. })));
    // A stale file counts as nobody, and the next listener takes its place.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let result = Client::<BlitzLink>::connect(&path, &me).await;
    assert!(matches!(result, Err(ConnectError::Nobody { .. })));
    let listener = Listener::bind(&path, &[]).unwrap();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(listener.serve::<BlitzLink, _>(
        Hello::new(Role::Blitz, "b"),
        Arc::new(Answers),
        stopped,
    ));
    let connected = tokio::time::timeout(
        Duration::from_secs(5),
        Client::<BlitzLink>::connect(&path, &me),
    )
    .await;
    assert!(connected.unwrap().is_ok());
}

#[test]
fn messages_of_every_link_survive_the_wire() {
    use super::message::{client, node};
    // What nests in one another must not hide the other's tag.
    let inner = message::blitz::Reply::Users { users: Vec::new() };
    let node = node::Reply::Blitz {
        reply: Box::new(inner.clone()),
    };
    let text = serde_json::to_string(&node).unwrap();
    assert!(
        matches!(serde_json::from_str(&text), Ok(node::Reply::Blitz { .. })),
        "{text}"
    );
    let client = client::Reply::Blitz {
        reply: Box::new(inner),
    };
    let text = serde_json::to_string(&client).unwrap();
    assert!(
        matches!(serde_json::from_str(&text), Ok(client::Reply::Blitz { .. })),
        "{text}"
    );
    let create = r#"{"type":"create","user":"u","password":"p"}"#;
    assert!(matches!(
        serde_json::from_str(create),
        Ok(Request::Create(_))
    ));
}

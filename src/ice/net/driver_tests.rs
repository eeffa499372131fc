//! Connections over a pipe in memory, with a clock that only moves when everything waits.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{DuplexStream, duplex};
use tokio::sync::Notify;

use super::super::connection::About;
use super::super::dispatch::{Incoming, Responder, Served};
use super::super::{Acm, Call, Heartbeat, IdleClose, InvokeError};
use super::*;
use crate::ice::{
    Encapsulation, Encoding, HEADER, Header, Identity, Missing, Mode, Outcome, Proxy, Reference,
    Reply, Request, Target,
};

const SECOND: Duration = Duration::from_secs(1);

/// Answers `echo` at once, `slow` when it is let, `panic` not at all; counts what it begins and lists what it is told.
#[derive(Default)]
struct Demo {
    begun: AtomicUsize,
    told: std::sync::Mutex<Vec<String>>,
    go: Arc<Notify>,
}

impl Dispatcher for Demo {
    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        self.begun.fetch_add(1, Ordering::Relaxed);
        match incoming.target().operation {
            "echo" => responder.done(|writer| writer.put(incoming.request.params.bytes)),
            "slow" => {
                let (go, body) = (self.go.clone(), incoming.body());
                responder.later(async move {
                    go.notified().await;
                    Answer::Done {
                        encoding: [1, 1],
                        body,
                    }
                })
            }
            "tell" => {
                let body = incoming.request.params.bytes;
                let text = String::from_utf8_lossy(body).into_owned();
                self.told.lock().unwrap().push(text);
                responder.done(|_| {})
            }
            "panic" => panic!("as it is told"),
            "panic later" => responder.later(async { panic!("as it is told") }),
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// The other end of a connection.
struct Peer {
    stream: DuplexStream,
    connection: Connection,
    demo: Arc<Demo>,
    tasks: JoinSet<()>,
}

/// Makes a connection whose pipe holds so many bytes.
fn connect(side: Side, settings: Settings, room: usize) -> Peer {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let about = About {
        id: About::next_id(),
        peer: nowhere,
        local: nowhere,
        encrypted: false,
        compress: false,
    };
    let (stream, inner) = duplex(room);
    let shared = Arc::new(Shared::new(about, Arc::new(settings)));
    let connection = Connection {
        shared: shared.clone(),
    };
    let demo = Arc::new(Demo::default());
    let driver = Driver::new(inner, Life(shared), side, Some(demo.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    Peer {
        stream,
        connection,
        demo,
        tasks,
    }
}

async fn server() -> Peer {
    server_with(Settings::default()).await
}

async fn server_with(settings: Settings) -> Peer {
    let mut peer = connect(Side::Server, settings, 64 * 1024);
    assert_eq!(peer.receive().await, "Validate");
    peer
}

fn client() -> Peer {
    connect(Side::Client, Settings::default(), 64 * 1024)
}

fn request(id: i32, operation: &str, body: &[u8]) -> Vec<u8> {
    let request = Request {
        id,
        target: Target {
            name: "demo",
            category: "",
            facet: "",
            operation,
        },
        mode: Mode::Normal,
        context: Vec::new(),
        params: Encapsulation {
            version: [1, 1],
            bytes: body,
        },
    };
    bytes_of(&Message::Request(request))
}

fn reply(id: i32, body: &[u8]) -> Vec<u8> {
    let outcome = Outcome::Done(Encapsulation {
        version: [1, 1],
        bytes: body,
    });
    bytes_of(&Message::Reply(Reply { id, outcome }))
}

fn bytes_of(message: &Message<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    message.encode(Compression::No, &mut writer);
    writer.into_bytes()
}

fn call(operation: &str) -> Call {
    let proxy = Proxy::new(Identity::new("theirs"), Reference::WellKnown);
    Call::new(&proxy, operation, Mode::Normal)
}

impl Peer {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Returns the next message in a few words, or `end`.
    async fn receive(&mut self) -> String {
        let mut frame = vec![0; HEADER];
        if self.stream.read_exact(&mut frame).await.is_err() {
            return "end".to_owned();
        }
        let head = frame.first_chunk().unwrap();
        let size = Header::parse(head, usize::MAX).unwrap().size;
        frame.resize(size, 0);
        self.stream.read_exact(&mut frame[HEADER..]).await.unwrap();
        match Message::decode(&frame, usize::MAX).unwrap().0 {
            Message::Request(request) => format!("{} {}", request.target.operation, request.id),
            Message::Reply(Reply { id, outcome }) => match outcome {
                Outcome::Done(body) => format!("{id}: {}", String::from_utf8_lossy(body.bytes)),
                Outcome::Missing(what, _) => format!("{id}: {what:?} missing"),
                Outcome::Unknown(status, _) => format!("{id}: status {status}"),
                Outcome::Exception(_) => format!("{id}: exception"),
            },
            Message::Batch(requests) => format!("batch of {}", requests.len()),
            Message::Validate => "Validate".to_owned(),
            Message::Close => "Close".to_owned(),
            Message::Compressed { .. } => "compressed".to_owned(),
        }
    }

    /// Says why the connection ended, once its task has.
    async fn ended(&mut self) -> Ended {
        let why = self.connection.closed().await;
        self.tasks.join_next().await.unwrap().unwrap();
        why
    }

    fn begun(&self) -> usize {
        self.demo.begun.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_one_go_and_oneways_are_not() {
    let mut peer = server().await;
    let all = [
        request(1, "echo", b"one"),
        request(0, "echo", b"nothing"),
        request(0, "panic", b""),
        request(2, "none", b""),
        request(3, "panic", b""),
        request(4, "panic later", b""),
        request(i32::MAX, "echo", b"two"),
    ];
    peer.send(&all.concat()).await;
    for expected in [
        "1: one",
        "2: Operation missing",
        "3: status 7",
        "2147483647: two",
        "4: status 7",
    ] {
        assert_eq!(peer.receive().await, expected);
    }
    // Byte by byte is the same.
    for byte in request(5, "echo", b"bytes") {
        peer.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(peer.receive().await, "5: bytes");
}

#[tokio::test(start_paused = true)]
async fn what_wants_no_answer_is_carried_out_in_order() {
    let mut peer = server().await;
    let oneway = |text: &str| request(0, "tell", text.as_bytes());
    let single = |text: &'static str| match Message::decode(&oneway(text).leak()[..], 1000).unwrap()
    {
        (Message::Request(request), _) => request,
        other => panic!("{other:?}"),
    };
    let batch = bytes_of(&Message::Batch(vec![single("3"), single("4")]));
    peer.send(&[oneway("1"), oneway("2"), batch, oneway("5")].concat())
        .await;
    peer.send(&request(1, "echo", b"")).await;
    assert_eq!(peer.receive().await, "1: ");
    assert_eq!(*peer.demo.told.lock().unwrap(), ["1", "2", "3", "4", "5"]);
    // The other way too.
    peer.connection.oneway(&call("a")).await.unwrap();
    let batch = [call("b"), call("c")];
    peer.connection.batch(&batch).await.unwrap();
    peer.connection.batch(&[]).await.unwrap();
    peer.connection.oneway(&call("d")).await.unwrap();
    for expected in ["a 0", "batch of 2", "d 0"] {
        assert_eq!(peer.receive().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_call_over_one_connection() {
    let mut peer = client();
    let call = call("theirs");
    let asking = peer.connection.clone();
    let asking = tokio::spawn(async move { asking.invoke(&call, None).await });
    assert_eq!(peer.receive().await, "theirs 1");
    // Before the answer comes, a call in the other direction with the same id.
    peer.send(&request(1, "echo", b"ours")).await;
    assert_eq!(peer.receive().await, "1: ours");
    peer.send(&reply(1, b"done")).await;
    let answer = asking.await.unwrap().unwrap();
    let body = Bytes::from_static(b"done");
    assert_eq!(
        answer,
        Answer::Done {
            encoding: [1, 1],
            body
        }
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_keep_to_the_protocol_loses_the_connection() {
    let with = |at: usize, bytes: &[u8]| {
        let mut message = request(1, "echo", b"");
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let mut batch = bytes_of(&Message::Batch(Vec::new()));
    let end = batch.len();
    batch[end - 4..].copy_from_slice(&(-1i32).to_le_bytes());
    let mut bomb = bytes_of(&Message::Compressed {
        kind: 0,
        size: 1_000_000,
        body: b"BZh9",
    });
    bomb.extend([0; 4]);
    let size = i32::try_from(bomb.len()).unwrap();
    bomb[10..14].copy_from_slice(&size.to_le_bytes());
    for (what, bytes) in [
        ("magic", with(0, b"GET ")),
        ("protocol", with(4, &[2])),
        ("encoding", with(6, &[9])),
        ("type", with(8, &[5])),
        ("compression", with(9, &[3])),
        ("size of 0", with(10, &[0, 0, 0, 0])),
        ("negative size", with(10, &[255, 255, 255, 255])),
        ("a gigabyte", with(10, &[0, 0, 0, 0x40])),
        ("a size that cuts", with(10, &[20])),
        ("a negative count", batch),
        ("no bzip2", bomb),
        ("an answer to nothing", reply(7, b"")),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaa".to_vec(),
        ),
    ] {
        let mut peer = server().await;
        peer.send(&bytes).await;
        assert_eq!(peer.receive().await, "end", "{what}");
        let why = peer.ended().await;
        let expected = match what {
            "an answer to nothing" => matches!(why, Ended::UnknownReply(7)),
            "no bzip2" => matches!(why, Ended::Compressed),
            _ => matches!(why, Ended::Protocol(_)),
        };
        assert!(expected, "{what}: {why:?}");
        assert_eq!(peer.begun(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_have_no_answer_and_a_close_may_say_that_compression_is_understood() {
    let mut peer = server().await;
    let heartbeat = bytes_of(&Message::Validate);
    peer.send(&heartbeat.repeat(3)).await;
    peer.send(&request(1, "echo", b"the first answer")).await;
    assert_eq!(peer.receive().await, "1: the first answer");
    // As Ice 3.7 sends it.
    let mut close = bytes_of(&Message::Close);
    close[9] = 1;
    peer.send(&close).await;
    assert_eq!(peer.receive().await, "end");
    assert!(matches!(peer.ended().await, Ended::ByPeer));
}

#[tokio::test(start_paused = true)]
async fn an_id_is_used_again_only_after_its_answer() {
    let mut peer = server().await;
    peer.send(&request(1, "slow", b"a")).await;
    tokio::time::sleep(SECOND).await;
    peer.demo.go.notify_one();
    assert_eq!(peer.receive().await, "1: a");
    peer.send(&request(1, "slow", b"b")).await;
    peer.send(&request(1, "echo", b"c")).await;
    tokio::time::sleep(SECOND).await;
    peer.demo.go.notify_one();
    assert!(matches!(peer.ended().await, Ended::ReusedId(1)));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stops_in_the_middle_ends_the_connection() {
    let begin = Instant::now();
    let mut peer = server().await;
    // Silence between messages is nobody's fault.
    tokio::time::sleep(1000 * SECOND).await;
    peer.send(&request(1, "echo", b"")[..20]).await;
    assert_eq!(peer.receive().await, "end");
    assert!(matches!(peer.ended().await, Ended::Silent));
    assert!(begin.elapsed() < 1070 * SECOND);
    // A byte now and then does not help.
    let mut peer = server().await;
    let long = request(1, "echo", &[0; 10_000]);
    let mut bytes = long.iter();
    while peer.connection.is_open() {
        let byte = *bytes.next().unwrap();
        // It may have ended meanwhile.
        let _ = peer.stream.write_all(&[byte]).await;
        tokio::time::sleep(SECOND).await;
    }
    assert!(matches!(peer.ended().await, Ended::Silent));
    // What is slow and comes is waited for.
    let mut peer = server().await;
    for part in long.chunks(2000) {
        peer.send(part).await;
        tokio::time::sleep(50 * SECOND).await;
    }
    assert!(peer.receive().await.starts_with("1: "));
}

#[tokio::test(start_paused = true)]
async fn who_never_reads_is_bounded_and_dropped() {
    let settings = Settings {
        output_max: 10_000,
        ..Settings::default()
    };
    let mut peer = connect(Side::Server, settings, 1000);
    let message = request(1, "echo", &[0; 500]);
    let begin = Instant::now();
    let mut sent = 0;
    while peer.stream.write_all(&message).await.is_ok() {
        sent += 1;
    }
    assert!(matches!(peer.ended().await, Ended::Unread));
    assert!(begin.elapsed() < 70 * SECOND);
    // What fits into the buffers of either side, and no more.
    assert!(sent < 40, "{sent}");
    assert!(peer.begun() < 25);
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_on_and_on_does_not_keep_others_from_their_turn() {
    let flood = request(0, "echo", b"").repeat(200_000);
    let mut peer = connect(Side::Server, Settings::default(), flood.len());
    assert_eq!(peer.receive().await, "Validate");
    // All of it is there before any of it is read.
    peer.send(&flood).await;
    let mut turns = 0;
    while peer.begun() < 200_000 {
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns > flood.len() / SHARE / 2, "{turns}");
}

#[tokio::test(start_paused = true)]
async fn who_calls_waits_while_the_other_side_does_not_read() {
    let settings = Settings {
        output_max: 1000,
        ..Settings::default()
    };
    let mut peer = connect(Side::Client, settings, 500);
    let connection = peer.connection.clone();
    let calls = tokio::spawn(async move {
        for _ in 0..100 {
            connection.oneway(&call("told")).await.unwrap();
        }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!calls.is_finished());
    for _ in 0..100 {
        assert_eq!(peer.receive().await, "told 0");
    }
    calls.await.unwrap();
    let huge = call("told").with(|writer| writer.put(&[0; 2 * 1024 * 1024]));
    let error = peer.connection.oneway(&huge).await.unwrap_err();
    assert!(matches!(error, InvokeError::TooLarge { .. }));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bound_wait_to_be_read() {
    let settings = Settings {
        dispatch_max: 4,
        ..Settings::default()
    };
    let mut peer = server_with(settings).await;
    for id in 1..=10 {
        peer.send(&request(id, "slow", b"")).await;
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(peer.begun(), 4);
    for done in 1..=10 {
        peer.demo.go.notify_one();
        assert!(peer.receive().await.ends_with(": "));
        tokio::time::sleep(SECOND).await;
        assert_eq!(peer.begun(), (4 + done).min(10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_begun_as_far_as_there_is_room() {
    let settings = Settings {
        dispatch_max: 3,
        ..Settings::default()
    };
    let mut peer = server_with(settings).await;
    let slow = request(0, "slow", b"");
    let (Message::Request(slow), _) = Message::decode(&slow, 1000).unwrap() else {
        panic!("no request");
    };
    let batch = bytes_of(&Message::Batch(vec![slow; 8]));
    peer.send(&batch).await;
    peer.send(&request(1, "echo", b"after")).await;
    // The last is what comes after it.
    for begun in [3, 6, 9] {
        tokio::time::sleep(SECOND).await;
        assert_eq!(peer.begun(), begun);
        for _ in 0..3 {
            peer.demo.go.notify_one();
            tokio::time::sleep(SECOND).await;
        }
    }
    assert_eq!(peer.receive().await, "1: after");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_while_a_request_is_worked_on() {
    let mut peer = server().await;
    peer.send(&request(1, "slow", b"late")).await;
    let begin = Instant::now();
    for count in 1..=5 {
        assert_eq!(peer.receive().await, "Validate");
        let quiet = begin.elapsed();
        assert!(quiet >= 14 * count * SECOND && quiet <= 16 * count * SECOND);
    }
    peer.demo.go.notify_one();
    assert_eq!(peer.receive().await, "1: late");
    // And no longer.
    let more = tokio::time::timeout(1000 * SECOND, peer.receive()).await;
    assert!(more.is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_cared_for_as_they_are_told() {
    let acm = |close, heartbeat| Acm {
        timeout: 40 * SECOND,
        close,
        heartbeat,
    };
    let mut peer = server().await;
    let begin = Instant::now();
    peer.connection
        .set_acm(acm(IdleClose::Off, Heartbeat::Always));
    for _ in 0..4 {
        assert_eq!(peer.receive().await, "Validate");
    }
    assert!(begin.elapsed() >= 70 * SECOND && begin.elapsed() <= 90 * SECOND);
    let begin = Instant::now();
    peer.connection
        .set_acm(acm(IdleClose::OnIdle, Heartbeat::Off));
    assert_eq!(peer.receive().await, "Close");
    assert!(begin.elapsed() <= 41 * SECOND);
    peer.stream.shutdown().await.unwrap();
    assert!(matches!(peer.ended().await, Ended::ByUs));
    // By force, though requests are worked on.
    let mut peer = server().await;
    peer.connection
        .set_acm(acm(IdleClose::Forceful, Heartbeat::Off));
    peer.send(&request(1, "slow", b"")).await;
    assert_eq!(peer.receive().await, "end");
    peer.demo.go.notify_one();
    assert!(matches!(peer.ended().await, Ended::Unheard));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_lost_when_nothing_is_heard_and_waits_while_there_are_heartbeats() {
    let mut peer = client();
    let connection = peer.connection.clone();
    let begin = Instant::now();
    let calling = tokio::spawn(async move { connection.invoke(&call("slow"), None).await });
    assert_eq!(peer.receive().await, "slow 1");
    for _ in 0..10 {
        tokio::time::sleep(30 * SECOND).await;
        peer.send(&bytes_of(&Message::Validate)).await;
    }
    let error = calling.await.unwrap().unwrap_err();
    assert!(
        matches!(error, InvokeError::Lost(Ended::Unheard)),
        "{error:?}"
    );
    assert!(begin.elapsed() >= 359 * SECOND && begin.elapsed() < 362 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_to_a_call_given_up_is_no_answer_to_nothing() {
    let mut peer = client();
    let late = peer.connection.invoke(&call("slow"), Some(SECOND)).await;
    assert!(matches!(late, Err(InvokeError::Timeout)));
    assert_eq!(peer.receive().await, "slow 1");
    peer.send(&reply(1, b"")).await;
    tokio::time::sleep(SECOND).await;
    assert!(peer.connection.is_open());
    peer.send(&reply(1, b"")).await;
    assert!(matches!(peer.ended().await, Ended::UnknownReply(1)));
}

#[tokio::test(start_paused = true)]
async fn closing_answers_what_is_under_way_and_nothing_else() {
    let mut peer = server().await;
    peer.send(&request(1, "slow", b"last")).await;
    tokio::time::sleep(SECOND).await;
    peer.connection.begin_close();
    tokio::time::sleep(SECOND).await;
    peer.send(&request(2, "echo", b"too late")).await;
    tokio::time::sleep(SECOND).await;
    let refused = peer.connection.oneway(&call("x")).await.unwrap_err();
    assert!(refused.was_not_done());
    peer.demo.go.notify_one();
    assert_eq!(peer.receive().await, "1: last");
    assert_eq!(peer.receive().await, "Close");
    assert_eq!(peer.begun(), 1);
    peer.stream.shutdown().await.unwrap();
    assert!(matches!(peer.ended().await, Ended::ByUs));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_close_is_cut_off() {
    let mut peer = server().await;
    let begin = Instant::now();
    peer.connection.close().await;
    assert!(begin.elapsed() >= 10 * SECOND && begin.elapsed() < 11 * SECOND);
    assert!(matches!(peer.ended().await, Ended::Unclosed));
}

#[tokio::test(start_paused = true)]
async fn calls_end_with_their_connection_and_say_whether_they_were_done() {
    for (bytes, not_done) in [(bytes_of(&Message::Close), true), (Vec::new(), false)] {
        let mut peer = client();
        let connection = peer.connection.clone();
        let calling = tokio::spawn(async move { connection.invoke(&call("x"), None).await });
        assert_eq!(peer.receive().await, "x 1");
        peer.send(&bytes).await;
        peer.stream.shutdown().await.unwrap();
        let error = calling.await.unwrap().unwrap_err();
        assert_eq!(error.was_not_done(), not_done, "{error:?}");
        let after = peer.connection.invoke(&call("y"), None).await;
        assert!(after.unwrap_err().was_not_done());
    }
    // One whose task is gone does not leave anybody waiting.
    let mut peer = client();
    let connection = peer.connection.clone();
    let calling = tokio::spawn(async move { connection.invoke(&call("x"), None).await });
    assert_eq!(peer.receive().await, "x 1");
    peer.tasks.abort_all();
    assert!(calling.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gives_its_buffers_back() {
    let mut peer = server().await;
    for id in 1..20 {
        peer.send(&request(id, "echo", &[7; 30_000])).await;
        assert!(peer.receive().await.len() > 30_000);
    }
    // Nothing to see from here but that it goes on.
    tokio::time::sleep(60 * SECOND).await;
    peer.send(&request(1, "echo", b"again")).await;
    assert_eq!(peer.receive().await, "1: again");
}

#[tokio::test(start_paused = true)]
async fn an_encoding_that_is_not_known_is_seen_by_who_passes_on() {
    let mut message = request(1, "echo", b"x");
    let at = message.len() - 3;
    message[at..at + 2].copy_from_slice(&[3, 0]);
    let mut peer = server().await;
    peer.send(&message).await;
    assert_eq!(peer.receive().await, "1: x");
    assert!(Encoding::of(3, 0).is_err());
}

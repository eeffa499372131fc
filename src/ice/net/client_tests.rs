use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use tokio::sync::watch;

use super::super::{Adapter, Incoming, Responder, Servant, Servants, Served};
use super::*;
use crate::ice::{Encode as _, Encoding, Identity, Writer};

/// A process: an adapter with objects, in tasks of the test.
struct Process {
    endpoints: Vec<Endpoint>,
    servants: Arc<Servants>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Process {
    async fn start() -> Self {
        let proxy: Proxy = "x:tcp -h 127.0.0.1 -p 0".parse().unwrap();
        let Reference::Direct(endpoints) = &proxy.reference else {
            panic!("{proxy}");
        };
        let servants = Arc::new(Servants::new());
        let settings = Arc::new(Settings::default());
        let adapter = Adapter::bind(endpoints, settings, servants.clone())
            .await
            .unwrap();
        let endpoints = adapter.endpoints().to_vec();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(adapter.serve(stopped));
        Self {
            endpoints,
            servants,
            stop,
            tasks,
        }
    }

    fn proxy(&self, name: &str) -> Proxy {
        Proxy::new(
            Identity::new(name),
            Reference::Direct(self.endpoints.clone()),
        )
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Ends without a word.
    async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Says how often it was called.
#[derive(Default)]
struct Counter(AtomicI32);

impl Servant for Counter {
    fn types(&self) -> &[&str] {
        &["::Demo::Counter", "::Demo::Base"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        match incoming.target().operation {
            "count" => responder.done(|writer| writer.int(count)),
            "hang" => responder.later(std::future::pending()),
            _ => responder.missing(Missing::Operation),
        }
    }
}

/// Knows one place, and counts who asks.
#[derive(Default)]
struct Locator {
    place: Mutex<Option<Proxy>>,
    asked: AtomicUsize,
}

impl Servant for Locator {
    fn types(&self) -> &[&str] {
        &["::Ice::Locator"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let place = lock(&self.place).clone();
        let encoding = responder.encoding();
        assert!(incoming.target().operation.ends_with("ById"));
        responder.later(async move {
            tokio::task::yield_now().await;
            Answer::done(encoding, |writer| place.encode(writer))
        })
    }
}

fn settings(locator: &Process) -> ClientSettings {
    ClientSettings {
        locator: Some(locator.proxy("locator")),
        ..ClientSettings::default()
    }
}

async fn count(client: &Client, proxy: &Proxy) -> Result<i32, InvokeError> {
    let call = Call::new(proxy, "count", Mode::Idempotent);
    let answer = client
        .invoke(proxy, &call, Some(Duration::from_secs(20)))
        .await?;
    match answer.reader() {
        Some(reader) => Ok(reader.unwrap().int().unwrap()),
        None => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn what_can_be_asked_of_every_object_is_answered() {
    let process = Process::start().await;
    let identity = Identity::new("counter");
    let servant: Arc<Counter> = Arc::default();
    assert!(
        process
            .servants
            .add(&identity, "", servant.clone())
            .is_none()
    );
    let client = Client::new(ClientSettings::default());
    let proxy = process.proxy("counter");
    let ask = async |proxy: &Proxy, operation: &str, params: &[u8]| {
        let call = Call::new(proxy, operation, Mode::Nonmutating);
        let call = call.with(|writer| writer.put(params));
        client.invoke(proxy, &call, None).await.unwrap()
    };
    let done = |fill: &dyn Fn(&mut Writer)| Answer::done(Encoding::V11, fill);
    assert_eq!(ask(&proxy, "ice_ping", b"").await, done(&|_| {}));
    for (types, is) in [("::Demo::Base", 1), ("::Ice::Object", 1), ("::Demo::X", 0)] {
        let mut params = Writer::default();
        params.text(types);
        let answer = ask(&proxy, "ice_isA", params.bytes()).await;
        assert_eq!(answer, done(&|writer| writer.byte(is)));
    }
    let id = ask(&proxy, "ice_id", b"").await;
    assert_eq!(id, done(&|writer| writer.text("::Demo::Counter")));
    let ids = ask(&proxy, "ice_ids", b"").await;
    let sorted = vec!["::Demo::Base", "::Demo::Counter", "::Ice::Object"];
    assert_eq!(ids, done(&|writer| sorted.encode(writer)));
    // Parameters that are none, and encodings that are not known.
    let wrong = ask(&proxy, "ice_isA", &[9]).await;
    assert!(matches!(wrong, Answer::Unknown(5, _)), "{wrong:?}");
    let strange = Proxy {
        encoding: [2, 0],
        ..proxy.clone()
    };
    let wrong = ask(&strange, "ice_ping", b"").await;
    assert!(matches!(wrong, Answer::Unknown(5, _)), "{wrong:?}");
    for (name, facet, expected) in [
        ("counter", "x", Missing::Facet),
        ("nobody", "", Missing::Object),
    ] {
        let proxy = Proxy {
            facet: facet.to_owned(),
            ..process.proxy(name)
        };
        match ask(&proxy, "ice_ping", b"").await {
            Answer::Missing { what, .. } => assert_eq!(what, expected),
            other => panic!("{other:?}"),
        }
    }
    // A stand-in takes what is not there.
    process.servants.set_default("", servant);
    ask(&process.proxy("nobody"), "ice_ping", b"").await;
    assert!(process.servants.remove(&identity, "").is_some());
    assert!(process.servants.remove(&identity, "").is_none());
    client.close().await;
    assert!(count(&client, &proxy).await.unwrap_err().was_not_done());
    process.stop().await;
}

#[tokio::test]
async fn a_place_is_asked_for_once_and_again_when_nobody_is_there() {
    let (registry, first) = (Process::start().await, Process::start().await);
    let locator: Arc<Locator> = Arc::default();
    registry
        .servants
        .add(&Identity::new("locator"), "", locator.clone());
    first
        .servants
        .add(&Identity::new("counter"), "", Arc::new(Counter::default()));
    *lock(&locator.place) = Some(first.proxy("dummy"));
    let client = Client::new(settings(&registry));
    let proxy: Proxy = "counter @ Adapter".parse().unwrap();
    // Many who ask at once ask once.
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (client, proxy) = (client.clone(), proxy.clone());
        calls.spawn(async move { count(&client, &proxy).await.unwrap() });
    }
    let mut counts = calls.join_all().await;
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<i32>>());
    assert_eq!(locator.asked.load(Ordering::Relaxed), 1);
    // Known and not active.
    *lock(&locator.place) = None;
    client.inner.locator.forget(&proxy);
    let error = count(&client, &proxy).await.unwrap_err();
    assert!(matches!(error, InvokeError::NoAdapter(_)), "{error:?}");
    let unknown: Proxy = "counter".parse().unwrap();
    let error = count(&client, &unknown).await.unwrap_err();
    assert!(matches!(error, InvokeError::NoObject(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_moved_is_found_by_the_call_that_misses_it() {
    let registry = Process::start().await;
    let locator: Arc<Locator> = Arc::default();
    registry
        .servants
        .add(&Identity::new("locator"), "", locator.clone());
    let client = Client::new(settings(&registry));
    let proxy: Proxy = "counter @ Adapter".parse().unwrap();
    let mut old: Option<Process> = None;
    for round in 0..4 {
        let process = Process::start().await;
        process
            .servants
            .add(&Identity::new("counter"), "", Arc::new(Counter::default()));
        *lock(&locator.place) = Some(process.proxy("dummy"));
        match old.take() {
            Some(old) if round % 2 == 0 => old.kill().await,
            Some(old) => old.stop().await,
            None => {}
        }
        // Whatever the client has noticed of the end by now.
        assert_eq!(count(&client, &proxy).await.unwrap(), 1);
        assert_eq!(count(&client, &proxy).await.unwrap(), 2);
        assert_eq!(locator.asked.load(Ordering::Relaxed), round + 1);
        old = Some(process);
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_done_is_not_made_again() {
    let process = Process::start().await;
    let servant: Arc<Counter> = Arc::default();
    process
        .servants
        .add(&Identity::new("counter"), "", servant.clone());
    let client = Client::new(ClientSettings::default());
    let proxy = process.proxy("counter");
    let hang = Call::new(&proxy, "hang", Mode::Normal);
    let calling = {
        let (client, proxy) = (client.clone(), proxy.clone());
        tokio::spawn(async move { client.invoke(&proxy, &hang, None).await })
    };
    while servant.0.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    process.kill().await;
    let error = calling.await.unwrap().unwrap_err();
    assert!(matches!(error, InvokeError::Lost(_)), "{error:?}");
    // Nobody listens there any more.
    let error = count(&client, &proxy).await.unwrap_err();
    assert!(matches!(error, InvokeError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn endpoints_are_tried_until_one_answers() {
    let process = Process::start().await;
    process
        .servants
        .add(&Identity::new("counter"), "", Arc::new(Counter::default()));
    let dead = Process::start().await;
    let mut endpoints = dead.endpoints.clone();
    dead.kill().await;
    endpoints.extend(
        "x:udp -h h -p 1"
            .parse::<Proxy>()
            .map(|proxy| match proxy.reference {
                Reference::Direct(endpoints) => endpoints,
                other => panic!("{other:?}"),
            })
            .unwrap(),
    );
    endpoints.extend(process.endpoints.clone());
    let proxy = Proxy::new(Identity::new("counter"), Reference::Direct(endpoints));
    for ordered in [true, false] {
        let client = Client::new(ClientSettings {
            ordered,
            ..ClientSettings::default()
        });
        assert!(count(&client, &proxy).await.is_ok());
        let secure = Proxy {
            secure: true,
            ..proxy.clone()
        };
        let error = count(&client, &secure).await.unwrap_err();
        assert!(matches!(error, InvokeError::NoEndpoint(_)), "{error:?}");
        // Without an answer.
        let oneway = Proxy {
            mode: ProxyMode::Oneway,
            ..proxy.clone()
        };
        let call = Call::new(&oneway, "count", Mode::Normal);
        let answer = client.invoke(&oneway, &call, None).await.unwrap();
        assert_eq!(answer, Answer::done(Encoding::V11, |_| {}));
    }
}

#[tokio::test]
async fn nothing_is_said_before_the_greeting_which_is_waited_for_as_the_endpoint_says() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // In milliseconds.
    let proxy: Proxy = format!("x:tcp -h 127.0.0.1 -p {port} -t 300")
        .parse()
        .unwrap();
    let client = Client::new(ClientSettings::default());
    let begin = std::time::Instant::now();
    let call = Call::new(&proxy, "ice_ping", Mode::Normal);
    let (answer, accepted) = tokio::join!(client.invoke(&proxy, &call, None), listener.accept());
    assert!(answer.unwrap_err().was_not_done());
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(30));
    let mut heard = Vec::new();
    let (mut stream, _) = accepted.unwrap();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"");
}

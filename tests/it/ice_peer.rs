//! ZeroC's Ice on the other side: a Python server that we call, a Python client that calls us, over TCP and TLS, compressed and not.
//!
//! Skipped, and said so, where Debian's python3-zeroc-ice is not installed, unless `OMERO_GRID_REQUIRE_PEERS=1`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use omero_grid::ice::net::{
    Answer, Call, Client, ClientSettings, Ended, Incoming, InvokeError, Responder, Servant,
    Servants, Served, Settings, Tls, TlsSettings,
};
use omero_grid::ice::{
    Encode as _, Endpoint, Identity, Missing, Mode, Proxy, ProxyMode, Reference,
};

use crate::harness::{example, pause};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: Option<Duration> = Some(PATIENCE);
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/peers");

/// A program that is told to end by the end of its standard input, and does not outlive this value.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = to.send(line);
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the program said nothing")
    }

    /// Says a line to it and returns its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        let stdin = self.stdin.as_mut().expect("it has not been ended");
        writeln!(stdin, "{line}").unwrap();
        self.line()
    }

    /// Has it end, and waits for that.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        self.stdin = None;
        let limit = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < limit, "the program does not end");
            pause(Duration::from_millis(10));
        }
        assert!(self.child.wait().unwrap().success());
    }

    /// Returns how much memory it has, in bytes.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let words = line.unwrap().split_ascii_whitespace().nth(1);
        words.unwrap().parse::<usize>().unwrap() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a program of Debian's works; one that is required has to.
pub(crate) fn has(program: &str, args: &[&str]) -> bool {
    let run = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let works = run.is_ok_and(|done| done.status.success());
    if !works {
        let required = std::env::var("OMERO_GRID_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "{program} {args:?} does not work");
        println!("skipped: {program} {args:?} does not work");
    }
    works
}

fn has_ice() -> bool {
    has("/usr/bin/python3", &["-c", "import Ice"])
}

fn python(script: &str, args: &[&str]) -> Program {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(format!("{FOLDER}/{script}"))
        .arg(format!("{FOLDER}/Demo.ice"))
        .args(args);
    Program::start(&mut command)
}

/// Starts our server; its first line is its proxy.
fn ours(args: &[&str]) -> (Program, String) {
    let program = Program::start(Command::new(example("ice_echo")).args(args));
    let proxy = program.line();
    (program, proxy)
}

/// A certificate in each form that OMERO's configurations name, made by OpenSSL.
fn certificates(dir: &Path) -> bool {
    if !has("openssl", &["version"]) {
        return false;
    }
    let run = |args: &[&str]| {
        let mut command = Command::new("openssl");
        let done = command.args(args).current_dir(dir).output().unwrap();
        assert!(done.status.success(), "openssl {args:?}: {done:?}");
    };
    let subject = "/CN=omero.example";
    run(&[
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
        "-subj", subject, "-days", "2",
    ]);
    let export = [
        "pkcs12",
        "-export",
        "-inkey",
        "key.pem",
        "-in",
        "cert.pem",
        "-passout",
        "pass:secret",
        "-out",
    ];
    run(&[&export[..], &["new.p12"]].concat());
    run(&[&export[..], &["old.p12", "-legacy"]].concat());
    true
}

fn tls(dir: &Path, properties: &[&str]) -> Arc<Settings> {
    let get = |name: &str| {
        let mut all = properties.iter();
        all.find_map(|property| property.strip_prefix(&format!("--{name}=")))
            .map(str::to_owned)
    };
    let settings = TlsSettings {
        dir: Some(dir.to_owned()),
        ..TlsSettings::of(get).unwrap()
    };
    Arc::new(Settings {
        tls: Tls::new(&settings).unwrap(),
        ..Settings::default()
    })
}

/// Hears what it is told.
#[derive(Default)]
struct Sink(Mutex<Vec<String>>);

impl Servant for Sink {
    fn types(&self) -> &[&str] {
        &["::Demo::Sink"]
    }

    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        if incoming.target().operation != "tell" {
            return responder.missing(Missing::Operation);
        }
        match incoming.params().and_then(|mut params| params.text()) {
            Ok(text) => {
                self.0.lock().unwrap().push(text.to_owned());
                responder.done(|_| {})
            }
            Err(error) => responder.malformed(&error),
        }
    }
}

async fn ask(client: &Client, proxy: &Proxy, operation: &str, text: &str) -> Answer {
    // A server of ZeroC's refuses what it does not have as the caller says.
    let mode = match operation {
        "say" => Mode::Idempotent,
        _ => Mode::Normal,
    };
    let call = Call::new(proxy, operation, mode).with(|writer| writer.text(text));
    client.invoke(proxy, &call, LIMIT).await.unwrap()
}

fn text_of(answer: &Answer) -> String {
    match answer {
        Answer::Done { .. } => {
            let mut reader = answer.reader().unwrap().unwrap();
            let text = reader.text().unwrap().to_owned();
            reader.finish().unwrap();
            text
        }
        other => panic!("{other:?}"),
    }
}

/// Calls everything that a server of `Demo.ice` has.
async fn call_all(settings: Arc<Settings>, proxy: &str) -> Client {
    let client = Client::new(ClientSettings {
        connections: settings,
        ..ClientSettings::default()
    });
    let echo: Proxy = proxy.parse().unwrap();
    let long = "ab".repeat(200_000);
    for text in ["", "hällö", &long] {
        for encoding in [[1, 1], [1, 0]] {
            let echo = Proxy {
                encoding,
                ..echo.clone()
            };
            let answer = ask(&client, &echo, "say", text).await;
            assert_eq!(text_of(&answer), text);
        }
    }
    match ask(&client, &echo, "fail", "because").await {
        Answer::Exception { body, .. } => {
            assert_eq!(&body[..], b"\x20\x0f::Demo::Refused\x07because");
        }
        other => panic!("{other:?}"),
    }
    let facet = Proxy {
        facet: "f".to_owned(),
        ..echo.clone()
    };
    let nobody = Proxy {
        identity: "no/body".parse().unwrap(),
        ..echo.clone()
    };
    for (proxy, operation, expected) in [
        (&facet, "say", Missing::Facet),
        (&nobody, "say", Missing::Object),
        (&echo, "tell", Missing::Operation),
    ] {
        match ask(&client, proxy, operation, "x").await {
            Answer::Missing { what, identity, .. } => {
                assert_eq!((what, identity), (expected, proxy.identity.clone()))
            }
            other => panic!("{other:?}"),
        }
    }
    let oneway = Proxy {
        mode: ProxyMode::Oneway,
        ..echo.clone()
    };
    for number in 0..20 {
        ask(&client, &oneway, "log", &format!("{number} ")).await;
    }
    let connection = client.connection(&echo).await.unwrap();
    let log = |number: i32| {
        Call::new(&echo, "log", Mode::Normal).with(|writer| writer.text(&format!("{number} ")))
    };
    let batch: Vec<Call> = (20..40).map(log).collect();
    connection.batch(&batch).await.unwrap();
    let expected: String = (0..40).map(|number| format!("{number} ")).collect();
    let limit = Instant::now() + PATIENCE;
    loop {
        let call = Call::new(&echo, "logged", Mode::Idempotent);
        let logged = text_of(&client.invoke(&echo, &call, LIMIT).await.unwrap());
        // What wants no answer may be overtaken by what does.
        if logged.len() < expected.len() && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        assert_eq!(logged, expected);
        break;
    }
    // Several at once.
    let begin = Instant::now();
    let mut sleeps = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, echo) = (client.clone(), echo.clone());
        sleeps.spawn(async move {
            let call = Call::new(&echo, "sleep", Mode::Normal).with(|writer| writer.int(500));
            client.invoke(&echo, &call, LIMIT).await.unwrap()
        });
    }
    let asked_late = Call::new(&echo, "sleep", Mode::Normal).with(|writer| writer.int(3000));
    let short = Some(Duration::from_millis(100));
    let late = client.invoke(&echo, &asked_late, short).await;
    assert!(matches!(late, Err(InvokeError::Timeout)), "{late:?}");
    assert_eq!(sleeps.join_all().await.len(), 4);
    assert!(begin.elapsed() < Duration::from_millis(1900));
    // Called back over the same connection.
    let (servants, sink) = (Arc::new(Servants::new()), Arc::new(Sink::default()));
    let identity = Identity::new("sink");
    servants.add(&identity, "", sink.clone());
    connection.set_dispatcher(servants);
    let back = Some(Proxy::new(identity, Reference::WellKnown));
    let call = Call::new(&echo, "callMe", Mode::Normal).with(|writer| {
        back.encode(writer);
        writer.int(3);
    });
    let answer = client.invoke(&echo, &call, LIMIT).await.unwrap();
    assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    assert_eq!(*sink.0.lock().unwrap(), ["call 0", "call 1", "call 2"]);
    client
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_server_of_zeroc_answers_us() {
    if !has_ice() {
        return;
    }
    for endpoint in ["tcp -h 127.0.0.1", "tcp -h 127.0.0.1 -z"] {
        let mut server = python("server.py", &[endpoint]);
        let proxy = server.line();
        block_on(async {
            let client = call_all(Arc::default(), &proxy).await;
            // It closes in good order when it ends.
            let connection = client.connection(&proxy.parse().unwrap()).await.unwrap();
            server.stdin = None;
            let why = connection.closed().await;
            assert!(matches!(why, Ended::ByPeer), "{why:?}");
        });
        server.end();
    }
}

#[test]
fn a_server_of_zeroc_answers_us_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    if !has_ice() || !certificates(dir.path()) {
        return;
    }
    let plugin = "--Ice.Plugin.IceSSL=IceSSL:createIceSSL";
    let folder = format!("--IceSSL.DefaultDir={}", dir.path().display());
    let server = python(
        "server.py",
        &[
            "ssl -h 127.0.0.1",
            plugin,
            &folder,
            "--IceSSL.CertFile=cert.pem",
            "--IceSSL.KeyFile=key.pem",
            "--IceSSL.VerifyPeer=0",
        ],
    );
    let proxy = server.line();
    block_on(async {
        for properties in [
            &["--IceSSL.VerifyPeer=0"][..],
            &["--IceSSL.VerifyPeer=0", "--IceSSL.Protocols=TLS1_2"],
            &["--IceSSL.CAs=cert.pem"],
        ] {
            let client = Client::new(ClientSettings {
                connections: tls(dir.path(), properties),
                ..ClientSettings::default()
            });
            let echo: Proxy = proxy.parse().unwrap();
            let answer = ask(&client, &echo, "say", "over TLS").await;
            assert_eq!(text_of(&answer), "over TLS");
            let connection = client.connection(&echo).await.unwrap();
            assert!(connection.is_encrypted());
            client.close().await;
            assert!(matches!(connection.closed().await, Ended::ByUs));
        }
        call_all(tls(dir.path(), &["--IceSSL.VerifyPeer=0"]), &proxy).await;
    });
}

#[test]
fn a_client_of_zeroc_calls_us() {
    if !has_ice() {
        return;
    }
    for endpoint in ["tcp -h 127.0.0.1 -p 0", "tcp -h 127.0.0.1 -p 0 -z"] {
        let (mut server, proxy) = ours(&[endpoint]);
        let mut client = python("client.py", &[&proxy, "--wait"]);
        assert_eq!(client.line(), "done tcp");
        // Ours ends while the client is connected: in good order, which is at once, and not after the time limit.
        let begin = Instant::now();
        server.end();
        assert!(begin.elapsed() < Duration::from_secs(5));
        client.end();
    }
}

#[test]
fn a_client_of_zeroc_calls_us_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    if !has_ice() || !certificates(dir.path()) {
        return;
    }
    let folder = format!("--IceSSL.DefaultDir={}", dir.path().display());
    let plugin = "--Ice.Plugin.IceSSL=IceSSL:createIceSSL";
    for (ours_has, theirs) in [
        (
            &["--IceSSL.CertFile=cert.pem", "--IceSSL.KeyFile=key.pem"][..],
            &["--IceSSL.VerifyPeer=0"][..],
        ),
        (
            &["--IceSSL.CertFile=new.p12", "--IceSSL.Password=secret"],
            &["--IceSSL.VerifyPeer=0", "--IceSSL.Protocols=TLS1_2"],
        ),
        (
            &["--IceSSL.CertFile=old.p12", "--IceSSL.Password=secret"],
            &["--IceSSL.VerifyPeer=1", "--IceSSL.CAs=cert.pem"],
        ),
    ] {
        let mut args = vec!["ssl -h 127.0.0.1 -p 0", &folder, "--IceSSL.VerifyPeer=0"];
        args.extend(ours_has);
        let (mut server, proxy) = ours(&args);
        let mut args = vec![&*proxy, plugin, &*folder];
        args.extend(theirs);
        let mut client = python("client.py", &args);
        assert_eq!(client.line(), "done ssl", "{theirs:?}");
        client.end();
        server.end();
    }
}

/// Connects and waits for the greeting.
pub(crate) fn greeted(host: &str, port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((host, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 14];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..9], b"IceP\x01\x00\x01\x00\x03");
    stream
}

pub(crate) fn address(proxy: &str) -> (String, u16) {
    match proxy.parse::<Proxy>().unwrap().reference {
        Reference::Direct(endpoints) => match endpoints.first() {
            Some(Endpoint::Tcp(address)) => {
                (address.host.clone(), u16::try_from(address.port).unwrap())
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn thousands_of_connections_are_held_in_little_memory() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // The server has the same limit from us.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let count = usize::try_from(hard).map_or(3000, |hard| hard.saturating_sub(500).min(3000));
    let (mut server, proxy) = ours(&["tcp -h 127.0.0.1 -p 0"]);
    let (host, port) = address(&proxy);
    let alone = server.memory();
    let mut idle: Vec<TcpStream> = (0..count).map(|_| greeted(&host, port)).collect();
    let each = server.memory().saturating_sub(alone) / count;
    println!("an idle connection takes {each} bytes");
    assert!(each < 20_000, "an idle connection takes {each} bytes");
    // Some claim a megabyte, begin a message, and say nothing more.
    let mut begun = b"IceP\x01\x00\x01\x00\x00\x00".to_vec();
    begun.extend((1024i32 * 1024).to_le_bytes());
    for stream in &mut idle {
        stream.write_all(&begun).unwrap();
    }
    // Beside them others are served.
    block_on(async { call_all(Arc::default(), &proxy).await });
    let each = server.memory().saturating_sub(alone) / count;
    assert!(each < 100_000, "who begins a message takes {each} bytes");
    // And it ends, though none of these closes.
    let begin = Instant::now();
    server.end();
    assert!(begin.elapsed() < Duration::from_secs(30));
    drop(idle);
}

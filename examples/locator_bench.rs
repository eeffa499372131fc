//! Measures locators side by side: how many questions a second, how long an answer takes, how much processor time the daemon spends on one.
//!
//!     locator_bench [--seconds SECS] [--adapters NUMBER] [--adapter ID] [--object ID] [--type TYPE] NAME PID LOCATOR [NAME PID LOCATOR]…
//!
//! With `--adapters`, so many adapters register themselves first (`Bench-0`, …), and are taken back at the end; the locators have to allow that
//! (`IceGrid.Registry.DynamicRegistration`). Each case is asked of every locator in turn, so that what else the machine does hits all of them. The client is the same for all; with
//! one outstanding question it is the client that is measured, but for the processor time. Ratios are to the first.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use omero_grid::ice::net::{Answer, Call, Client, ClientSettings, Connection, Settings};
use omero_grid::ice::{Encapsulation, Encode as _, Endpoint, Identity, Mode, Proxy, Reference};
use tokio::task::JoinSet;

struct Target {
    name: String,
    pid: u32,
    locator: Proxy,
}

/// What one case comes to.
struct Figures {
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Processor time of the daemon for each question.
    cpu: Duration,
}

fn usage() -> ExitCode {
    println!(
        "usage: locator_bench [--seconds SECS] [--adapters NUMBER] [--adapter ID] [--object ID] [--type TYPE] NAME PID LOCATOR …"
    );
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let (mut seconds, mut adapters, mut calls, mut targets) = (2, 0, Vec::new(), Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else {
            return usage();
        };
        match word.as_str() {
            "--seconds" => match value.parse() {
                Ok(number) => seconds = number,
                Err(_) => return usage(),
            },
            "--adapters" => match value.parse() {
                Ok(number) => adapters = number,
                Err(_) => return usage(),
            },
            "--adapter" | "--object" | "--type" => calls.push((word, value)),
            _ => {
                let locator = words.next().and_then(|text| text.parse().ok());
                match (value.parse(), locator) {
                    (Ok(pid), Some(locator)) => targets.push(Target {
                        name: word,
                        pid,
                        locator,
                    }),
                    _ => return usage(),
                }
            }
        }
    }
    if calls.is_empty() || targets.is_empty() {
        return usage();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if adapters > 0 {
            for target in &targets {
                match register(target, adapters, true).await {
                    Ok(took) => println!("{}: {adapters} adapters registered in {took:.1?}", target.name),
                    Err(problem) => println!("{}: {problem}", target.name),
                }
            }
        }
        println!("| question | connections | outstanding | locator | per s | p50 | p99 | daemon CPU | CPU ratio | p99 ratio |");
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for (kind, value) in &calls {
            for connections in [1, 8] {
                for outstanding in [1, 8, 64] {
                    let mut first = None;
                    for target in &targets {
                        let call = question(&target.locator, kind, value);
                        let for_so_long = Duration::from_secs(seconds);
                        match measure(target, &call, connections, outstanding, for_so_long).await {
                            Ok(figures) => {
                                let base = first.get_or_insert((figures.cpu, figures.p99));
                                let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64().max(1e-9);
                                println!(
                                    "| {} | {connections} | {outstanding} | {} | {:.0} | {:.0?} | {:.0?} | {:.2?} | {:.2} | {:.2} |",
                                    call.operation,
                                    target.name,
                                    figures.per_second,
                                    figures.p50,
                                    figures.p99,
                                    figures.cpu,
                                    ratio(figures.cpu, base.0),
                                    ratio(figures.p99, base.1),
                                );
                            }
                            Err(problem) => println!("| {} | {connections} | {outstanding} | {} | {problem} |", call.operation, target.name),
                        }
                    }
                }
            }
        }
        if adapters > 0 {
            for target in &targets {
                if let Err(problem) = register(target, adapters, false).await {
                    println!("{}: {problem}", target.name);
                }
            }
        }
    });
    ExitCode::SUCCESS
}

/// How many registrations are under way at the same time.
const AT_ONCE: usize = 64;

/// Has so many adapters registered, or taken back; returns how long that took.
async fn register(target: &Target, number: usize, is_there: bool) -> Result<Duration, String> {
    let client = Client::new(ClientSettings::default());
    let ask = Call::new(&target.locator, "getRegistry", Mode::Nonmutating);
    let answer = client.invoke(&target.locator, &ask, None).await;
    let registry: Option<Proxy> = match answer.map_err(|error| error.to_string())? {
        Answer::Done { encoding, body } => Encapsulation {
            version: encoding,
            bytes: &body,
        }
        .decode()
        .map_err(|error| error.to_string())?,
        other => return Err(format!("answered {other:?}")),
    };
    let registry = registry.ok_or("no registry")?;
    let listens: Proxy = "dummy -t -e 1.1:tcp -h 127.0.0.1 -p 9"
        .parse()
        .map_err(|_| "no proxy")?;
    let proxy = is_there.then_some(listens);
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for first in 0..AT_ONCE.min(number) {
        let (client, registry, proxy) = (client.clone(), registry.clone(), proxy.clone());
        asking.spawn(async move {
            for number in (first..number).step_by(AT_ONCE) {
                let call = Call::new(&registry, "setAdapterDirectProxy", Mode::Idempotent)
                    .with(|writer| (format!("Bench-{number}"), proxy.clone()).encode(writer));
                match client.invoke(&registry, &call, None).await {
                    Ok(Answer::Done { .. }) => {}
                    Ok(other) => return Err(format!("answered {other:?}")),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        });
    }
    while let Some(done) = asking.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(begun.elapsed())
}

fn question(locator: &Proxy, kind: &str, value: &str) -> Call {
    match kind {
        "--adapter" => Call::new(locator, "findAdapterById", Mode::Nonmutating)
            .with(|writer| value.encode(writer)),
        "--object" => Call::new(locator, "findObjectById", Mode::Nonmutating).with(|writer| {
            let identity: Identity = value.parse().expect("an identity");
            identity.encode(writer);
        }),
        _ => {
            let mut query = locator.clone();
            query.identity.name = "Query".to_owned();
            Call::new(&query, "findObjectByType", Mode::Nonmutating)
                .with(|writer| value.encode(writer))
        }
    }
}

async fn measure(
    target: &Target,
    call: &Call,
    connections: usize,
    outstanding: usize,
    for_so_long: Duration,
) -> Result<Figures, String> {
    let endpoint: &Endpoint = match &target.locator.reference {
        Reference::Direct(endpoints) => endpoints.first().ok_or("no endpoint")?,
        _ => return Err("the locator says not where it is".to_owned()),
    };
    let settings = Arc::new(Settings::default());
    let (mut driving, mut open) = (JoinSet::new(), Vec::new());
    for _ in 0..connections {
        let connected = Connection::connect(endpoint, &settings, None).await;
        let (connection, drive) = connected.map_err(|error| error.to_string())?;
        driving.spawn(drive);
        open.push(connection);
    }
    // What is only done once is not measured.
    for connection in &open {
        ask(connection, call).await?;
    }
    let (begun, before) = (Instant::now(), cpu(target.pid)?);
    let mut asking = JoinSet::new();
    for number in 0..outstanding {
        // Fewer questions than connections leave some of them idle.
        let (connection, call) = (open[number % connections].clone(), call.clone());
        asking.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < for_so_long {
                let asked = Instant::now();
                ask(&connection, &call).await?;
                took.push(asked.elapsed());
            }
            Ok::<_, String>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = asking.join_next().await {
        took.extend(done.map_err(|error| error.to_string())??);
    }
    let (elapsed, spent) = (begun.elapsed(), cpu(target.pid)? - before);
    for connection in open {
        connection.close().await;
    }
    driving.shutdown().await;
    took.sort_unstable();
    let count = u32::try_from(took.len()).map_err(|_| "too many")?;
    let at = |share: usize| took.get(took.len() * share / 100).copied();
    Ok(Figures {
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        p50: at(50).unwrap_or_default(),
        p99: at(99).unwrap_or_default(),
        cpu: spent / count.max(1),
    })
}

async fn ask(connection: &Connection, call: &Call) -> Result<(), String> {
    match connection.invoke(call, None).await {
        Ok(Answer::Done { .. }) => Ok(()),
        Ok(other) => Err(format!("answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns the processor time that a process has spent, in all its threads, those that have ended too.
fn cpu(pid: u32) -> Result<Duration, String> {
    let pid = i32::try_from(pid).map_err(|error| error.to_string())?;
    let spent = clock_getcpuclockid(Pid::from_raw(pid)).and_then(|clock| clock.now());
    spent.map(Duration::from).map_err(|error| error.to_string())
}

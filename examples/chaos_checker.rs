//! Looks at what is left of a grid after the chaos test. Shares no code with the grid: it reads the clients' ledgers, the list of sessions
//! that the grid gave, the store by plain SQL, and `/proc`.
//!
//!     chaos_checker DIR running|stopped
//!
//! Exit code 0 if all agree; 1 after a line for each thing that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// What the clients know of a session.
#[derive(Default)]
struct Known {
    client: String,
    server: String,
    /// Its closing was asked for.
    closing: bool,
    closed: bool,
}

/// A row of the store.
struct Row {
    server: String,
    token: Option<String>,
    open: bool,
    reason: Option<String>,
}

#[derive(Default)]
struct Report {
    wrong: Vec<String>,
}

impl Report {
    fn wrong(&mut self, text: String) {
        self.wrong.push(text);
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, phase] = args.as_slice() else {
        panic!("chaos_checker DIR running|stopped");
    };
    let dir = Path::new(dir);
    let mut report = Report::default();
    let (sessions, tokens) = read_ledgers(dir, &mut report);
    let rows = read_store(dir, &mut report);
    compare(&sessions, &tokens, &rows, &mut report);
    match phase.as_str() {
        "running" => compare_list(dir, &rows, &mut report),
        _ => look_for_processes(dir, &mut report),
    }
    for line in &report.wrong {
        println!("WRONG: {line}");
    }
    let open = rows.values().filter(|row| row.open).count();
    println!(
        "{phase}: {} sessions acknowledged, {} rows, {open} open, {} things wrong",
        sessions.len(),
        rows.len(),
        report.wrong.len()
    );
    ExitCode::from(u8::from(!report.wrong.is_empty()))
}

/// Reads what every client was told: sessions by UUID, and every token with what came of it.
fn read_ledgers(
    dir: &Path,
    report: &mut Report,
) -> (BTreeMap<String, Known>, BTreeMap<String, Option<String>>) {
    let mut sessions: BTreeMap<String, Known> = BTreeMap::new();
    let mut tokens: BTreeMap<String, Option<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("ledgers")).expect("ledgers") {
        let path = entry.expect("a ledger").path();
        let client = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&path).expect("a ledger");
        for line in text.lines().filter(|_| client.starts_with("client")) {
            let line: Value = serde_json::from_str(line).expect("a line of a ledger");
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let (op, result, uuid) = (word("op"), word("result"), word("uuid"));
            match (op.as_str(), result.as_str()) {
                ("create", "asked") => drop(tokens.entry(word("token")).or_default()),
                ("create", "ok") => {
                    let before = tokens.insert(word("token"), Some(uuid.clone())).flatten();
                    if before.is_some_and(|before| before != uuid) {
                        report.wrong(format!(
                            "doubled: {client} got two sessions for one token: {line}"
                        ));
                    }
                    let known = Known {
                        client: client.clone(),
                        server: word("server"),
                        ..Known::default()
                    };
                    if sessions.insert(uuid, known).is_some() {
                        report.wrong(format!("doubled: a UUID was given twice: {line}"));
                    }
                }
                ("create", _) => {}
                (op, result) => {
                    let Some(known) = sessions.get_mut(&uuid) else {
                        report.wrong(format!(
                            "{client} used a session that nobody has opened: {line}"
                        ));
                        continue;
                    };
                    match (op, result) {
                        ("close", "asked") => known.closing = true,
                        ("close", "ok") => known.closed = true,
                        ("close", _) => {}
                        (_, "ok") if known.server != word("server") => {
                            report.wrong(format!("moved: it was on {}: {line}", known.server));
                        }
                        (_, "ok") => {}
                        ("final", _) => {
                            report.wrong(format!("lost: {client} cannot join at the end: {line}"))
                        }
                        _ if line["kind"] == "NotFound" => {
                            report.wrong(format!(
                                "lost: {client} was told that its session is not there: {line}"
                            ));
                        }
                        // Refused for now, and said so.
                        _ => {}
                    }
                }
            }
        }
    }
    (sessions, tokens)
}

fn read_store(dir: &Path, report: &mut Report) -> BTreeMap<String, Row> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = Connection::open_with_flags(dir.join("var/grid.db"), flags).expect("the store");
    let verdict: String = store
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a verdict");
    if verdict != "ok" {
        report.wrong(format!("the store is damaged: {verdict}"));
    }
    let mut query = store
        .prepare("SELECT uuid, server, token, closed_ms IS NULL, reason FROM session")
        .expect("the sessions");
    let rows = query.query_map([], |row| {
        let found = Row {
            server: row.get(1)?,
            token: row.get(2)?,
            open: row.get(3)?,
            reason: row.get(4)?,
        };
        Ok((row.get(0)?, found))
    });
    rows.expect("the sessions")
        .collect::<Result<_, _>>()
        .expect("the sessions")
}

fn compare(
    sessions: &BTreeMap<String, Known>,
    tokens: &BTreeMap<String, Option<String>>,
    rows: &BTreeMap<String, Row>,
    report: &mut Report,
) {
    for (uuid, known) in sessions {
        let Known { client, server, .. } = known;
        match rows.get(uuid) {
            None => report.wrong(format!("lost: {uuid} of {client} on {server} has no row")),
            Some(row) if row.open && known.closed => {
                report.wrong(format!(
                    "{uuid} of {client} was closed and is open on {}",
                    row.server
                ));
            }
            Some(row) if !row.open && !known.closing => {
                report.wrong(format!(
                    "lost: {uuid} of {client} on {server} ended by itself: {:?}",
                    row.reason
                ));
            }
            Some(row) if row.server != *server => {
                report.wrong(format!(
                    "moved: {uuid} of {client} from {server} to {}",
                    row.server
                ));
            }
            Some(_) => {}
        }
    }
    let mut open: BTreeMap<&str, &str> = BTreeMap::new();
    for (uuid, row) in rows {
        let Some(token) = &row.token else {
            report.wrong(format!("{uuid} has no token"));
            continue;
        };
        match tokens.get(token) {
            None => report.wrong(format!("{uuid} was opened by nobody (token {token})")),
            Some(Some(told)) if told != uuid => {
                report.wrong(format!(
                    "doubled: token {token} was answered with {told}, and there is {uuid}"
                ));
            }
            Some(_) => {}
        }
        if row.open
            && let Some(other) = open.insert(token, uuid)
        {
            report.wrong(format!(
                "doubled: {uuid} and {other} are open with token {token}"
            ));
        }
    }
}

/// Compares what the grid says is open, and where, with the store.
fn compare_list(dir: &Path, rows: &BTreeMap<String, Row>, report: &mut Report) {
    let text = std::fs::read_to_string(dir.join("sessions.json")).expect("the list");
    let list: Value = serde_json::from_str(&text).expect("the list");
    let said: BTreeSet<(String, String)> = list
        .as_array()
        .expect("the list")
        .iter()
        .map(|session| {
            let word = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
            (word("uuid"), word("server"))
        })
        .collect();
    let stored: BTreeSet<(String, String)> = rows
        .iter()
        .filter(|(_, row)| row.open)
        .map(|(uuid, row)| (uuid.clone(), row.server.clone()))
        .collect();
    for (uuid, server) in stored.difference(&said) {
        report.wrong(format!(
            "{uuid} is open on {server} in the store, and the grid does not have it"
        ));
    }
    for (uuid, server) in said.difference(&stored) {
        report.wrong(format!(
            "the grid has {uuid} on {server}, and the store does not"
        ));
    }
}

/// Looks for processes that have to do with the grid's directory.
fn look_for_processes(dir: &Path, report: &mut Report) {
    let dir = dir.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let read = |name: &str| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let mark = format!("OMERO_GRID_SERVER={dir}/");
        let (environ, command) = (read("environ"), read("cmdline"));
        if environ.contains(&mark) || (command.contains("omero-grid") && command.contains(&dir)) {
            report.wrong(format!("process {pid} is left: {command}"));
        }
    }
}

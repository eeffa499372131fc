//! A server that fails at first and is well later.
//!
//! Usage: `crashes FILE CODE times N` or `crashes FILE CODE seconds N`: exits with CODE the first N times, or until N seconds have
//! passed since the first time. What it has to remember is in FILE.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    // A node appends where the server's properties are.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--Ice.Config="))
        .collect();
    let [file, code, unit, limit] = args.as_slice() else {
        return usage();
    };
    let (Ok(code), Ok(limit)) = (code.parse::<u8>(), limit.parse::<u64>()) else {
        return usage();
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let known = std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let (kept, fails) = match unit.as_str() {
        "times" => {
            let before = known.unwrap_or(0);
            (before + 1, before < limit)
        }
        "seconds" => {
            let first = known.unwrap_or(now);
            (first, now.saturating_sub(first) < limit)
        }
        _ => return usage(),
    };
    if let Err(error) = std::fs::write(file, kept.to_string()) {
        say(&format!("cannot write {file}: {error}"));
        return ExitCode::FAILURE;
    }
    if fails {
        say(&format!("fails with code {code}"));
        return ExitCode::from(code);
    }
    println!("is well");
    loop {
        pause(Duration::from_secs(3600));
    }
}

fn usage() -> ExitCode {
    say("usage: crashes FILE CODE times|seconds N");
    ExitCode::from(2)
}

#[expect(clippy::print_stderr, reason = "a small program that talks to its log")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "waiting is all that this program does"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

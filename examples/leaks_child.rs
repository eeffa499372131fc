//! A server that leaves a grandchild in a session of its own behind.
//!
//! Usage: `leaks_child FILE`: writes the grandchild's pid to FILE. The grandchild is `setsid sleep 3600`.

use std::process::{Command, Stdio};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let file = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "leaked.pid".to_owned());
    // The shell ends at once, so that nobody is left who knows the grandchild.
    let script =
        "setsid sh -c 'echo $$ >\"$0.new\"; mv \"$0.new\" \"$0\"; exec sleep 3600' \"$0\" &";
    Command::new("sh")
        .args(["-c", script, &file])
        .stdin(Stdio::null())
        .status()?;
    println!("leaked a grandchild, see {file}");
    loop {
        pause(Duration::from_secs(3600));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waiting is all that this program does"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

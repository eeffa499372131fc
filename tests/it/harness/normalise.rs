//! Output without what differs from run to run.

use super::Grid;

/// Returns a text with the grid's directory as `DIR`, pids as `PID` and RFC 3339 times as `TIME`.
pub(crate) fn normalise(grid: &Grid, text: &str) -> String {
    let text = text.replace(grid.dir().to_str().unwrap(), "DIR");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from
            .find(|c: char| !(c.is_ascii_digit() || "-:TZ.".contains(c)))
            .unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let digits = word
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(word.len());
        let is_time = word.len() >= 20 && word.as_bytes()[4] == b'-' && word.ends_with('Z');
        if is_time {
            out.push_str("TIME");
            rest = after;
        } else {
            let is_pid = ["process ", "pid ", "pid\": "]
                .iter()
                .any(|lead| before.ends_with(lead));
            out.push_str(if is_pid { "PID" } else { &word[..digits] });
            rest = &from[digits..];
        }
    }
    out.push_str(rest);
    out
}

#[test]
fn what_differs_is_taken_out() {
    let grid = Grid::at("");
    let text = format!(
        "Blitz-0 (pid 4711) since 2026-01-01T00:00:00Z in {}/var, 3 servers; process 12.",
        grid.dir().display()
    );
    assert_eq!(
        normalise(&grid, &text),
        "Blitz-0 (pid PID) since TIME in DIR/var, 3 servers; process PID."
    );
}

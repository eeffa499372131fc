//! Lines that people type.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use rustyline::DefaultEditor;
use tokio::sync::mpsc;

/// What is printed where a command may be typed.
pub(super) const PROMPT: &str = ">>> ";

/// Asks for a line; `None` at the end of input.
pub(super) fn line(question: &str) -> Option<String> {
    let mut out = std::io::stdout();
    // Who does not see the question may know the answer.
    let _ = write!(out, "{question}");
    let _ = out.flush();
    let mut line = String::new();
    let count = std::io::stdin().lock().read_line(&mut line).ok()?;
    (count > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for a line that is not shown while it is typed.
pub(super) fn secret(question: &str) -> Option<String> {
    match std::io::stdin().is_terminal() {
        true => rpassword::prompt_password(question).ok(),
        false => line(question),
    }
}

/// Lines from a terminal: read by a thread, since nothing else can wait for them.
pub(super) struct Lines {
    ask: Option<std::sync::mpsc::Sender<()>>,
    lines: mpsc::Receiver<String>,
}

impl Lines {
    pub(super) fn begin() -> Self {
        let (ask, asked) = std::sync::mpsc::channel();
        let (to, lines) = mpsc::channel(1);
        // It ends with the program: nothing it holds has to be given back.
        let started = std::thread::Builder::new()
            .name("prompt".to_owned())
            .spawn(move || read(&asked, &to));
        Self {
            ask: started.is_ok().then_some(ask),
            lines,
        }
    }

    /// Asks for the next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.ask.as_ref()?.send(()).ok()?;
        self.lines.recv().await
    }
}

/// Where the history is kept.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty());
    let home = std::env::var_os("HOME").filter(|dir| !dir.is_empty());
    let state = state
        .map(PathBuf::from)
        .or_else(|| home.map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(state.join("omero-grid").join("icegridadmin-history"))
}

fn read(asked: &std::sync::mpsc::Receiver<()>, to: &mpsc::Sender<String>) {
    let Ok(mut editor) = DefaultEditor::new() else {
        return;
    };
    let history = history();
    if let Some(history) = &history {
        // The first time there is none.
        let _ = editor.load_history(history);
    }
    while asked.recv().is_ok() {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            // As in a shell: the line is forgotten, not the program.
            Err(rustyline::error::ReadlineError::Interrupted) => String::new(),
            Err(_) => return,
        };
        if !line.trim().is_empty() {
            let _ = editor.add_history_entry(line.as_str());
            if let Some(history) = &history {
                let dir = history.parent().map(std::fs::create_dir_all);
                if matches!(dir, Some(Ok(()))) {
                    let _ = editor.save_history(history);
                }
            }
        }
        if to.blocking_send(line).is_err() {
            return;
        }
    }
}

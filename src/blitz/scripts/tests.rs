use std::fs;

use super::*;
use crate::model::ExitStatus;
use crate::sys::process::{self, PidFd};
use crate::sys::reaper::ALONE;

/// How long anything may take that is not under test.
const DEADLINE: Duration = Duration::from_secs(30);

/// Scripts and a place for their files.
struct Place {
    dir: tempfile::TempDir,
    scripts: Scripts,
}

impl Place {
    fn new(limit: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["scripts", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let scripts = dir.path().join("scripts");
        let scripts = Scripts::new(Settings::new(scripts, limit, |_| None)).unwrap();
        Self { dir, scripts }
    }

    fn start(&self, text: &str, arguments: &[(&str, &str)]) -> Running {
        let name = format!("{}.sh", uuid::Uuid::new_v4());
        fs::write(self.dir.path().join("scripts").join(&name), text).unwrap();
        let arguments = arguments.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let request = Request {
            script: name,
            arguments: arguments.collect(),
            env: vec![("GIVEN".into(), "yes".into())],
        };
        self.scripts.start(&request, &self.tmp()).unwrap()
    }

    async fn run(&self, text: &str, arguments: &[(&str, &str)]) -> Finished {
        finished(self.start(text, arguments)).await
    }

    fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    fn left(&self) -> usize {
        fs::read_dir(self.tmp()).unwrap().count()
    }
}

async fn finished(running: Running) -> Finished {
    let finished = tokio::time::timeout(DEADLINE, running.finished()).await;
    finished
        .expect("it ends in time")
        .expect("its thread lives")
}

fn text(output: &output::Output) -> String {
    fs::read_to_string(&output.path).unwrap()
}

/// Returns the numbers of the processes that a script has told of.
fn pids(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn is_alive(pid: u32) -> bool {
    process::stat(pid).is_some_and(|stat| stat.is_alive())
}

/// Waits until a script has told of so many processes.
async fn told(place: &Place, count: usize) -> Vec<u32> {
    let pids = async {
        loop {
            let runs = fs::read_dir(place.tmp()).unwrap().flatten();
            let pids = runs
                .filter_map(|run| fs::read_to_string(run.path().join("work/pids")).ok())
                .flat_map(|text| {
                    if text.ends_with('\n') {
                        pids(&text)
                    } else {
                        Vec::new()
                    }
                })
                .collect::<Vec<_>>();
            if pids.len() == count {
                return pids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, pids)
        .await
        .expect("it comes so far")
}

/// Starts processes that leave their group, session and parent, and writes who they are to `pids`.
const SCATTER: &str = r#"
trap '' TERM HUP
note() { echo $$ >> pids.part; }
setsid sh -c 'trap "" TERM; echo $$ >> pids.part; sleep 1000; :' &
(setsid sh -c '(echo $(exec sh -c "echo \$PPID") >> pids.part; sleep 1000) &' &)
setsid sh -c 'echo $$ >> pids.part; exec sleep 1000 >/dev/null 2>&1' &
echo $$ >> pids.part
while [ "$(wc -l < pids.part)" -lt 4 ]; do sleep 0.02; done
mv pids.part pids
"#;

#[tokio::test]
async fn a_script_gets_its_arguments_and_tells_how_it_ended() {
    let _alone = ALONE.lock().await;
    let place = Place::new(DEADLINE);
    let script = r#"
        for word; do echo "<$word>"; done
        echo "$GIVEN $OMERO_GRID_SCRIPT $(pwd -P)" >&2
        [ "$OMERO_TMPDIR" = "$OMERO_TEMPDIR" ] && [ "$TMPDIR" -ef . ] || exit 9
        read line; echo "in:$line"; mktemp; exit 7"#;
    let arguments = [("a", "1 2"), ("b-c.d", ""), ("e", "x=y\n$(z)")];
    let done = place.run(script, &arguments).await;
    assert_eq!((done.end, done.exit), (End::Exited, ExitStatus::Code(7)));
    let out = text(&done.stdout);
    let (words, rest) = out.split_once("in:").unwrap();
    assert_eq!(words, "<a=1 2>\n<b-c.d=>\n<e=x=y\n$(z)>\n");
    let made = rest.trim();
    assert!(
        made.contains("/work/") && !Path::new(made).exists(),
        "{made}"
    );
    let err = text(&done.stderr);
    assert!(
        err.starts_with("yes ") && err.contains(&place.tmp().display().to_string()),
        "{err}"
    );
    assert!(done.took < DEADLINE);
    assert_eq!(place.left(), 1, "the output is kept");
    drop(done);
    assert_eq!(place.left(), 0, "until nobody wants it");
    let done = place.run("kill -9 $$", &[]).await;
    assert_eq!((done.end, done.exit), (End::Exited, ExitStatus::Signal(9)));
}

#[tokio::test]
async fn at_the_time_limit_everything_ends_that_a_script_has_started() {
    let _alone = ALONE.lock().await;
    let place = Place::new(Duration::from_secs(2));
    let script = format!("{SCATTER} cat pids; while :; do sleep 1; done");
    let done = place.run(&script, &[]).await;
    assert_eq!(
        (done.end, done.exit),
        (End::TimeLimit, ExitStatus::Signal(9))
    );
    assert!(done.took >= Duration::from_secs(2));
    let pids = pids(&text(&done.stdout));
    assert_eq!(pids.len(), 4);
    for pid in pids {
        assert!(!is_alive(pid), "{pid}");
    }
}

#[tokio::test]
async fn what_a_script_leaves_behind_ends_with_it() {
    let _alone = ALONE.lock().await;
    let place = Place::new(DEADLINE);
    let done = place.run(&format!("{SCATTER} cat pids; exit 0"), &[]).await;
    assert_eq!((done.end, done.exit), (End::Exited, ExitStatus::Code(0)));
    let pids = pids(&text(&done.stdout));
    assert_eq!(pids.len(), 4);
    for pid in pids {
        assert!(!is_alive(pid), "{pid}");
    }
}

#[tokio::test]
async fn a_script_that_nobody_is_interested_in_any_more_ends() {
    let _alone = ALONE.lock().await;
    let place = Place::new(DEADLINE);
    let running = place.start(&format!("{SCATTER} sleep 1000"), &[]);
    let pids = told(&place, 4).await;
    let handles: Vec<_> = pids.iter().filter_map(|pid| PidFd::of(*pid)).collect();
    assert_eq!(handles.len(), 4, "all live");
    drop(running);
    for handle in &handles {
        tokio::time::timeout(DEADLINE, handle.ended())
            .await
            .unwrap()
            .unwrap();
    }
    tokio::time::timeout(DEADLINE, place.scripts.close())
        .await
        .unwrap();
    assert_eq!(place.left(), 0);
}

#[tokio::test]
async fn output_without_end_is_bounded_and_does_not_keep_a_script_alive() {
    let _alone = ALONE.lock().await;
    let place = Place::new(Duration::from_secs(1));
    let done = place.run("echo first; yes >&2 & yes", &[]).await;
    assert_eq!(done.end, End::TimeLimit);
    for output in [&done.stdout, &done.stderr] {
        let len = fs::metadata(&output.path).unwrap().len();
        assert!(len < 17 * 1024 * 1024, "{len}");
        assert!(output.written > 1024 * 1024, "{}", output.written);
    }
    let (tail, whole) = done.stdout.tail(4).unwrap();
    assert_eq!((tail.as_str(), whole), ("y\ny\n", false));
}

#[tokio::test]
async fn no_more_than_so_many_run_at_once_and_all_can_be_ended() {
    let _alone = ALONE.lock().await;
    let place = Place::new(DEADLINE);
    let mut running: Vec<_> = (0..MAX_RUNNING)
        .map(|_| place.start("sleep 1000", &[]))
        .collect();
    let request = Request {
        script: fs::read_dir(place.dir.path().join("scripts"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .next()
            .unwrap(),
        ..Request::default()
    };
    let refused = place.scripts.start(&request, &place.tmp()).unwrap_err();
    assert!(matches!(refused, ScriptError::Busy), "{refused}");
    running.pop();
    let permit = tokio::time::timeout(DEADLINE, place.scripts.room.acquire()).await;
    drop(permit.unwrap().unwrap());
    // All the others at once, and whoever waits for them is told.
    tokio::time::timeout(DEADLINE, place.scripts.close())
        .await
        .unwrap();
    for running in running {
        let done = finished(running).await;
        assert_eq!(
            (done.end, done.exit),
            (End::Cancelled, ExitStatus::Signal(9))
        );
    }
    let refused = place.scripts.start(&request, &place.tmp()).unwrap_err();
    assert!(matches!(refused, ScriptError::Stopping), "{refused}");
    assert_eq!(place.left(), 0);
}

#[tokio::test]
async fn launchers_are_properties_and_are_named_when_they_fail() {
    let _alone = ALONE.lock().await;
    let place = Place::new(DEADLINE);
    let dir = place.dir.path().join("scripts");
    fs::write(dir.join("a.py"), "#!/bin/sh").unwrap();
    let request = Request {
        script: "a.py".to_owned(),
        ..Request::default()
    };
    let with = |program: &str| {
        let program = program.to_owned();
        let property = move |name: &str| (name == "omero.launcher.python").then(|| program.clone());
        Scripts::new(Settings::new(dir.clone(), DEADLINE, property)).unwrap()
    };
    let listed = place.scripts.list().unwrap().scripts;
    assert_eq!(listed[0].path, "a.py");
    let error = with("no-such-python")
        .start(&request, &place.tmp())
        .unwrap_err()
        .to_string();
    for word in ["no-such-python", "omero.launcher.python", "text/x-python"] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(place.left(), 0, "nothing is left of a start that failed");
    let scripts = with("/bin/echo");
    let running = scripts.start(&request, &place.tmp()).unwrap();
    let done = finished(running).await;
    assert_eq!((done.end, done.exit), (End::Exited, ExitStatus::Code(0)));
    let out = text(&done.stdout);
    assert!(out.ends_with("/scripts/a.py\n"), "{out:?}");
    let known = Settings::new(dir.clone(), DEADLINE, |_| Some(" ".to_owned())).launchers;
    assert_eq!(
        known,
        ["python3", "jython", "matlab", "sh"],
        "empty is absent"
    );
    let nowhere = place.tmp().join("nowhere");
    let error = with("sh")
        .start(&request, &nowhere)
        .unwrap_err()
        .to_string();
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn arguments_that_could_be_taken_for_something_else_are_refused() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let large = "x".repeat(MAX_ARGUMENT);
    for (key, value, reason) in [
        ("", "1", "name"),
        ("-e", "1", "name"),
        ("--version", "1", "name"),
        ("1a", "1", "name"),
        ("a b", "1", "name"),
        ("a\nb", "1", "name"),
        ("ä", "1", "name"),
        ("a=b", "1", "name"),
        ("a", "\0", "NUL"),
        ("a", &large, "larger"),
    ] {
        let error = words(&[pair(key, value)]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let twice = words(&[pair("a", "1"), pair("a", "2")]).unwrap_err();
    assert!(twice.to_string().contains("twice"));
    let many: Vec<_> = (0..=MAX_ARGUMENTS)
        .map(|n| pair(&format!("a{n}"), ""))
        .collect();
    assert!(matches!(words(&many), Err(ScriptError::Arguments)));
    let heavy: Vec<_> = (0..9)
        .map(|n| pair(&format!("a{n}"), &large[1024..]))
        .collect();
    assert!(matches!(words(&heavy), Err(ScriptError::Arguments)));
    assert_eq!(words(&[pair("_a.b-C1", "-x")]).unwrap(), ["_a.b-C1=-x"]);
}

//! OMERO's configuration store, with the subcommands of `omero config`.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Grid, Small};

const FILE: &str = "etc/grid/config.xml";

fn get(grid: &Grid) -> String {
    grid.run("config get --show-password").ok().stdout
}

#[test]
fn lists_grow_and_shrink() {
    let grid = Grid::at("");
    grid.run("config append omero.web.apps a")
        .exits(2)
        .says(&["is not JSON", "quotation marks"]);
    assert!(!grid.path(FILE).exists(), "nothing was written");
    let run = |args: &[&str]| grid.finish(&mut grid.command(args), "");
    run(&["config", "append", "omero.web.apps", "\"a\""]).ok();
    run(&["config", "append", "omero.web.apps", "{\"b\": 1}"]).ok();
    run(&["config", "append", "--set", "omero.web.apps", "\"a\""]).ok();
    assert_eq!(get(&grid), "omero.web.apps=[\"a\", {\"b\": 1}]\n");
    let report = run(&["config", "remove", "--report", "omero.web.apps", "\"a\""]).ok();
    assert_eq!(report.stdout, "Changed: remove omero.web.apps:\"a\"\n");
    run(&["config", "remove", "omero.web.apps", "\"a\""])
        .exits(1)
        .says(&["not in the list"]);
    run(&["config", "remove", "omero.x", "1"])
        .exits(1)
        .says(&["omero.x is not set"]);
    // What OMERO.web takes where nothing is set would be lost.
    run(&["config", "append", "omero.web.middleware", "1"])
        .exits(6)
        .says(&["set the whole list"]);
    grid.run("config set omero.x text").ok();
    run(&["config", "append", "omero.x", "1"])
        .exits(4)
        .says(&["not a list"]);
    assert_eq!(get(&grid), "omero.web.apps=[{\"b\": 1}]\nomero.x=text\n");
}

#[test]
fn settings_are_loaded_all_or_none() {
    let grid = Grid::at("");
    grid.run_with("config load", "# begin\na=1\nb=x\\\ny\nflag\n")
        .ok();
    assert_eq!(get(&grid), "a=1\nb=xy\nflag=\n");
    grid.run_with("config load -", "c=3\na=2\n")
        .exits(6)
        .says(&["a has another value", "nothing was loaded"]);
    grid.run_with("config load", "c=3\nno good=1\n")
        .exits(2)
        .says(&["no good"]);
    assert_eq!(get(&grid), "a=1\nb=xy\nflag=\n");
    grid.write("more", "a=2\n");
    grid.run("config load -q more").ok();
    assert_eq!(grid.run("config get a").ok().stdout, "2\n");
    grid.run("config load missing")
        .exits(2)
        .says(&["cannot read missing"]);
}

#[test]
fn an_editor_changes_all_at_once_or_nothing() {
    let mut grid = Grid::at("");
    grid.run_with("config load", "a=1\nb=2\n").ok();
    grid.write("lines", "one\ntwo\n");
    grid.run("config set several -f lines").ok();
    let before = grid.read(FILE);
    let editor = grid.path("editor").display().to_string();
    grid.write("editor", "");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    grid.set("EDITOR", editor);
    let script = |text: &str| grid.write("editor", &format!("#!/bin/sh\n{text}\n"));
    script("exit 3");
    grid.run("config edit")
        .exits(1)
        .says(&["ended with", "nothing was changed"]);
    script("grep -q 'several has a value of several lines' $1");
    grid.run("config edit").ok();
    assert_eq!(
        grid.read(FILE),
        before,
        "what is not changed is not written"
    );
    script("echo 'no good=1' > $1");
    grid.run("config edit")
        .exits(4)
        .says(&["no good", "nothing was changed", "config.edit"]);
    assert_eq!(grid.read(FILE), before);
    script("sed -i '/^a=/d; s/^b=.*/b=3/' $1; echo c=4 >> $1");
    grid.run("config edit").ok();
    assert_eq!(get(&grid), "b=3\nc=4\nseveral=one\ntwo\n");
    assert!(!grid.path("etc/grid/config.edit").exists());
}

#[test]
fn profiles_come_and_go_and_the_active_one_stays() {
    let grid = Grid::at("");
    grid.run("config set a 1").ok();
    assert_eq!(grid.json("config all"), serde_json::json!(["default"]));
    assert_eq!(grid.run("config def").ok().stdout, "default\n");
    grid.run("config def test").ok();
    assert_eq!(grid.run("config def").ok().stdout, "test\n");
    assert_eq!(get(&grid), "");
    grid.run("config drop test").exits(6).says(&["active"]);
    grid.run("config def default").ok();
    grid.run("config drop test").ok();
    grid.run("config drop test")
        .exits(1)
        .says(&["no profile 'test'"]);
    assert_eq!(grid.json("config all"), serde_json::json!(["default"]));
    assert_eq!(get(&grid), "a=1\n");
    assert_eq!(grid.run("config version").ok().stdout, "5.1.0\n");
}

#[test]
fn a_lock_that_somebody_holds_keeps_others_out() {
    let grid = Grid::at("");
    grid.run("config set a 1").ok();
    let mut holder = grid.command(&["config", "lock"]);
    holder
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    assert!(line.contains("is locked"), "{line}");
    grid.run("config set a 2")
        .exits(6)
        .says(&["config.xml.lock"]);
    // Reading needs no lock; one whose holder was killed keeps nobody out.
    assert_eq!(get(&grid), "a=1\n");
    holder.kill().unwrap();
    holder.wait().unwrap();
    grid.run("config set a 2").ok();
    assert_eq!(get(&grid), "a=2\n");
}

#[test]
fn secrets_are_kept_out_of_sight() {
    let grid = Grid::at("");
    let said = grid.run("config set --report omero.db.pass secret").ok();
    assert!(said.stderr.contains("list of processes"), "{}", said.stderr);
    assert_eq!(said.stdout, "Changed: set omero.db.pass:********\n");
    grid.write("pw", "other\n");
    let said = grid.run("config set omero.db.pass @pw").ok();
    assert_eq!(said.stderr, "");
    assert_eq!(
        grid.run("config get").ok().stdout,
        "omero.db.pass=********\n"
    );
    let mode = std::fs::metadata(grid.path(FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Runs a command on a terminal of its own; returns what it shows.
fn on_a_terminal(grid: &Grid, words: &str) -> String {
    use std::io::Read as _;
    let terminal = nix::pty::openpty(None, None).unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = grid.command(&words);
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::from(terminal.slave));
    let mut child = command.spawn().unwrap();
    // With it goes the last of the other end that is in this process.
    drop(command);
    assert!(child.wait().unwrap().success(), "{words:?}");
    let mut shown = Vec::new();
    let mut buffer = [0; 4096];
    let mut screen = std::fs::File::from(terminal.master);
    // Where nobody writes any more, reading fails.
    while let Ok(count @ 1..) = screen.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(shown).unwrap()
}

#[test]
fn on_a_terminal_the_value_of_a_secret_is_masked_unless_asked_for() {
    let grid = Grid::at("");
    grid.run_with("config set omero.db.pass -", "top").ok();
    grid.run("config set omero.db.host db").ok();
    assert_eq!(
        on_a_terminal(&grid, "config get omero.db.pass").trim(),
        "********"
    );
    let shown = on_a_terminal(&grid, "config get --show-password omero.db.pass");
    assert_eq!(shown.trim(), "top");
    assert_eq!(
        on_a_terminal(&grid, "config get omero.db.host").trim(),
        "db"
    );
    // Scripts get what they always got.
    assert_eq!(grid.run("config get omero.db.pass").ok().stdout, "top\n");
}

#[test]
fn reading_leaves_the_file_as_it_is_and_writing_its_mode_and_owner() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let grid = Grid::at("");
    grid.run("config set omero.a 1").ok();
    let file = grid.path(FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        chown(&file, Some(4321), Some(8765)).unwrap();
    }
    let of = |file: &std::path::Path| {
        let found = std::fs::metadata(file).unwrap();
        (found.ino(), found.mtime_nsec(), found.ctime_nsec())
    };
    let before = of(&file);
    for words in [
        "get",
        "get omero.a",
        "list",
        "keys",
        "all",
        "def",
        "path",
        "version",
        "explain omero.a",
        "set omero.a 1",
    ] {
        grid.run(&format!("config {words}")).ok();
        assert_eq!(of(&file), before, "{words}");
    }
    assert!(!grid.path("etc/grid/config.xml.lock").exists());
    grid.run("config set omero.a 2").ok();
    let after = std::fs::metadata(&file).unwrap();
    assert_ne!(after.ino(), before.0, "a new file in the place of the old");
    assert_eq!(after.mode() & 0o7777, 0o640);
    if is_root {
        assert_eq!((after.uid(), after.gid()), (4321, 8765));
    }
}

#[test]
fn a_profile_that_is_not_there_is_told_and_made_by_the_first_setting() {
    let mut grid = Grid::at("");
    grid.run("config set omero.a 1").ok();
    grid.set("OMERO_CONFIG", "test");
    let run = grid.run("config get").ok();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("no profile 'test'"), "{}", run.stderr);
    grid.run("config set omero.a @{two}").ok();
    let run = grid.run("config get omero.a").ok();
    assert_eq!((&run.stdout[..], &run.stderr[..]), ("@{two}\n", ""));
    grid.set("OMERO_CONFIG", "");
    assert_eq!(grid.run("config get omero.a").ok().stdout, "1\n");
    // An active profile that the file does not have is an empty one.
    let text = grid.read(FILE).replace(
        "name=\"omero.config.profile\" value=\"default\"",
        "name=\"omero.config.profile\" value=\"lost\"",
    );
    grid.write(FILE, &text);
    assert_eq!(grid.run("config def").ok().stdout, "lost\n");
    assert_eq!(grid.run("config get").ok().stdout, "");
    grid.run("config set omero.b 3").ok();
    assert_eq!(get(&grid), "omero.b=3\n");
    grid.run("config def default").ok();
    assert_eq!(get(&grid), "omero.a=1\n");
}

#[test]
fn a_live_value_reaches_running_blitzes_and_restarts_nothing() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    let pid = grid.pid("Blitz-0");
    let idle = |grid: &Grid| {
        let created = grid.json("session create --user root --password-file var/root-password");
        created["time_to_idle_ms"].as_u64().unwrap()
    };
    assert_eq!(idle(&grid), 600_000);
    let set = grid.run("config set omero.sessions.timeout 123000").ok();
    assert!(!set.stdout.contains("restart"), "{set:?}");
    grid.wait("the new time-out", || {
        (idle(&grid) == 123_000).then_some(())
    });
    // What only this kind of server has is stronger.
    grid.run("config set omero.sessions.timeout.blitz 45000")
        .ok();
    grid.wait("the new time-out", || (idle(&grid) == 45_000).then_some(()));
    assert_eq!(grid.pid("Blitz-0"), pid);
    // A Blitz that is started anew has the same.
    grid.run("server Blitz-0 restart").ok();
    assert_eq!(idle(&grid), 45_000);
    grid.run("config set omero.sessions.timeout.blitz").ok();
    grid.wait("the value for all", || {
        (idle(&grid) == 123_000).then_some(())
    });
}

#[test]
fn what_waits_for_a_restart_is_listed_and_a_rolling_restart_cures_it() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    let servers = ["Blitz-0", "Processor-0"];
    let pids = |grid: &Grid| servers.map(|id| grid.pid(id));
    let outdated =
        |grid: &Grid| servers.map(|id| grid.server(id).unwrap()["outdated"].as_bool().unwrap());
    let first = pids(&grid);
    let set = grid.run("config set omero.data.dir elsewhere").ok();
    assert!(
        set.stdout.contains("restart --rolling --outdated"),
        "{set:?}"
    );
    assert_eq!((pids(&grid), outdated(&grid)), (first, [true, true]));
    let page = grid.run("status").ok().stdout;
    assert!(
        page.contains("Blitz-0, Processor-0: run with an older definition or older values"),
        "{page}"
    );
    grid.run("status --check").exits(1);
    let explained = grid.run("config explain omero.data.dir").ok().stdout;
    assert!(explained.contains("runs with var/data"), "{explained}");
    // What is live comes through all the same.
    grid.run("config set omero.sessions.timeout 123000").ok();
    grid.wait("the new time-out", || {
        let get = grid.run("config service get omero.sessions.timeout").ok();
        (get.stdout.trim() == "123000").then_some(())
    });
    // A crash is no restart by somebody: it goes on with what it had.
    grid.kill9(first[0]);
    grid.wait_successor("Blitz-0", first[0]);
    assert_eq!(outdated(&grid), [true, true]);
    let second = pids(&grid);
    let said = grid.run("restart --rolling --outdated").ok().stdout;
    assert!(said.contains("all of them were restarted"), "{said}");
    let third = pids(&grid);
    assert!(second.iter().all(|pid| !third.contains(pid)), "{third:?}");
    assert_eq!(outdated(&grid), [false, false]);
    let get = grid.run("config service get omero.data.dir").ok();
    assert_eq!(get.stdout.trim(), "elsewhere");
    let explained = grid.run("config explain omero.data.dir").ok().stdout;
    assert!(!explained.contains("runs with"), "{explained}");
    grid.run("restart --rolling --outdated")
        .exits(3)
        .says(&["nothing runs with"]);
    // So does a stop and a start.
    grid.run("config set omero.data.dir third").ok();
    assert_eq!(outdated(&grid), [true, true]);
    grid.run("stop").ok();
    grid.run("start").ok();
    assert_eq!(outdated(&grid), [false, false]);
}

#[test]
fn what_somebody_else_wrote_is_shown_and_applied_by_reload_only() {
    let grid = Grid::shipped();
    grid.run("config set omero.x 1").ok();
    grid.run("start descriptors/default.xml").ok();
    let differs = |grid: &Grid| grid.status()["configuration"]["differs"].clone();
    assert_eq!(differs(&grid), serde_json::json!([]));
    let before = grid.read("etc/grid/config.xml");
    let text = before
        .replace("name=\"omero.x\" value=\"1\"", "name=\"omero.x\" value=\"2\"")
        .replace(
            "<property name=\"omero.x\"",
            "<property name=\"omero.sessions.timeout\" value=\"77000\" /><property name=\"omero.x\"",
        );
    assert_ne!(text, before);
    grid.write("etc/grid/config.xml.new", &text);
    std::fs::rename(
        grid.path("etc/grid/config.xml.new"),
        grid.path("etc/grid/config.xml"),
    )
    .unwrap();
    grid.wait("the difference to be seen", || {
        (differs(&grid) == serde_json::json!(["omero.sessions.timeout", "omero.x"])).then_some(())
    });
    let shown = grid.run("status").ok().stdout;
    assert!(shown.contains("2 keys differ on disk"), "{shown}");
    assert!(shown.contains("omero-grid reload"), "{shown}");
    grid.run("reload").ok();
    grid.wait("no difference", || {
        (differs(&grid) == serde_json::json!([])).then_some(())
    });
    // A broken file changes nothing and is said.
    grid.write("etc/grid/config.xml", "<icegrid><properties");
    grid.wait("the damage to be seen", || {
        grid.status()["configuration"]["error"].as_str().map(drop)
    });
    grid.run("reload").exits(4).says(&["config.xml"]);
    grid.write("etc/grid/config.xml", &text);
    grid.wait("no difference", || {
        let configuration = &grid.status()["configuration"];
        (configuration["error"].is_null() && configuration["differs"] == serde_json::json!([]))
            .then_some(())
    });
}

#[test]
fn unlikely_settings_are_doubted_and_with_strict_refused() {
    let grid = Grid::shipped();
    for (words, says) in [
        ("omero.sessions.timeout soon", "milliseconds"),
        ("omero.sesions.timeout 1", "is omero.sessions.timeout meant"),
        ("omero.cluster.read_only true", "deprecated"),
    ] {
        grid.run(&format!("config set --strict {words}"))
            .exits(4)
            .says(&[says, "nothing was stored"]);
        assert_eq!(grid.json("config keys"), serde_json::json!([]), "{words}");
        grid.run(&format!("config set {words}")).ok().says(&[says]);
        let key = words.split(' ').next().unwrap();
        grid.run(&format!("config set {key}")).ok();
    }
    let quiet = grid.run("config set omero.sessions.timeout 1000").ok();
    assert_eq!(quiet.stderr, "");
    grid.run_with("config load --strict", "omero.a=1\nomero.grid.weight=no\n")
        .exits(4)
        .says(&["omero.grid.weight"]);
    assert_eq!(
        grid.json("config keys"),
        serde_json::json!(["omero.sessions.timeout"])
    );
    let table = grid.json("config parse");
    let timeout = table.as_array().unwrap().iter();
    let timeout = timeout
        .clone()
        .find(|key| key["key"] == "omero.sessions.timeout")
        .unwrap();
    assert_eq!(
        (&timeout["default"], &timeout["live"]),
        (&"600000".into(), &true.into())
    );
    grid.write(
        "omero.properties",
        "### Sessions\n\n# How long,\n# in ms.\nomero.sessions.timeout=600000\nomero.web.x=1\n",
    );
    let file = grid.json("config parse -f omero.properties --no-web");
    assert_eq!(file.as_array().unwrap().len(), 1);
    assert_eq!(
        (&file[0]["description"], &file[0]["type"]),
        (&"How long, in ms.".into(), &"milliseconds".into())
    );
    let lines = grid.run("config parse --defaults").ok().stdout;
    assert!(lines.contains("omero.sessions.timeout=600000\n"), "{lines}");
}

#[test]
fn a_value_is_explained_from_its_default_to_what_counts() {
    let application = r#"<icegrid><application name="A">
        <properties id="Profile"><property name="omero.b" value="by hand"/></properties>
        <properties id="Basics"><property name="omero.a" value="basics"/></properties>
        <node name="n"><server id="Blitz-0" exe="omero-grid" activation="always"><option>blitz</option>
            <properties>
              <properties refid="Basics"/><properties refid="Profile"/>
              <property name="omero.c" value="own"/>
            </properties></server></node>
        </application></icegrid>"#;
    let grid = Grid::new(application);
    for (key, value) in [
        ("omero.a", "configured"),
        ("omero.b", "configured"),
        ("omero.c", "configured"),
        ("omero.c.blitz", "of the kind"),
        ("omero.sessions.timeout", "1000"),
    ] {
        grid.finish(&mut grid.command(&["config", "set", key, value]), "")
            .ok();
    }
    grid.start();
    let values = |key: &str| -> Vec<String> {
        let explained = grid.json(&format!("config explain {key} --server Blitz-0"));
        let chain = explained["servers"][0]["chain"].as_array().unwrap();
        let values = chain
            .iter()
            .map(|step| step["value"].as_str().unwrap().to_owned());
        values.collect()
    };
    assert_eq!(values("omero.a"), ["basics", "configured"]);
    // What is written into Profile by hand beats the configuration, as with IceGrid.
    assert_eq!(values("omero.b"), ["configured", "by hand"]);
    assert_eq!(values("omero.c"), ["configured", "own", "of the kind"]);
    let shown = grid.run("config explain omero.b").ok().stdout;
    assert!(
        shown.contains("→ by hand  property set Profile, "),
        "{shown}"
    );
    assert!(shown.contains("grid.xml:2:"), "{shown}");
    let explained = grid.json("config explain omero.sessions.timeout");
    assert_eq!(
        (
            &explained["default"],
            &explained["configured"],
            &explained["live"]
        ),
        (&"600000".into(), &"1000".into(), &true.into())
    );
    grid.run("config explain omero.a --server Blitz-7").exits(3);
    // And that is what the server has.
    for (key, value) in [
        ("omero.a", "configured"),
        ("omero.b", "by hand"),
        ("omero.c", "of the kind"),
    ] {
        let get = grid.run(&format!("config service get {key}")).ok();
        assert_eq!(get.stdout.trim(), value, "{key}");
    }
    grid.run("config set omero.a other").ok();
    let session = grid.session();
    let explained = grid.json("config explain omero.a");
    assert_eq!(explained["servers"][0]["value"], "other");
    assert_ne!(session, "");
}

#[test]
fn a_store_that_cannot_be_written_or_read_stays_as_it_is() {
    let grid = Grid::at("");
    let Some(_small) = Small::over(grid.path("etc/grid"), 64) else {
        return;
    };
    grid.run("config set omero.a 1").ok();
    let before = grid.read("etc/grid/config.xml");
    grid.write("large", &"x".repeat(60 * 1024));
    grid.run("config set omero.b -f large")
        .exits(1)
        .says(&["No space left"]);
    assert_eq!(grid.read("etc/grid/config.xml"), before);
    grid.run("config set omero.c 2").ok();
    assert_eq!(grid.run("config get omero.c").ok().stdout, "2\n");
    for (text, says) in [
        ("<icegrid><properties", "config.xml:1:"),
        ("", "config.xml"),
        ("no XML at all", "config.xml:1:"),
    ] {
        grid.write("other.xml", text);
        let run = grid.run("config --source other.xml set omero.a 1");
        run.exits(4)
            .says(&[&says.replace("config.xml", "other.xml")]);
        assert_eq!(grid.read("other.xml"), text, "nothing is lost");
    }
    let huge = std::fs::File::create(grid.path("huge.xml")).unwrap();
    huge.set_len(1 << 30).unwrap();
    grid.run("config --source huge.xml get")
        .exits(4)
        .says(&["larger than"]);
    grid.run("config set no/slash 1").exits(2);
}

#[test]
fn many_who_write_at_once_lose_nothing() {
    let grid = Grid::at("");
    grid.run("config set omero.first 1").ok();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let grid = &grid;
            scope.spawn(move || {
                for n in 0..5 {
                    // The lock does not wait, as OMERO's does not: whoever finds it held tries again.
                    grid.wait("the lock", || {
                        let run = grid.run(&format!("config set omero.w{writer}.n{n} {n}"));
                        (run.status == 0).then_some(())
                    });
                }
            });
        }
    });
    assert_eq!(get(&grid).lines().count(), 21);
}

#[test]
fn a_log_level_changes_while_the_blitz_runs() {
    let grid = Grid::shipped();
    grid.run("start descriptors/default.xml").ok();
    let pid = grid.pid("Blitz-0");
    let opened = |grid: &Grid| {
        grid.read("var/log/Blitz-0.err")
            .matches("opened a session")
            .count()
    };
    grid.session();
    assert_eq!(opened(&grid), 0);
    grid.run("config set omero.grid.log_level debug").ok();
    grid.wait("a session that is logged", || {
        grid.session();
        (opened(&grid) > 0).then_some(())
    });
    grid.run("config set omero.grid.log_level loud --strict")
        .exits(4);
    assert_eq!(grid.pid("Blitz-0"), pid);
}

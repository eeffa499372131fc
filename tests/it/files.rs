//! Files through the commands: imported whole or not at all, listed, fetched against their checksum, deleted; images and memo files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Grid, Server, Small, application, blitz, kill, node};
use nix::sys::signal::Signal;

fn with_data(id: &str) -> Server {
    blitz(id).property("omero.data.dir", "data")
}

fn started() -> Grid {
    let grid = Grid::new(&application(&[node("n", &[with_data("Blitz-0")])]));
    grid.start();
    owns(&grid);
    grid
}

/// Waits until the Blitz has its repository, which it gets beside everything else.
fn owns(grid: &Grid) {
    grid.wait("the repository", || {
        grid.path("data/ManagedRepository/.omero-grid/owner")
            .exists()
            .then_some(())
    });
}

fn list(grid: &Grid) -> Vec<Value> {
    grid.json("file list").as_array().unwrap().clone()
}

fn path_of(grid: &Grid, file: &Value) -> PathBuf {
    grid.path("data/ManagedRepository")
        .join(file["path"].as_str().unwrap())
}

/// What lies in the repository beside the files that are listed.
fn strays(grid: &Grid) -> Vec<PathBuf> {
    let managed = grid.path("data/ManagedRepository");
    let listed: Vec<PathBuf> = list(grid).iter().map(|file| path_of(grid, file)).collect();
    let mut found = Vec::new();
    let mut left = vec![managed.clone()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let ours = ["catalogue", "lock", "owner"];
            if path.is_dir() {
                left.push(path);
            } else if !listed.contains(&path)
                && !ours
                    .iter()
                    .any(|name| path == managed.join(".omero-grid").join(name))
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn files_go_in_and_come_out_as_they_were() {
    let grid = started();
    let big: String = (0..400_000).map(|n| format!("{n}\n")).collect();
    grid.write("in/a.txt", "abc");
    grid.write("in/below/big", &big);
    grid.write("in/empty", "");
    std::os::unix::fs::symlink("a.txt", grid.path("in/link")).unwrap();
    nix::unistd::mkfifo(&grid.path("in/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = grid.run("--format json file import in").ok();
    for special in ["in/link", "in/fifo"] {
        assert!(run.stderr.contains(special), "{run:?}");
    }
    let imported = run.json();
    let names: Vec<&str> = imported
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names, ["a.txt", "big", "empty"]);
    assert_eq!(imported, Value::Array(list(&grid)));
    assert_eq!(
        imported[2]["checksum"],
        "da39a3ee5e6b4b0d3255bfef95601890afd80709"
    );
    grid.run("file get 2 -o out").ok();
    assert_eq!(grid.read("out"), big);
    let piped = grid.run("file get 1 -o -").ok();
    assert_eq!(piped.stdout, "abc");
    // A link that is named is followed.
    grid.run("file import in/link").ok();
    assert_eq!(grid.json("file info 4")["size"], 3);
    grid.run("file delete 1 4").ok();
    grid.run("file get 1 -o out").exits(3).says(&["no file 1"]);
    grid.run("file info 1").exits(3);
    assert_eq!(list(&grid).len(), 2);
    assert_eq!(strays(&grid), [] as [PathBuf; 0]);
    grid.run("restart").ok();
    owns(&grid);
    grid.run("file import in/a.txt").ok();
    let ids: Vec<_> = list(&grid).iter().map(|file| file["id"].clone()).collect();
    assert_eq!(ids, [2, 3, 5], "no number is used again");
}

#[test]
fn only_the_owner_of_a_file_and_administrators_delete_it() {
    let grid = started();
    grid.write("pw", "secret");
    grid.write("a.txt", "abc");
    for name in ["ann", "bob"] {
        grid.run(&format!("user add {name} --password-file pw"))
            .ok();
    }
    let login = |name: &str| {
        let run = grid
            .run(&format!("session create --user {name} --password-file pw"))
            .ok();
        run.stdout.trim().to_owned()
    };
    let (ann, bob) = (login("ann"), login("bob"));
    let file = grid.json(&format!("file import a.txt --session {ann}"));
    assert_eq!(file[0]["owner"], "ann");
    grid.run(&format!("file get 1 -o b.txt --session {bob}"))
        .ok();
    grid.run(&format!("file delete 1 --session {bob}"))
        .exits(6)
        .says(&["file 1 is of ann"]);
    grid.run(&format!("file delete 1 --session {ann}")).ok();
}

#[test]
fn what_is_damaged_is_not_handed_out() {
    let grid = started();
    grid.write("a.txt", "abc");
    grid.run("file import a.txt a.txt a.txt").ok();
    let files = list(&grid);
    std::fs::write(path_of(&grid, &files[0]), "abd").unwrap();
    std::fs::write(path_of(&grid, &files[1]), "abcd").unwrap();
    let third = path_of(&grid, &files[2]);
    std::fs::remove_file(&third).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &third).unwrap();
    for (id, words) in [
        (1, "checksum"),
        (2, "4 bytes instead of 3"),
        (3, "cannot read"),
    ] {
        grid.run(&format!("file get {id} -o out"))
            .exits(1)
            .says(&[words]);
    }
    let left: Vec<_> = std::fs::read_dir(grid.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("out"))
        .collect();
    assert_eq!(left, [] as [String; 0], "nothing that is not whole stays");
}

#[test]
fn names_and_things_that_cannot_be_imported_are_refused() {
    let grid = started();
    for name in ["new\nline", "tab\there"] {
        grid.write(name, "abc");
        let mut import = grid.command(&["file", "import", name]);
        grid.finish(&mut import, "")
            .exits(4)
            .says(&["control characters", "rename"]);
    }
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"\xff.tif");
    std::fs::write(grid.dir().join(odd), "abc").unwrap();
    let mut import = grid.command(&["file", "import"]);
    import.arg(odd);
    grid.finish(&mut import, "").exits(1).says(&["UTF-8"]);
    grid.run("file import /dev/null")
        .exits(1)
        .says(&["/dev/null", "neither"]);
    grid.run("file import missing").exits(1).says(&["missing"]);
    grid.write("dir/.hidden", "abc");
    grid.run("file import dir/../dir/.hidden").ok();
    assert_eq!(list(&grid).len(), 1);
}

#[test]
fn a_source_that_changes_meanwhile_is_not_kept() {
    let grid = started();
    // As long as its size says, but growing: more than the sockets between hold.
    let path = grid.path("growing");
    std::fs::write(&path, vec![b'x'; 64 * 1024 * 1024]).unwrap();
    let owner = grid.pid("Blitz-0");
    kill(owner, Signal::SIGSTOP);
    let mut command = grid.command(&["file", "import", "growing"]);
    let import = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is asked for its ticket while it is stopped, so the file is open by then or will be read later: both see the change.
    grid.wait("the import to open the file", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", import.id())).ok()?;
        let mut links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        links.any(|link| link == path).then_some(())
    });
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    kill(owner, Signal::SIGCONT);
    grid.wait("a part of it to arrive", || {
        let incoming = grid.path("data/ManagedRepository/.omero-grid/incoming");
        let part = std::fs::read_dir(incoming).ok()?.next()?.ok()?;
        (part.metadata().ok()?.len() > 0).then_some(())
    });
    file.write_all(b"more").unwrap();
    drop(file);
    let output = import.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("changed while it was imported"), "{stderr}");
    assert_eq!(list(&grid), [] as [Value; 0]);
    assert_eq!(strays(&grid), [] as [PathBuf; 0]);
}

#[test]
fn a_crash_during_an_import_leaves_nothing_of_it() {
    let grid = started();
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    let path = grid.path("big");
    std::fs::write(&path, vec![b'x'; 256 * 1024 * 1024]).unwrap();
    for _ in 0..3 {
        let pid = grid.pid("Blitz-0");
        let mut import = grid.command(&["file", "import", "big"]);
        let mut import = import
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        grid.wait("the import to begin", || {
            let incoming = grid.path("data/ManagedRepository/.omero-grid/incoming");
            let part = std::fs::read_dir(incoming).ok()?.next();
            part.is_some().then_some(())
        });
        kill(pid, Signal::SIGKILL);
        assert!(!import.wait().unwrap().success());
        grid.wait_successor("Blitz-0", pid);
        grid.wait("what was left to be removed", || {
            strays(&grid).is_empty().then_some(())
        });
        assert_eq!(list(&grid).len(), 1);
    }
    // A client that is killed is no better.
    let mut import = grid.command(&["file", "import", "big"]);
    let mut import = import
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    grid.wait("the import to begin", || {
        let incoming = grid.path("data/ManagedRepository/.omero-grid/incoming");
        let part = std::fs::read_dir(incoming).ok()?.next();
        part.is_some().then_some(())
    });
    import.kill().unwrap();
    import.wait().unwrap();
    grid.wait("what was left to be removed", || {
        strays(&grid).is_empty().then_some(())
    });
    assert_eq!(list(&grid).len(), 1);
}

#[test]
fn a_full_disk_refuses_the_file_and_keeps_the_rest() {
    let grid = Grid::new(&application(&[node("n", &[with_data("Blitz-0")])]));
    let Some(_small) = Small::over(grid.path("data"), 1024) else {
        return;
    };
    grid.start();
    owns(&grid);
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    std::fs::write(grid.path("big"), vec![b'x'; 2 * 1024 * 1024]).unwrap();
    grid.run("file import big")
        .exits(1)
        .says(&["No space left"]);
    assert_eq!(strays(&grid), [] as [PathBuf; 0]);
    grid.run("file import a.txt").ok();
    assert_eq!(list(&grid).len(), 2);
    grid.run("stop").ok();
}

#[test]
fn a_data_directory_that_vanishes_is_said_and_nobody_is_logged_out() {
    let server = with_data("Blitz-0").property("omero.grid.read_only.probe", "1");
    let grid = Grid::new(&application(&[node("n", &[server])]));
    grid.start();
    owns(&grid);
    grid.write("a.txt", "abc");
    grid.run("file import a.txt").ok();
    let before = list(&grid);
    let session = grid.session();
    std::fs::rename(grid.path("data"), grid.path("gone")).unwrap();
    for words in ["list", "info 1", "get 1 -o b.txt", "import a.txt"] {
        let run = grid.run(&format!("file {words}"));
        assert!(matches!(run.status, 1 | 6), "{words}: {run:?}");
    }
    grid.run("file list").exits(1).says(&["gone", "mounted"]);
    let server = grid.wait_server("Blitz-0", "to say so", |server| {
        server["blitz"]["read_only"]["repo"] == true
    });
    let why = server["blitz"]["read_only_reason"]["repo"]
        .as_str()
        .unwrap();
    assert!(why.contains("/data: ENOENT"), "{why}");
    grid.run("file import a.txt").exits(6).says(&["ENOENT"]);
    assert!(
        !grid.path("data").exists(),
        "nothing takes the place of what is gone"
    );
    grid.run(&format!("session join {session}")).ok();
    std::fs::rename(grid.path("gone"), grid.path("data")).unwrap();
    grid.wait_server("Blitz-0", "to write again", |server| {
        server["blitz"]["read_only"]["repo"] == false
    });
    assert_eq!(list(&grid), before);
    grid.run("file get 1 -o b.txt").ok();
    grid.wait("the repository to be owned again", || {
        (grid.run("file import a.txt").status == 0).then_some(())
    });
    assert_eq!(list(&grid).len(), 2);
}

/// A TIFF of one plane: little-endian, 8 bits, no compression.
fn tiff(path: &Path, width: u32, height: u32) {
    let mut bytes = b"II*\0".to_vec();
    bytes.extend(8u32.to_le_bytes());
    let entries: [(u16, u16, u32); 9] = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, width * height),
    ];
    bytes.extend(9u16.to_le_bytes());
    for (tag, kind, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(vec![0; (width * height) as usize]);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn an_image_is_described_and_remembered() {
    let grid = started();
    tiff(&grid.path("a.tif"), 7, 5);
    grid.write("a.txt", "no image");
    grid.run("file import a.tif a.txt").ok();
    let first = grid.json("image info 1");
    assert_eq!(first["from"], "saved");
    let series = &first["image"]["series"][0];
    assert_eq!(
        (&series["size_x"], &series["size_y"]),
        (&7.into(), &5.into())
    );
    let again = grid.json("image info 1");
    assert_eq!(
        (&again["from"], &again["image"]),
        (&"memo".into(), &first["image"])
    );
    let shown = grid.run("image info 1").ok().stdout;
    assert!(shown.contains("uint8"), "{shown}");
    grid.run("image info 2").exits(1).says(&["no TIFF"]);
    let file = path_of(&grid, &list(&grid)[0]);
    let memo = grid.path("data/BioFormatsCache").join(
        file.strip_prefix("/")
            .unwrap()
            .with_file_name(".a.tif.bfmemo"),
    );
    assert!(memo.exists(), "{memo:?}");
}

/// DESIGN.md §8 and OMERO's page on read-only servers: three commands, a restart, and everything that only reads goes on.
#[test]
fn three_commands_through_the_name_omero_make_a_site_read_only() {
    let grid = Grid::shipped();
    let bin = grid.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_omero-grid"), bin.join("omero")).unwrap();
    let local = grid.path("BioFormatsCache");
    let omero = |words: &str| {
        let mut command = Command::new(bin.join("omero"));
        grid.hermetic(&mut command);
        command
            .env("OMERODIR", grid.dir())
            .args(words.split_whitespace());
        grid.finish(&mut command, "").ok()
    };
    grid.run("start descriptors/default.xml").ok();
    grid.wait("the repository", || {
        grid.path("var/data/ManagedRepository/.omero-grid/owner")
            .exists()
            .then_some(())
    });
    tiff(&grid.path("a.tif"), 7, 5);
    let file = grid.json("file import a.tif");
    assert_eq!(grid.json("image info 1")["from"], "saved");
    omero("config set omero.cluster.read_only.db true");
    omero("config set omero.cluster.read_only.repo true");
    omero(&format!(
        "config set omero.pixeldata.memoizer.dir.local {}",
        local.display()
    ));
    grid.run("restart").ok();
    let server = grid.wait_server("Blitz-0", "to be read-only", |server| {
        server["blitz"]["read_only"]["db"] == true && server["blitz"]["read_only"]["repo"] == true
    });
    assert_eq!(server["state"], "active");
    let before = listing(&grid.path("var/data"));
    let changes = watch(&grid.path("var/data"));
    let session = grid.session();
    let with = |words: &str| grid.run(&format!("{words} --session {session}"));
    with("file get 1 -o b.tif").ok();
    assert_eq!(
        std::fs::read(grid.path("b.tif")).unwrap(),
        std::fs::read(grid.path("a.tif")).unwrap()
    );
    let image = with("--format json image info 1").ok().json();
    assert_eq!(image["from"], "copied");
    assert_eq!(
        with("--format json image info 1").ok().json()["from"],
        "memo"
    );
    assert_eq!(grid.json("file list"), file);
    for key in ["db", "repo"] {
        let get = format!("config service get omero.cluster.read_only.runtime.{key}");
        assert_eq!(with(&get).ok().stdout.trim(), "true");
    }
    with("file import a.tif")
        .exits(6)
        .says(&["omero.cluster.read_only.db"]);
    with("file delete 1").exits(6);
    with("script run any.py")
        .exits(6)
        .says(&["omero.cluster.read_only."]);
    assert_eq!(
        listing(&grid.path("var/data")),
        before,
        "nothing was written"
    );
    let seen = changes.read_events();
    assert_eq!(
        seen.unwrap_err(),
        nix::errno::Errno::EAGAIN,
        "not even in passing"
    );
}

/// Watches every directory below one for whatever changes it.
fn watch(dir: &Path) -> nix::sys::inotify::Inotify {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE;
    for (path, ..) in listing(dir) {
        if path.is_dir() {
            inotify.add_watch(&path, flags).unwrap();
        }
    }
    inotify
}

/// Everything below a directory, with its times.
fn listing(dir: &Path) -> Vec<(PathBuf, i64, i64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.push((
            path,
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.len(),
        ));
    }
    all.sort();
    all
}

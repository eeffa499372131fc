use std::convert::Infallible;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::format::tests::image;
use super::*;

/// An image file and two memo directories.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("shared")).unwrap();
        fs::write(dir.path().join("a.tif"), "first").unwrap();
        Self { dir }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("a.tif")
    }

    fn memo_in(&self, dir: &str) -> PathBuf {
        let dir = self.dir.path().join(dir);
        dir.join(place::relative(&self.source()).unwrap())
    }

    fn dirs(&self, read_only: bool, local: bool) -> MemoDirs {
        MemoDirs {
            shared: self.dir.path().join("shared"),
            local: local.then(|| self.dir.path().join("local")),
            read_only,
            wait: Duration::ZERO,
        }
    }

    fn memo(&self, read_only: bool, local: bool) -> Memo {
        Memo::new(self.dirs(read_only, local))
    }

    /// Opens the image; if it has to be read, it is image `number`.
    fn open(&self, memo: &Memo, number: u64) -> (u64, Origin) {
        let path = self.source();
        let file = File::open(&path).unwrap();
        let load = || Ok::<_, Infallible>(image(number));
        let Ok((image, origin)) = memo.open(&path, &file, load);
        (image.directories, origin)
    }

    /// Returns every file below a directory.
    fn files(&self, dir: &str) -> Vec<PathBuf> {
        let mut todo = vec![self.dir.path().join(dir)];
        let mut files = Vec::new();
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else if path.exists() {
                files.push(path);
            }
        }
        files
    }
}

#[test]
fn an_image_is_read_once_until_it_changes() {
    let place = Place::new();
    let memo = place.memo(false, true);
    assert_eq!(place.open(&memo, 1), (1, Origin::Saved));
    assert_eq!(place.files("shared"), [place.memo_in("shared")]);
    assert_eq!(place.open(&memo, 2), (1, Origin::Memo));
    let later = place.memo(false, false);
    assert_eq!(place.open(&later, 2), (1, Origin::Memo), "another process");
    fs::write(place.source(), "other").unwrap();
    assert_eq!(place.open(&memo, 3), (3, Origin::Saved));
    assert_eq!(place.open(&memo, 4), (3, Origin::Memo));
    assert!(
        !place.dir.path().join("local").exists(),
        "it counts on a read-only repository only"
    );
}

#[test]
fn what_was_read_quickly_is_not_kept() {
    let place = Place::new();
    let memo = Memo::new(MemoDirs {
        wait: Duration::from_secs(3600),
        ..place.dirs(false, false)
    });
    assert_eq!(place.open(&memo, 1), (1, Origin::Fresh));
    assert!(place.files("shared").is_empty());
}

#[test]
fn what_changed_while_it_was_read_is_not_kept() {
    let place = Place::new();
    let path = place.source();
    let file = File::open(&path).unwrap();
    let load = || {
        fs::write(&path, "changed meanwhile").unwrap();
        Ok::<_, Infallible>(image(1))
    };
    let Ok((_, origin)) = place.memo(false, false).open(&path, &file, load);
    assert_eq!(origin, Origin::Fresh);
    assert!(place.files("shared").is_empty());
}

#[test]
fn a_failure_to_read_the_image_is_told_and_nothing_is_kept() {
    let place = Place::new();
    let file = File::open(place.source()).unwrap();
    let result = place
        .memo(false, false)
        .open(&place.source(), &file, || Err("broken"));
    assert_eq!(result, Err("broken"));
    assert!(place.files("shared").is_empty());
}

#[test]
fn on_a_read_only_repository_nothing_is_written_to_the_shared_directory() {
    let place = Place::new();
    let memo = place.memo(true, false);
    assert_eq!(place.open(&memo, 1), (1, Origin::Fresh));
    assert_eq!(place.open(&place.memo(false, false), 2), (2, Origin::Saved));
    assert_eq!(
        place.open(&memo, 3),
        (2, Origin::Memo),
        "reading is allowed"
    );
    let before = fs::metadata(place.memo_in("shared"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(place.source(), "other").unwrap();
    assert_eq!(place.open(&memo, 4), (4, Origin::Fresh));
    let local = place.memo(true, true);
    assert_eq!(place.open(&local, 5), (5, Origin::Saved));
    assert_eq!(place.files("local"), [place.memo_in("local")]);
    let after = fs::metadata(place.memo_in("shared"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_shared_memo_is_copied_where_the_local_one_is_missing_or_stale() {
    let place = Place::new();
    assert_eq!(place.open(&place.memo(false, false), 1), (1, Origin::Saved));
    let memo = place.memo(true, true);
    assert!(place.dir.path().join("local").is_dir(), "made at the start");
    assert_eq!(place.open(&memo, 2), (1, Origin::Copied));
    let bytes = |dir| fs::read(place.memo_in(dir)).unwrap();
    assert_eq!(bytes("local"), bytes("shared"));
    assert_eq!(place.open(&memo, 2), (1, Origin::Memo));
    fs::remove_file(place.memo_in("shared")).unwrap();
    assert_eq!(
        place.open(&memo, 2),
        (1, Origin::Memo),
        "the local one is enough"
    );
    fs::write(place.source(), "other").unwrap();
    assert_eq!(place.open(&place.memo(false, false), 3), (3, Origin::Saved));
    assert_eq!(place.open(&memo, 4), (3, Origin::Copied));
    fs::write(place.source(), "once more").unwrap();
    assert_eq!(place.open(&memo, 5), (5, Origin::Saved), "both were stale");
}

#[test]
fn foreign_memos_are_copied_untouched_and_never_used_or_replaced() {
    let place = Place::new();
    let foreign = |dir: &str, text: &str| {
        let path = place.memo_in(dir);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for text in [
        "",
        "kryo",
        "\u{1}\0java serialised, and long enough for a magic",
    ] {
        foreign("shared", text);
        assert_eq!(place.open(&place.memo(false, false), 1), (1, Origin::Fresh));
        let memo = place.memo(true, true);
        assert_eq!(place.open(&memo, 2), (2, Origin::Fresh));
        assert_eq!(fs::read(place.memo_in("local")).unwrap(), text.as_bytes());
        assert_eq!(fs::read(place.memo_in("shared")).unwrap(), text.as_bytes());
        foreign("local", "newer");
        assert_eq!(place.open(&memo, 3), (3, Origin::Fresh));
        assert_eq!(fs::read(place.memo_in("local")).unwrap(), b"newer");
        fs::remove_file(place.memo_in("local")).unwrap();
    }
    // One of ours, be it of an older state, has a right to be there; theirs does not replace it.
    fs::remove_file(place.memo_in("shared")).unwrap();
    let memo = place.memo(true, true);
    assert_eq!(place.open(&memo, 4), (4, Origin::Saved));
    foreign("shared", "kryo");
    fs::write(place.source(), "other").unwrap();
    assert_eq!(place.open(&memo, 5), (5, Origin::Saved));
}

#[test]
fn what_is_no_file_is_left_alone_and_not_waited_for() {
    let place = Place::new();
    let memo = place.memo_in("shared");
    fs::create_dir_all(memo.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&memo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(place.open(&place.memo(false, false), 1), (1, Origin::Fresh));
    assert!(memo.exists());
}

#[test]
fn what_a_dead_writer_left_is_removed_at_the_first_write() {
    let place = Place::new();
    let directory = place.memo_in("shared").parent().unwrap().to_owned();
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(".omero-grid-dead.tmp"), "half a memo").unwrap();
    assert_eq!(place.open(&place.memo(false, false), 1), (1, Origin::Saved));
    assert_eq!(place.files("shared"), [place.memo_in("shared")]);
}

#[test]
fn without_a_place_to_write_images_are_read_all_the_same() {
    let place = Place::new();
    let shared = place.dir.path().join("shared");
    fs::remove_dir(&shared).unwrap();
    symlink("nowhere/at/all", &shared).unwrap();
    fs::write(place.dir.path().join("local"), "a file").unwrap();
    for memo in [place.memo(false, false), place.memo(true, true)] {
        for _ in 0..2 {
            assert_eq!(place.open(&memo, 1), (1, Origin::Fresh));
            assert!(memo.warned.load(Ordering::Relaxed));
        }
    }
    fs::remove_file(&shared).unwrap();
    let memo = place.memo(false, false);
    memo.warned.store(true, Ordering::Relaxed);
    assert_eq!(place.open(&memo, 1), (1, Origin::Saved));
    assert!(
        !memo.warned.load(Ordering::Relaxed),
        "the next trouble is told again"
    );
}

/// A small file system over a directory, until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn over(path: PathBuf, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        println!("skipped: mounting is not permitted here");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_images_are_read_all_the_same_and_nothing_is_left_of_the_memo() {
    let _alone = crate::sys::reaper::ALONE.blocking_lock();
    let place = Place::new();
    let Some(_mount) = Mount::over(place.dir.path().join("shared"), "size=64k") else {
        return;
    };
    let ballast = place.dir.path().join("shared/ballast");
    let memo = place.memo(false, false);
    // Directories first, so that it is the file that finds no room.
    fs::create_dir_all(place.memo_in("shared").parent().unwrap()).unwrap();
    let full = fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(place.open(&memo, 1), (1, Origin::Fresh));
    assert_eq!(place.files("shared"), std::slice::from_ref(&ballast));
    fs::remove_file(&ballast).unwrap();
    assert_eq!(place.open(&memo, 2), (2, Origin::Saved));
}

#[test]
fn nobody_sees_half_a_memo() {
    let place = Place::new();
    let begin = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (place, begin) = (&place, &begin);
            scope.spawn(move || {
                // Each is as another process: nothing is shared but the directory.
                let memo = place.memo(false, false);
                begin.wait();
                for _ in 0..50 {
                    let (number, _) = place.open(&memo, writer);
                    assert!(number < 8);
                    let identity = Identity::of(&File::open(place.source()).unwrap()).unwrap();
                    let found = format::read(&place.memo_in("shared"), &identity);
                    assert!(
                        matches!(found, Found::Image(_) | Found::Nothing),
                        "{found:?}"
                    );
                    if writer == 0 {
                        let _ = fs::remove_file(place.memo_in("shared"));
                    }
                }
            });
        }
    });
    place.open(&place.memo(false, false), 0);
    assert_eq!(place.files("shared"), [place.memo_in("shared")]);
}

//! Mounts for tests, where they are permitted.

use std::path::PathBuf;
use std::process::Command;

/// Makes a path read-only by mounting it over itself, as long as this value lives.
pub(crate) struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None`, visibly, where that is not permitted.
    pub(crate) fn over(path: PathBuf) -> Option<Self> {
        let mount = |args: &[&str]| {
            let mut mount = Command::new("mount");
            mount.args(args).arg(&path);
            mount.output().is_ok_and(|output| output.status.success())
        };
        let this = Self(path.clone());
        if mount(&["--bind", path.to_str().unwrap()]) && mount(&["-o", "remount,bind,ro"]) {
            return Some(this);
        }
        println!("skipped: mounting is not permitted here");
        None
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // Lazily: processes of a test that failed may still be in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// A file system of so many KiB, as long as this value lives.
pub(crate) struct Small(PathBuf);

impl Small {
    pub(crate) fn over(dir: PathBuf, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(&dir);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: mounting is not permitted here");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

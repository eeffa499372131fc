//! What file system a path is on.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A file system where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Its type, in the kernel's words.
    pub kind: String,
}

impl Mount {
    /// Returns what a path is on, or would be on if it were there.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let mut there = path.ancestors().filter_map(|path| path.canonicalize().ok());
        let Some(path) = there.next() else {
            return Ok(None);
        };
        Ok(find(&fs::read("/proc/self/mountinfo")?, &path))
    }

    /// Returns whether its files are another machine's.
    pub fn is_remote(&self) -> bool {
        const REMOTE: [&str; 17] = [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "ceph",
            "lustre",
            "gpfs",
            "beegfs",
            "afs",
            "glusterfs",
            "ocfs2",
            "gfs2",
            "pvfs2",
            "orangefs",
            "9p",
            "ncpfs",
        ];
        const IN_USER_SPACE: [&str; 6] = [
            "fuse.sshfs",
            "fuse.glusterfs",
            "fuse.ceph",
            "fuse.s3fs",
            "fuse.rclone",
            "fuse.beegfs",
        ];
        REMOTE.contains(&&*self.kind) || IN_USER_SPACE.contains(&&*self.kind)
    }
}

/// Finds the innermost mount that a path is below; of several at one place the last one is seen.
fn find(mountinfo: &[u8], path: &Path) -> Option<Mount> {
    let mounts = mountinfo.split(|byte| *byte == b'\n').filter_map(parse);
    mounts
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// Reads a line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4)?;
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        point: PathBuf::from(std::ffi::OsString::from_vec(unescape(point))),
        kind: String::from_utf8_lossy(after.next()?).into_owned(),
    })
}

/// Takes the octal protection of blanks away.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(meant) => {
                out.push(meant);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts_and_the_last_of_a_place() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 22 0:40 / /srv rw shared:1 - nfs4 server:/srv rw\n\
            31 30 0:41 / /srv/a\\040b rw shared:1 master:2 - tmpfs tmpfs rw\n\
            32 30 0:42 / /srv/a\\040b rw - xfs /dev/sdb rw\nrubbish\n";
        for (path, kind, remote) in [
            ("/home/x", "ext4", false),
            ("/srvother", "ext4", false),
            ("/srv/omero", "nfs4", true),
            ("/srv/a b/c", "xfs", false),
        ] {
            let mount = find(text, Path::new(path)).unwrap();
            assert_eq!((&*mount.kind, mount.is_remote()), (kind, remote), "{path}");
        }
        assert!(Mount::of(Path::new("/not/there")).unwrap().is_some());
    }
}

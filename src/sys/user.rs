//! Giving up root.

use std::io;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

/// Becomes the owner of a directory for good, with the owner's groups. Returns whether that changed anything: only root
/// can, and only a directory of somebody else's makes it.
pub fn become_owner_of(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(dir)?;
    if !geteuid().is_root() || metadata.uid() == 0 {
        return Ok(false);
    }
    let uid = Uid::from_raw(metadata.uid());
    // An owner without an account has the directory's group and no other.
    match User::from_uid(uid)? {
        Some(user) => {
            let name = std::ffi::CString::new(user.name).map_err(|_| io::ErrorKind::InvalidData)?;
            initgroups(&name, user.gid)?;
            setgid(user.gid)?;
        }
        None => {
            let gid = Gid::from_raw(metadata.gid());
            setgroups(&[gid])?;
            setgid(gid)?;
        }
    }
    setuid(uid)?;
    Ok(true)
}

//! The system calls of steps: always beneath a folder that is open, never through a symlink.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

use super::Stop;
use super::tree::Place;

pub(super) fn beneath(dir: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open_in(dir, path, flags, 0)
}

pub(super) fn open_in(dir: &OwnedFd, path: &Path, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(nix::fcntl::openat2(dir, path, how)?)
}

pub(super) fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, new: &str, flags: RenameFlags) -> Result<(), Stop> {
    match nix::fcntl::renameat2(from, name, to, new, flags) {
        Ok(()) => Ok(()),
        // Something is there that was not observed yet.
        Err(nix::Error::EEXIST) => Err(Stop::Busy),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn unlink(dir: &OwnedFd, name: &str, folder: bool) -> Result<(), Stop> {
    use nix::unistd::UnlinkatFlags::{NoRemoveDir, RemoveDir};
    match nix::unistd::unlinkat(dir, name, if folder { RemoveDir } else { NoRemoveDir }) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::ENOTEMPTY) => Err(Stop::Busy),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn exists(place: &Place<'_>) -> bool {
    let stat = nix::sys::stat::fstatat(&place.dir, place.name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    stat != Err(nix::Error::ENOENT)
}

pub(super) fn sync(dir: &OwnedFd) -> Result<(), Stop> {
    Ok(nix::unistd::fsync(dir)?)
}

pub(super) fn mtime(place: &Place<'_>) -> Result<TimeSpec, Stop> {
    let stat = nix::sys::stat::fstatat(&place.dir, place.name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

pub(super) fn entries(dir: &OwnedFd) -> Result<Vec<String>, Stop> {
    let mut out = Vec::new();
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    for entry in std::fs::read_dir(path)? {
        out.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(out)
}

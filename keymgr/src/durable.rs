//! Small files that must survive a power cut whole: written aside, fsynced, renamed, the directory fsynced.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

/// An input or output error with its path.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
pub struct Error {
    pub path: PathBuf,
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error { path: path.to_owned(), source }
}

/// Replaces `path` by these bytes: after a crash it is the old file or the new one. Mode 0600.
pub fn save(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let aside = aside(path);
        let mut file = open_aside(&aside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)
    };
    write().map_err(at(path))?;
    sync_dir(parent(path))
}

/// The file written aside, locked: two programs that save at once do so one after the other, and one left by a crash is
/// used again. Nothing else is locked, so that whoever holds the directory can save in it.
fn open_aside(aside: &Path) -> io::Result<Flock<File>> {
    loop {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let file = Flock::lock(options.open(aside)?, FlockArg::LockExclusive).map_err(|(_, e)| io::Error::from(e))?;
        let meta = file.metadata()?;
        match aside.symlink_metadata() {
            // Somebody's own file under another name: it is not ours to write.
            Ok(now) if now.ino() == meta.ino() && meta.nlink() != 1 => std::fs::remove_file(aside)?,
            Ok(now) if now.ino() == meta.ino() && now.dev() == meta.dev() => return Ok(file),
            // Renamed by who held the lock before: that one is the saved file now.
            _ => {}
        }
    }
}

/// The file's bytes, at most `max` of them: more is an error, not an allocation.
pub fn load(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, Error> {
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        let file =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
        }
        if meta.len() > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {max} bytes")));
        }
        // All the room at once: growing would leave copies of what may be secret.
        let mut bytes = Zeroizing::new(Vec::with_capacity(meta.len() as usize + 1));
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(at(path))
}

/// Removes a file durably; one that is not there is removed already.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(path)(e)),
        _ => {}
    }
    sync_dir(parent(path))
}

/// Makes a directory (mode 0700) and those above it that are missing, durably.
pub fn make_dir(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        make_dir(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(path)(e)),
        _ => {}
    }
    sync_dir(above)
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// `.NAME.new` beside the file.
fn aside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        make_dir(path.parent().unwrap()).unwrap();
        save(&path, b"one").unwrap();
        std::fs::write(aside(&path), b"left by a crash").unwrap();
        save(&path, b"two").unwrap();
        assert_eq!(load(&path, 3).unwrap().as_slice(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!aside(&path).exists());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(load(&path, 3).is_err());
    }

    #[test]
    fn savers_at_once_leave_one_whole_file_and_a_held_directory_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let _held = Flock::lock(File::open(dir.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            for n in 1..5u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| save(path, &vec![n; n as usize * 1000]).unwrap()));
            }
        });
        let bytes = load(&path, 10_000).unwrap();
        assert_eq!(bytes.len(), bytes[0] as usize * 1000);
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        assert!(!aside(&path).exists());
    }

    #[test]
    fn a_file_of_another_name_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        std::fs::write(&other, b"other").unwrap();
        std::fs::hard_link(&other, aside(&path)).unwrap();
        save(&path, b"mine").unwrap();
        assert_eq!(std::fs::read(&other).unwrap(), b"other");
        assert_eq!(load(&path, 10).unwrap().as_slice(), b"mine");
    }

    #[test]
    fn what_is_too_large_or_no_plain_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        save(&path, b"four").unwrap();
        assert!(load(&path, 3).unwrap_err().to_string().contains("file"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(load(&link, 10).is_err());
        assert!(load(dir.path(), 10).is_err());
    }
}

//! Small files that must survive a power cut whole: written aside, fsynced, renamed, the directory fsynced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
///
/// The directory is locked meanwhile, so that two programs saving at once do not share the file written aside.
pub fn save(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let dir = parent(path);
    let aside = aside(path);
    let lock = File::open(dir).map_err(at(dir))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| at(dir)(e.into()))?;
    let write = || -> io::Result<()> {
        match std::fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        lock.sync_all()
    };
    write().map_err(at(path))
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
    use std::os::unix::fs::PermissionsExt;

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

//! What an operation on a volume can fail with, and the errno that a program sees. The only such map.

use std::io;
use std::path::{Path, PathBuf};

use crate::content;
use crate::format::Refused;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Content(#[from] content::Error),
    #[error("{}: refused: {why}", path.display())]
    Refused { path: PathBuf, why: Refused },
    /// It is not what the records say, or not what kith writes.
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    /// What a program did that no file system would do, as errno.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// Later it can be done.
    #[error("{}: {what}", path.display())]
    Busy { path: PathBuf, what: &'static str },
    #[error("{}: {source}", path.display())]
    Mount { path: PathBuf, source: io::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    pub fn refused(path: &Path) -> impl FnOnce(Refused) -> Error + '_ {
        move |why| match why {
            Refused::TooLong => Error::Errno(libc::ENAMETOOLONG),
            Refused::Name => Error::Errno(libc::EINVAL),
            why => Error::Refused { path: path.to_owned(), why },
        }
    }

    /// Whether something in the store is not as kith left it.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Content(e) => e.is_damage(),
            Error::Refused { why, .. } => *why != Refused::NoKey,
            Error::Damaged { .. } => true,
            Error::Io { .. } | Error::Errno(_) | Error::Busy { .. } | Error::Mount { .. } => false,
        }
    }

    /// Whether the disk has not what the table knows.
    pub fn is_missing(&self) -> bool {
        let (Error::Io { source, .. } | Error::Content(content::Error::Io { source, .. })) = self else { return false };
        source.kind() == io::ErrorKind::NotFound
    }

    /// Whether what was asked for is not there, or no longer.
    pub fn is_gone(&self) -> bool {
        matches!(self.errno(), libc::ENOENT | libc::ESTALE)
    }

    pub fn errno(&self) -> i32 {
        match self {
            Error::Errno(errno) => *errno,
            Error::Busy { .. } => libc::EBUSY,
            Error::Io { source, .. }
            | Error::Mount { source, .. }
            | Error::Content(content::Error::Io { source, .. }) => match source.raw_os_error() {
                // What the disk refuses of the store's own names is no answer to a program.
                Some(libc::EXDEV | libc::ELOOP | libc::EBADF | libc::EAGAIN) | None => libc::EIO,
                Some(errno) => errno,
            },
            Error::Content(content::Error::TooLarge { .. }) => libc::EFBIG,
            Error::Refused { why: Refused::NoKey, .. } => libc::EACCES,
            Error::Content(content::Error::Header { why: Refused::NoKey, .. })
            | Error::Content(content::Error::Page { why: Refused::NoKey, .. }) => libc::EACCES,
            Error::Content(_) | Error::Refused { .. } | Error::Damaged { .. } => libc::EIO,
        }
    }
}

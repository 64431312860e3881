//! What a person is told: what happened, what to do, and the exit code (kith(1), EXIT STATUS).

use std::fmt;

/// The exit codes of kith(1). A number, once given, never means anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Code {
    Other = 1,
    Usage = 2,
    NotAVault = 10,
    NewerFormat = 11,
    WrongPassphrase = 12,
    Damaged = 13,
    NotEmpty = 14,
    MountpointMissing = 20,
    MountpointNotEmpty = 21,
    MountpointInUse = 22,
    MountFailed = 23,
    BrokerUnreachable = 30,
    BrokerCertificate = 31,
    LoginRefused = 32,
    NoSuchAccount = 33,
    RegistrationRefused = 34,
    PlaintextRefused = 35,
    PairingFailed = 40,
    PairingTimedOut = 41,
    NotKith = 42,
    AlreadyShared = 43,
    ReadOnlyShare = 44,
    NotShared = 45,
    NotAllowed = 46,
    KeyChanged = 47,
    BadWords = 48,
    OwnerGone = 49,
    DiskFull = 50,
    NotRunning = 60,
    AlreadyRunning = 61,
    Findings = 70,
}

/// One line of what happened, one of what to do.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub what: String,
    pub todo: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: Code, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { code, what: what.into(), todo: todo.into() }
    }

    /// An I/O error at a path; a full disk has its own code.
    pub fn io(path: impl AsRef<std::path::Path>, error: &std::io::Error) -> Self {
        let said = error.to_string();
        let said = said.split(" (os error").next().unwrap_or_default();
        let what = format!("{}: {said}.", printable(&path.as_ref().to_string_lossy()));
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                Self::new(Code::DiskFull, what, "Make room on that disk, then run the command again. Nothing was lost.")
            }
            _ => Self::new(Code::Other, what, "Check that the path exists and that you may use it."),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kith: {}\n      {}", self.what, self.todo)
    }
}

impl std::error::Error for Error {}

/// A text from elsewhere (a name, a peer's words) as a terminal may see it: control characters escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional overrides reorder what follows them on a terminal.
        let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if c.is_control() || reorders { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// What a person is told of records or bodies that cannot be read or written.
pub fn replica(store: &std::path::Path, error: &sync::replica::Error) -> Error {
    use sync::replica::Error as E;
    let what = format!("{}: {}.", store.display(), printable(&error.to_string()));
    let full = |e: &std::io::Error| matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    match error {
        E::Log(sync::log::Error::Damaged { .. }) => {
            Error::new(Code::Damaged, what, "Put records/ back from a backup of this vault; nothing was changed.")
        }
        E::Log(sync::log::Error::Io { source, .. })
        | E::Bodies(sync::bodies::Error::Io { source, .. })
        | E::Io { source, .. }
            if full(source) =>
        {
            Error::new(Code::DiskFull, what, "Make room on that disk. Nothing was lost.")
        }
        _ => Error::new(Code::Other, what, "Check the disk and the permissions of the store."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_for_the_terminal_are_shown_not_obeyed() {
        assert_eq!(printable("a\x1b[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
        assert_eq!(printable("Grüße 🎉"), "Grüße 🎉");
    }
}

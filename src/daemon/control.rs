//! The control socket: one JSON object a line, both ways. Only the owner can open it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

/// The longest line that either side reads.
pub const MAX_LINE: u64 = 1 << 20;

/// What a command asks of a running daemon.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    Status,
    /// Unmount, record everything, seal the mark, end.
    Stop,
    /// Use this account from now on.
    Account(AccountRequest),
    /// Let a device in. The daemon answers with `Code`, then `Confirm` perhaps, then `Paired`.
    Pair {
        jid: Option<String>,
        timeout: u64,
    },
    /// The answer to `Confirm`.
    Allow {
        allow: bool,
    },
    /// Verify everything.
    Fsck {
        repair: bool,
    },
    Share {
        path: PathBuf,
        jid: String,
        role: String,
        may_invite: bool,
    },
    Invites,
    Accept {
        which: Option<String>,
        at: Option<PathBuf>,
    },
    Decline {
        which: Option<String>,
    },
    Leave {
        path: PathBuf,
    },
    /// From everybody where no JID is named.
    Unshare {
        path: PathBuf,
        jid: Option<String>,
    },
    /// The numbers to be compared.
    Safety {
        jid: String,
    },
    /// They were compared.
    Verified {
        jid: String,
        account: String,
    },
    RemovePeer {
        name: String,
        lost: bool,
    },
    /// The words of the recovery sheet.
    Recovery,
    /// They were typed back: the key is erased from this device.
    RecoveryDone,
}

#[derive(Serialize, Deserialize)]
pub struct AccountRequest {
    pub jid: String,
    #[serde(with = "secret_text")]
    pub password: Zeroizing<String>,
    pub register: bool,
    pub ca: Option<PathBuf>,
    pub server: Option<String>,
    pub plaintext_loopback: bool,
}

/// What the daemon answers.
#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    Done { value: serde_json::Value },
    Code { code: String },
    Confirm { jid: String },
    Failed { what: String, todo: String, code: u8 },
}

/// A command's side of the socket.
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// None where no daemon listens.
    pub fn connect(socket: &Path) -> Option<Self> {
        UnixStream::connect(socket).ok().map(|s| Self { reader: BufReader::new(s) })
    }

    pub fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = Zeroizing::new(serde_json::to_vec(request).map_err(|_| gone())?);
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).map_err(|_| gone())
    }

    pub fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        std::io::Read::take(&mut self.reader, MAX_LINE).read_line(&mut line).map_err(|_| gone())?;
        match serde_json::from_str(&line).map_err(|_| gone())? {
            Answer::Failed { what, todo, code } => Err(Error { code: super::background::code_of(code), what, todo }),
            answer => Ok(answer),
        }
    }

    /// Asks, and waits for the last answer.
    pub fn ask(&mut self, request: &Request) -> Result<serde_json::Value> {
        self.send(request)?;
        match self.answer()? {
            Answer::Done { value } => Ok(value),
            _ => Err(gone()),
        }
    }
}

fn gone() -> Error {
    Error::new(Code::NotRunning, "The daemon of this vault went away.", "Mount the vault again, or run `kith sync`.")
}

/// A password on its way through the socket, which only the owner can open.
mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub fn serialize<S: Serializer>(text: &Zeroizing<String>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(text)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(d).map(Zeroizing::new)
    }
}

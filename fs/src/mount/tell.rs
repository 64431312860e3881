//! What the kernel is told when something else than it changed a volume: by a thread of its own, since the kernel may have
//! to wait for operations, which must never wait for this.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

use super::forest::global;
use crate::volume::{Notify, Volume};

enum Tell {
    Names(u64, Vec<Vec<u8>>),
    Content(u64),
    /// All before it was told.
    Answer(Sender<()>),
}

/// Ends, and its thread with it, when the last clone of it is gone.
#[derive(Clone)]
pub(super) struct Teller(Arc<Mutex<Sender<Tell>>>);

/// One volume's way to it.
struct Numbered(u16, Teller);

impl Teller {
    pub fn start(notifier: Notifier) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("kith-teller".into())
            .spawn(move || receiver.iter().for_each(|tell| speak(&notifier, tell)))?;
        Ok((Self(Arc::new(Mutex::new(sender))), thread))
    }

    pub fn listen(&self, number: u16, volume: &Volume) {
        *volume.0.notifier.lock() = Some(Arc::new(Numbered(number, self.clone())));
    }

    pub fn unlisten(&self, volume: &Volume) {
        *volume.0.notifier.lock() = None;
    }

    /// What the kernel holds of these files and has not written back yet comes now; and it forgets what it read.
    pub fn write_back(&self, number: u16, inos: Vec<u64>) {
        let (sender, answer) = channel();
        for ino in inos {
            self.send(Tell::Content(global(number, ino)));
        }
        self.send(Tell::Answer(sender));
        // Nobody answers when the mount has ended: then the kernel holds nothing.
        let _ = answer.recv();
    }

    fn send(&self, tell: Tell) {
        let _ = self.0.lock().send(tell);
    }
}

impl Notify for Numbered {
    fn forget_names(&self, folder: u64, names: Vec<Vec<u8>>) {
        self.1.send(Tell::Names(global(self.0, folder), names));
    }

    fn forget_content(&self, ino: u64) {
        self.1.send(Tell::Content(global(self.0, ino)));
    }
}

fn speak(notifier: &Notifier, tell: Tell) {
    // What the kernel has forgotten by itself needs no telling.
    match tell {
        Tell::Names(folder, names) => {
            for name in names {
                let _ = notifier.inval_entry(INodeNo(folder), OsStr::from_bytes(&name));
            }
        }
        Tell::Content(ino) => drop(notifier.inval_inode(INodeNo(ino), 0, 0)),
        Tell::Answer(sender) => drop(sender.send(())),
    }
}

//! The driver: joins the engine with the disk and with peers.
//!
//! Who may do what when: `authoring` is held around an observation with the records made of it, and around a run of
//! steps, so that neither sees the other's half. It is taken first, then the file system's gate ([`Host::enter`]), then
//! `core`. A file operation holds the gate's reading side and may ask for `core`; nothing that holds `core` waits for the gate.

mod audit;
mod author;
mod circle;
mod elsewhere;
mod faults;
mod fetch;
mod forget;
mod objects;
mod seen;
mod serve;
mod snapshot;
mod start;
mod status;
mod steps;
mod take;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use futures::future::BoxFuture;
use keymgr::circle::{Access, Circle};
use keymgr::device::DeviceKeys;
use keymgr::ids::{DeviceId, FileId, Incarnation, Locator, NodeId, Root, ShareId, StoreName};
use keymgr::keyring::Head;
use keymgr::root::Groups;
use keymgr::shelf::Shelf;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};

use crate::bodies::Bodies;
use crate::engine::{Engine, EntryId, Heads};
use crate::index::Index;
pub use crate::install::Inside;
use crate::install::Tree;
use crate::log::Logs;
use crate::record::{Author, Content, Kind};
use crate::{bodies, log};

pub use author::Observed;
pub(crate) use elsewhere::{Elsewhere, Like};
pub use faults::{Fault, Wrong};
pub use start::Opened;
pub use status::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Bodies(#[from] bodies::Error),
    #[error("{}: {source}", path.display())]
    Io { path: std::path::PathBuf, source: std::io::Error },
    #[error("the index: {0}")]
    Index(#[from] sled::Error),
    #[error("{0}")]
    Members(#[from] crate::members::Error),
    #[error("a record could not be made: {0}")]
    Record(#[from] crate::record::RecordError),
}

/// What the keys are needed for, on a full device.
pub trait Host: Send + Sync + 'static {
    /// Runs `f` while no file operation runs.
    fn enter(&self, f: &mut dyn FnMut(&dyn Inside));
    /// The name `name` of `id` in folder `from`, sealed for folder `to`.
    fn reseal(&self, from: NodeId, name: &StoreName, to: NodeId, id: EntryId) -> Option<(StoreName, Locator)>;
    /// A name beside `name` in `parent` that says what happened: "name (conflict, DEVICE, DATE).ext". `attrs`, sealed for
    /// `attrs_for`, say the date.
    fn conflict_name(
        &self,
        parent: NodeId,
        name: &StoreName,
        id: EntryId,
        device: &str,
        attrs: &[u8],
        attrs_for: EntryId,
    ) -> Option<(StoreName, Locator)>;
    /// Makes `to` a copy of the ciphertext `body` as `file`, the same bytes on every device.
    fn copy_as(&self, body: &Path, to: &Path, file: FileId) -> bool;
    /// Verifies a file, and tells of it ([`Replica::damaged`]) where it is refused.
    fn verify(&self, folder: &NodeId, name: &StoreName);
    /// Attributes sealed for one file, sealed for another.
    fn readdress(&self, attrs: &[u8], from: EntryId, to: EntryId) -> Option<Vec<u8>>;
}

/// How peers are asked; the network, or a test's stand-in.
pub trait Peers: Send + Sync + 'static {
    fn request(
        &self,
        peer: DeviceId,
        request: hyper::Request<Bytes>,
    ) -> BoxFuture<'static, Result<hyper::Response<hyper::body::Incoming>, String>>;
}

pub struct Config {
    pub store: std::path::PathBuf,
    pub share: ShareId,
    pub keys: Arc<DeviceKeys>,
    /// What is known of it; what the store has beside it is learned at the start.
    pub circle: Circle,
    pub shelf: Shelf,
    pub incarnation: Incarnation,
    /// The session's number, and whether the one before ended well.
    pub session: u64,
    pub clean: bool,
}

/// One share's replication on this device. Clones are the same.
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

struct Inner {
    store: std::path::PathBuf,
    share: ShareId,
    keys: Arc<DeviceKeys>,
    access: Access,
    me: DeviceId,
    authoring: Mutex<()>,
    core: Mutex<Core>,
    tree: Tree,
    bodies: Bodies,
    index: Index,
    host: Mutex<Option<Arc<dyn Host>>>,
    net: Mutex<Option<Arc<dyn Peers>>>,
    /// Something is there for the feeds.
    news: watch::Sender<u64>,
    /// Who is in the share, and the keys of its epochs, wrapped.
    circle: watch::Sender<Circle>,
    shelf: watch::Sender<Shelf>,
    kept: Mutex<crate::members::Kept>,
    title: Mutex<String>,
    /// Whether there may be records of others to be said anew.
    anew: AtomicBool,
    /// The shares that have a place in this one.
    junctions: watch::Sender<BTreeSet<ShareId>>,
    /// The other shares of this device.
    elsewhere: Mutex<Option<Arc<dyn Elsewhere>>>,
    step: (Mutex<Work>, Condvar),
    fetch: mpsc::UnboundedSender<fetch::Event>,
    peers: Mutex<HashMap<DeviceId, Peer>>,
    /// The feeds that peers read here.
    feeds: Mutex<HashMap<DeviceId, tokio::task::AbortHandle>>,
    /// Signed heads, and what was found out by them.
    seen: Mutex<seen::Seens>,
    /// Authors of whom records were refused.
    refused: Mutex<HashSet<DeviceId>>,
    /// Files that were not what their records say, as far as they were told.
    damage: Mutex<Vec<std::path::PathBuf>>,
    watcher: Mutex<Option<notify::RecommendedWatcher>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    notices: Mutex<Vec<String>>,
    /// Runs the tasks; kept here so that whoever calls need not have one.
    runtime: tokio::runtime::Handle,
}

/// What the stepping thread is to do.
#[derive(Default)]
struct Work {
    due: bool,
    end: bool,
}

struct Core {
    engine: Engine,
    logs: Logs,
    author: Author,
    /// Bodies that became whole here, for the feeds to tell; trimmed from the front.
    haves: std::collections::VecDeque<Root>,
    haves_from: u64,
    /// What a delta of a body is against, and which groups changed: (base, groups).
    deltas: HashMap<Root, (Root, Vec<u32>)>,
    session: u64,
}

#[derive(Default)]
struct Peer {
    up: bool,
    /// How far it has read, as far as it is known; and as it last said itself when it had sent all.
    heads: Heads,
    told: Option<Heads>,
    feed: Option<tokio::task::AbortHandle>,
    said_of_circle: circle::Said,
    /// Bodies that it did not have when asked.
    lacks: HashSet<Root>,
    /// Bodies that it is being asked for, and those of them that it said it has since.
    asked: HashSet<Root>,
    has: HashSet<Root>,
    /// Wanted bodies that it said it has, and those of them that it does not give.
    said: HashSet<Root>,
    dropped: HashSet<Root>,
    /// What is read for it here at once.
    turns: objects::Turns,
    /// Not asked for a body before this, after it broke off so many times.
    rest: Option<std::time::Instant>,
    broken: u32,
}

impl Replica {
    /// The file system, once it is there; steps are done from then on. A blind device calls this with `None`.
    pub fn begin(&self, host: Option<Arc<dyn Host>>) {
        *self.0.host.lock() = host;
        let inner = self.0.clone();
        match std::thread::Builder::new().name("kith-steps".into()).spawn(move || inner.step_until_end()) {
            Ok(thread) => *self.0.thread.lock() = Some(thread),
            Err(e) => tracing::error!("no thread for the steps: {e}"),
        }
        self.0.kick();
        self.0.watch();
    }

    pub fn set_net(&self, net: Option<Arc<dyn Peers>>) {
        *self.0.net.lock() = net;
    }

    /// A link to a peer came up: its feed is read from now on.
    pub fn peer_up(&self, peer: DeviceId) {
        self.0.peer_up(peer);
    }

    pub fn peer_down(&self, peer: DeviceId) {
        if let Some(p) = self.0.peers.lock().get_mut(&peer) {
            p.up = false;
            if let Some(feed) = p.feed.take() {
                feed.abort();
            }
        }
    }

    /// The shares that have a place in this one, now and whenever they change: those that this device is to hold too.
    pub fn junctions(&self) -> watch::Receiver<BTreeSet<ShareId>> {
        self.0.junctions.subscribe()
    }

    /// What the records say is in a file that this disk shows, with its chaining values where they are known.
    pub fn disk_file(&self, file: &FileId) -> Option<(Content, Option<Groups>)> {
        let content = self.0.core.lock().engine.disk_file(file)?;
        Some((content, self.0.bodies.known_groups(&content.root)))
    }

    /// What kind of file the records say that is.
    pub fn disk_kind(&self, file: &FileId) -> Option<Kind> {
        self.0.core.lock().engine.disk_kind(file)
    }

    /// What the records say is in a folder of this disk.
    pub fn disk_folder(&self, node: &NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        self.0.core.lock().engine.disk_folder(node)
    }

    pub fn has_disk_folder(&self, node: &NodeId) -> bool {
        self.0.core.lock().engine.has_disk_folder(node)
    }

    /// The newest records of all logs here, for the mark.
    pub fn mark_heads(&self) -> Vec<Head> {
        let core = self.0.core.lock();
        let share = core.engine.share();
        let head = |(author, head): (&Author, &crate::engine::Head)| Head {
            share,
            device: author.device,
            incarnation: author.incarnation,
            number: head.number,
            hash: head.hash,
        };
        core.engine.heads().iter().map(head).collect()
    }

    /// Something that a person has to be told, in `kith status`.
    pub fn notice(&self, text: String) {
        self.0.notice(text);
    }

    /// Ends the steps; the index is complete where the session ended well.
    pub fn end(&self, well: bool) {
        {
            let mut work = self.0.step.0.lock();
            work.end = true;
            self.0.step.1.notify_all();
        }
        drop(self.0.watcher.lock().take());
        // No step is done after this returns.
        if let Some(thread) = self.0.thread.lock().take() {
            let _ = thread.join();
        }
        // It names this replica in turn: neither would ever go.
        drop(self.0.host.lock().take());
        let _authoring = self.0.authoring.lock();
        let mut core = self.0.core.lock();
        self.0.index.put(core.engine.take_disk_changes());
        if well {
            self.0.index.complete(core.session);
        }
        for peer in self.0.peers.lock().values_mut() {
            if let Some(feed) = peer.feed.take() {
                feed.abort();
            }
        }
        self.0.feeds.lock().drain().for_each(|(_, feed)| feed.abort());
        self.0.seen.lock().save();
    }
}

impl Inner {
    /// A resource of this share at a peer.
    fn at_peer(&self, resource: &str) -> String {
        format!("/v1/shares/{}/{resource}", self.share)
    }

    fn notice(&self, text: String) {
        tracing::warn!("{text}");
        let mut notices = self.notices.lock();
        if !notices.contains(&text) {
            notices.push(text);
            // Old ones stay in the log.
            if notices.len() > 100 {
                notices.remove(0);
            }
        }
    }

    /// Steps may be due, and bodies wanted.
    fn kick(&self) {
        self.step.0.lock().due = true;
        self.step.1.notify_all();
    }

    fn look_for_junctions(&self) {
        let now = self.core.lock().engine.junctions();
        self.junctions.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
    }

    /// Feeds have something to send.
    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
    }
}

impl Core {
    fn have(&mut self, root: Root) {
        self.haves.push_back(root);
        if self.haves.len() > 10_000 {
            self.haves.pop_front();
            self.haves_from += 1;
        }
    }
}

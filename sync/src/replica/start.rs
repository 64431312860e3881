//! The start: logs read back, the disk's state from the index, or from a scan where the index is not to be trusted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};

use super::seen::Seens;
use super::{Config, Core, Error, Inner, Replica};
use crate::bodies::Bodies;
use crate::engine::Engine;
use crate::index::Index;
use crate::install::Tree;
use crate::log::Logs;
use crate::members::Kept;
use crate::record::Author;
use crate::scan;
use keymgr::circle::Access;
use keymgr::ids::{DeviceId, ShareId};
use keymgr::keyring::Head;

/// Logs that were opened before the session's mark is set: whether they hold a head.
pub struct Opened(Logs);

impl Opened {
    pub fn open(store: &std::path::Path, share: ShareId, me: DeviceId) -> Result<Self, Error> {
        Ok(Self(Logs::open(store, share, &me)?))
    }

    pub fn holds(&self, head: &Head) -> bool {
        let author = Author { device: head.device, incarnation: head.incarnation };
        self.0.holds(&author, head.number, &head.hash)
    }
}

impl Replica {
    /// Needs a tokio runtime; the disk's steps begin with [`Replica::begin`].
    pub fn start(config: Config, opened: Opened) -> Result<Self, Error> {
        let Config { store, share, keys, mut circle, mut shelf, incarnation, session, clean } = config;
        let me = keys.id();
        let io = |source| Error::Io { path: store.clone(), source };
        let kept = Kept::open(&store, &mut circle, &mut shelf)?;
        let access = circle.get(&me).map_or(Access::Blind, |seat| seat.access);
        let bodies = Bodies::open(&store)?;
        let tree = Tree::open(&store).map_err(io)?;
        let index = Index::open(&store)?;
        let mut engine = Engine::new(share, me, access.may_write());
        let frontier = opened.0.frontier();
        engine.restore(frontier.heads.clone(), frontier.floor.clone());
        for record in opened.0.records() {
            engine.handle_held(record.entry().clone());
        }
        engine.restore_doomed(frontier.doomed.iter().copied());
        let seen = Seens::open(&store, share, me, incarnation);
        for (device, heads) in seen.heads() {
            engine.handle_peer_heads(device, heads);
        }
        for root in bodies.roots() {
            engine.handle_body(root);
        }
        // The index is that of the last session, if that ended well; else the disk says itself what it shows.
        match index.load(session.saturating_sub(1)).filter(|_| clean) {
            Some(nodes) => engine.load_disk(nodes),
            None => {
                // One that was cut off lags behind the disk, and still knows what the disk alone does not tell.
                if let Some(nodes) = index.lagging(session.saturating_sub(1)) {
                    engine.load_disk(nodes);
                }
                index.clear();
                let (seen, signatures, odd) =
                    scan::scan(&store, share, |file, signature| index.root(file, signature)).map_err(io)?;
                for found in signatures {
                    index.set_root(&found.file, &found.signature, &found.root);
                }
                for path in odd {
                    tracing::warn!("{}: not written by kith; left alone", path.display());
                }
                engine.adopt(&seen);
                if access.has_keys() {
                    engine.undress_folders();
                }
                index.put(engine.disk_nodes());
                engine.take_disk_changes();
            }
        }
        index.begin(session);
        let junctions = engine.junctions();
        let (fetch, events) = mpsc::unbounded_channel();
        let core = Core {
            engine,
            logs: opened.0,
            author: Author { device: me, incarnation },
            haves: VecDeque::new(),
            haves_from: 0,
            deltas: Default::default(),
            session,
        };
        let inner = Arc::new(Inner {
            store: store.clone(),
            share,
            keys,
            access,
            me,
            authoring: Mutex::new(()),
            core: Mutex::new(core),
            tree,
            bodies,
            index,
            host: Mutex::new(None),
            net: Mutex::new(None),
            news: watch::Sender::new(0),
            circle: watch::Sender::new(circle),
            shelf: watch::Sender::new(shelf),
            kept: Mutex::new(kept),
            title: Mutex::default(),
            anew: AtomicBool::new(true),
            junctions: watch::Sender::new(junctions),
            elsewhere: Mutex::default(),
            step: (Mutex::default(), Condvar::new()),
            fetch,
            peers: Mutex::default(),
            feeds: Mutex::default(),
            seen: Mutex::new(seen),
            refused: Mutex::default(),
            damage: Mutex::default(),
            watcher: Mutex::default(),
            thread: Mutex::default(),
            notices: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        });
        if access == Access::Blind {
            inner.audit().map_err(|source| Error::Io { path: store, source })?;
        }
        inner.runtime.spawn(super::fetch::run(Arc::downgrade(&inner), events));
        Ok(Self(inner))
    }
}

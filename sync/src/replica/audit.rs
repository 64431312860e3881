//! On a blind device only steps change the tree. Whatever else is found there is damage: it goes to quarantine, what it
//! stood for is fetched again, and none of it is ever signed or sent.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use keymgr::circle::Access;
use keymgr::ids::{NodeId, StoreName};
use notify::{RecursiveMode, Watcher};

use super::{Core, Inner, Replica};
use crate::engine::EntryId;
use crate::scan::{self, Found};

/// Events that follow one another this closely are one audit.
const QUIET: Duration = Duration::from_millis(200);
const AT_LATEST: Duration = Duration::from_secs(3);
/// An audit looks at every file: at most a twentieth of the time goes to it.
const SHARE: u32 = 20;

impl Replica {
    /// The file system refused what lies there as this file's ciphertext or folder's header, or found nothing: it is
    /// fetched again, and put in its place. What is there stays until then, and goes to quarantine.
    pub fn damaged(&self, id: &EntryId) {
        let inner = &self.0;
        {
            let mut core = inner.core.lock();
            let Some(node) = core.engine.disk_node_of(id) else { return };
            let gone = |core: &Core, node: &NodeId| {
                let path = core.engine.disk_path(node).map(|names| inner.tree.path_of(&names));
                path.is_some_and(|path| path.symlink_metadata().is_err())
            };
            // Where a folder above it is gone, so is all that was in that.
            let above = core.engine.disk_above(&node).into_iter().find(|folder| gone(&core, folder));
            match above {
                Some(folder) => core.engine.handle_damaged(&folder, true),
                None => {
                    let all = matches!(id, EntryId::Folder(_)) && gone(&core, &node);
                    core.engine.handle_damaged(&node, all);
                }
            }
        }
        inner.kick();
    }

    /// Whether it was refused and is not healed yet.
    pub fn is_damaged(&self, id: &EntryId) -> bool {
        let core = self.0.core.lock();
        core.engine.disk_node_of(id).is_some_and(|node| core.engine.is_damaged(&node))
    }
}

impl Inner {
    /// Compares the tree with what steps made of it, and takes away what is not theirs. How much that was.
    pub(super) fn audit(&self) -> io::Result<usize> {
        let _authoring = self.authoring.lock();
        let share = self.core.lock().engine.share();
        let mut found = self.foreign_headers(&self.store.join("tree"))?;
        let known = |file: &_, signature: &_| self.index.root(file, signature);
        let (seen, files, odd) = scan::scan(&self.store, share, known)?;
        let mut core = self.core.lock();
        for path in &odd {
            found += 1;
            self.bodies.quarantine(path, "odd").map_err(io::Error::other)?;
        }
        // What is in place, and what has to go.
        let mut there: HashSet<(NodeId, StoreName, EntryId)> = HashSet::new();
        let mut listed: HashMap<NodeId, HashSet<(StoreName, EntryId)>> = HashMap::new();
        for folder in &seen.folders {
            let shown = core.engine.disk_folder(&folder.node).unwrap_or_default();
            listed.insert(folder.node, shown.into_iter().collect());
            for entry in folder.entries.iter().filter(|e| matches!(e.id, EntryId::Folder(_))) {
                there.insert((folder.node, entry.name.clone(), entry.id));
            }
        }
        for Found { path, folder, name, file, signature, root } in &files {
            let id = EntryId::File(*file);
            let right = core.engine.disk_file(file).is_some_and(|content| content.root == *root);
            let placed = listed.get(folder).is_some_and(|shown| shown.contains(&(name.clone(), id)));
            if right && placed {
                self.index.set_root(file, signature, root);
                there.insert((*folder, name.clone(), id));
                continue;
            }
            found += 1;
            if right && self.bodies.whole(root).is_none() {
                self.bodies.adopt_found(path, root).map_err(io::Error::other)?;
                core.engine.handle_body(*root);
            } else {
                self.bodies.quarantine(path, &file.to_string()).map_err(io::Error::other)?;
            }
        }
        let root = NodeId::root_of(share);
        let mut lost = Vec::new();
        let mut todo = vec![root];
        let mut looked: HashSet<NodeId> = HashSet::new();
        while let Some(folder) = todo.pop() {
            let on_disk = seen.folders.iter().find(|f| f.node == folder || f.also.contains(&folder)).map(|f| f.node);
            for (name, id) in core.engine.disk_folder(&folder).unwrap_or_default() {
                let Some(node) = core.engine.disk_node_of(&id) else { continue };
                if !on_disk.is_some_and(|folder| there.contains(&(folder, name, id))) {
                    lost.push(node);
                } else if matches!(id, EntryId::Folder(_)) && looked.insert(node) {
                    todo.push(node);
                }
            }
        }
        found += lost.len();
        for node in lost {
            core.engine.handle_lost(&node);
        }
        self.index.put(core.engine.take_disk_changes());
        drop(core);
        self.tell_damage();
        Ok(found)
    }

    /// Takes away headers of folders that no step made: what is in their directories would count as theirs.
    fn foreign_headers(&self, dir: &Path) -> io::Result<usize> {
        let mut found = 0;
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found += self.foreign_headers(&entry.path())?;
                continue;
            }
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(".kith-")) else { continue };
            let node = rest.parse::<NodeId>().ok();
            if node.is_some_and(|node| self.core.lock().engine.disk_node(&node).is_some()) {
                continue;
            }
            if node.is_none() && rest.starts_with("tmp-") {
                // A crash left it; no step is under way now.
                std::fs::remove_file(entry.path())?;
                continue;
            }
            found += 1;
            self.bodies.quarantine(&entry.path(), "header").map_err(io::Error::other)?;
        }
        Ok(found)
    }

    /// Says what went to quarantine.
    pub(super) fn tell_damage(&self) {
        let new = self.bodies.take_damage();
        for path in &new {
            self.notice(format!("a file was not what its record says; it is kept as {}", path.display()));
        }
        let mut damage = self.damage.lock();
        damage.extend(new);
        let over = damage.len().saturating_sub(1000);
        damage.drain(..over);
    }

    /// From now on whatever happens in the tree is looked at.
    pub(super) fn watch(self: &Arc<Self>) {
        if self.access != Access::Blind {
            return;
        }
        let (tx, rx) = std::sync::mpsc::channel();
        let changes = move |event: notify::Result<notify::Event>| {
            // Reading is no change; an audit reads.
            if !matches!(&event, Ok(event) if event.kind.is_access()) {
                let _ = tx.send(());
            }
        };
        let tree = self.store.join("tree");
        let watcher = notify::recommended_watcher(changes).and_then(|mut watcher| {
            watcher.watch(&tree, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => *self.watcher.lock() = Some(watcher),
            Err(e) => return self.notice(format!("{} is not watched for damage: {e}", tree.display())),
        }
        let inner = Arc::downgrade(self);
        let run = move || {
            let mut more = false;
            while settled(&rx, more) {
                let Some(inner) = inner.upgrade() else { return };
                let began = Instant::now();
                match inner.audit() {
                    Ok(0) => {}
                    Ok(_) => inner.kick(),
                    Err(e) => tracing::warn!("the tree could not be looked at: {e}"),
                }
                drop(inner);
                match rests(&rx, began.elapsed() * SHARE) {
                    Some(meanwhile) => more = meanwhile,
                    None => return,
                }
            }
        };
        if let Err(e) = std::thread::Builder::new().name("kith-audit".into()).spawn(run) {
            tracing::error!("no thread for the audit: {e}");
        }
    }
}

/// Waits for an event where none is known of, then for quiet. `false`: the watch ended.
fn settled(events: &Receiver<()>, known: bool) -> bool {
    if !known && events.recv().is_err() {
        return false;
    }
    let latest = Instant::now() + AT_LATEST;
    while Instant::now() < latest {
        match events.recv_timeout(QUIET) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}

/// Waits; whether something happened meanwhile. `None`: the watch ended.
fn rests(events: &Receiver<()>, rest: Duration) -> Option<bool> {
    let until = Instant::now() + rest;
    let mut more = false;
    loop {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => more = true,
            Err(RecvTimeoutError::Timeout) => return Some(more),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

//! fsync: a file's pages, its name, and where they are new the headers and names of all folders above it.

use std::path::PathBuf;

use super::error::{Error, Result};
use super::tree::{Node, ROOT, Tree};
use super::{Inner, Volume};
use crate::format::folder;

/// A folder whose entries, and maybe headers, have to be made durable.
pub(crate) struct Due {
    ino: u64,
    path: PathBuf,
    headers: Vec<PathBuf>,
    seq: u64,
}

impl Volume {
    pub fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        if matches!(inner.tree.lock().nodes.get(&ino), Some(Node::Folder(_))) {
            return inner.sync_folders(&[ino]);
        }
        inner.sync_file(ino, data_only)?;
        let dirty = {
            let (file, _) = inner.find(ino)?;
            let mut state = file.state.write();
            state.settled = state.changes;
            state.dirty
        };
        if dirty {
            inner.feed.changed();
        }
        Ok(())
    }

    pub fn fsyncdir(&self, ino: u64) -> Result<()> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        inner.sync_folders(&[ino])
    }
}

impl Inner {
    /// Makes a file and its name durable.
    pub fn sync_file(&self, ino: u64, data_only: bool) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let (file, path) = self.find(ino)?;
        let (disk, changes) = {
            let state = file.state.read();
            if state.unsynced { (Some(self.disk_of(&state, path.as_deref())?), state.changes) } else { (None, 0) }
        };
        if let Some(disk) = disk {
            disk.sync(data_only).map_err(Error::io(path.as_deref().unwrap_or(std::path::Path::new(""))))?;
            let mut state = file.state.write();
            if state.changes == changes {
                state.unsynced = false;
            }
        }
        let due = self.due_of_file(&self.tree.lock(), ino)?;
        self.sync_due(due)
    }

    /// Makes the entries of folders durable, and the folders themselves where they are new.
    pub fn sync_folders(&self, folders: &[u64]) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let mut due = Vec::new();
        {
            let tree = self.tree.lock();
            for ino in folders {
                if *ino != ROOT && tree.folder(*ino)?.place.is_none() {
                    continue; // removed
                }
                self.due_of_folder(&tree, *ino, &mut due)?;
            }
        }
        self.sync_due(due)
    }

    fn due_of_file(&self, tree: &Tree, ino: u64) -> Result<Vec<Due>> {
        let mut due = Vec::new();
        for place in &tree.file(ino)?.places {
            let seq = tree.listing(place.parent)?.by_store(&place.store).map_or(0, |e| e.seq);
            if seq > tree.synced.max(tree.folder(place.parent)?.synced) {
                self.due_of_folder(tree, place.parent, &mut due)?;
            }
        }
        Ok(due)
    }

    fn due_of_folder(&self, tree: &Tree, ino: u64, due: &mut Vec<Due>) -> Result<()> {
        let mut at = ino;
        while !due.iter().any(|d| d.ino == at) {
            let folder = tree.folder(at)?;
            let path = tree.folder_path(at)?;
            let headers = match folder.new_header {
                true => folder.headers.iter().map(|(node, _)| path.join(folder::header_name(node))).collect(),
                false => Vec::new(),
            };
            due.push(Due { ino: at, path, headers, seq: tree.seq() });
            let Some(place) = &folder.place else { break };
            let seq = tree.listing(place.parent)?.by_store(&place.store).map_or(0, |e| e.seq);
            if seq <= tree.synced.max(tree.folder(place.parent)?.synced) {
                break;
            }
            at = place.parent;
        }
        Ok(())
    }

    fn sync_due(&self, due: Vec<Due>) -> Result<()> {
        for folder in &due {
            for header in &folder.headers {
                let file = self.store.open(header, false).map_err(Error::io(header))?;
                file.sync(false).map_err(Error::io(header))?;
            }
            self.store.sync_folder(&folder.path).map_err(Error::io(&folder.path))?;
        }
        let mut tree = self.tree.lock();
        for done in due {
            if let Ok(folder) = tree.folder_mut(done.ino) {
                folder.synced = folder.synced.max(done.seq);
                folder.new_header &= done.headers.is_empty();
            }
        }
        Ok(())
    }
}

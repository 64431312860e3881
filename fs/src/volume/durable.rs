//! fsync: a file's pages, its name, and where they are new the headers and names of all folders above it.

use std::path::PathBuf;

use super::error::{Error, Result};
use super::tree::{Entry, Node, Place, ROOT, Tree};
use super::{Inner, Volume};
use crate::format::{folder, name};

/// Up to so many folders are made durable one by one while nothing changes, more of them by one syncfs: each has a way of
/// others above it.
const FEW: usize = 8;

/// A folder whose entries, and maybe headers, have to be made durable.
pub(crate) struct Due {
    ino: u64,
    path: PathBuf,
    headers: Vec<PathBuf>,
    seq: u64,
    changes: u64,
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
        let at = path.as_deref().unwrap_or(std::path::Path::new(""));
        let (disk, changes) = {
            let mut state = file.state.write();
            match state.unsynced {
                true => {
                    let disk = self.disk_of(&state, path.as_deref())?;
                    self.settle_time(&mut state, disk.as_ref()).map_err(Error::io(at))?;
                    (Some(disk), state.changes)
                }
                false => (None, 0),
            }
        };
        if let Some(disk) = disk {
            disk.sync(data_only).map_err(Error::io(at))?;
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
            self.due_of_name(tree, place.clone(), &mut due)?;
        }
        Ok(due)
    }

    fn due_of_folder(&self, tree: &Tree, ino: u64, due: &mut Vec<Due>) -> Result<()> {
        // A database fsyncs its new journal, and then the folder for the journal's name: that was durable before.
        let folder = tree.folder(ino)?;
        if folder.unsynced || folder.new_header {
            self.add_due(tree, ino, due)?;
        }
        match tree.folder(ino)?.place.clone() {
            Some(place) => self.due_of_name(tree, place, due),
            None => Ok(()),
        }
    }

    /// The folders in which names from this one up to the topmost are not durable yet.
    fn due_of_name(&self, tree: &Tree, place: Place, due: &mut Vec<Due>) -> Result<()> {
        let mut next = Some(place);
        while let Some(place) = next {
            let seq = tree.listing(place.parent)?.by_store(&place.store).map_or(0, |e| e.seq);
            let folder = tree.folder(place.parent)?;
            if seq > tree.synced.max(folder.synced) || folder.new_header {
                self.add_due(tree, place.parent, due)?;
            }
            next = folder.place.clone();
        }
        Ok(())
    }

    fn add_due(&self, tree: &Tree, ino: u64, due: &mut Vec<Due>) -> Result<()> {
        if due.iter().any(|d| d.ino == ino) {
            return Ok(());
        }
        let folder = tree.folder(ino)?;
        let path = tree.folder_path(ino)?;
        let headers = match folder.new_header {
            true => folder.headers.iter().map(|(node, _)| path.join(folder::header_name(node))).collect(),
            false => Vec::new(),
        };
        due.push(Due { ino, path, headers, seq: tree.seq(), changes: folder.changes });
        Ok(())
    }

    fn sync_due(&self, due: Vec<Due>) -> Result<()> {
        self.sync_on_disk(&due)?;
        note_synced(&mut self.tree.lock(), due);
        Ok(())
    }

    /// Makes the header of what was moved durable: it says where it belongs.
    pub fn sync_locator(&self, ino: u64) -> Result<()> {
        let headers = headers_of(&self.tree.lock(), ino)?;
        for path in headers {
            match self.store.open(&path, false).and_then(|file| file.sync(false)) {
                // It moved on, or is gone.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                done => done.map_err(Error::io(&path))?,
            }
        }
        Ok(())
    }

    /// As [`Self::sync_folders`], with the locators of what moved into them, while nothing changes.
    pub fn sync_folders_now(&self, tree: &mut Tree, folders: &[(u64, u64)]) -> Result<()> {
        if folders.len() > FEW {
            self.store.sync_all().map_err(Error::io(std::path::Path::new("")))?;
            tree.synced = tree.seq();
            for (ino, _) in folders {
                let folder = tree.folder_mut(*ino)?;
                folder.new_header = false;
                folder.moved.clear();
            }
            return Ok(());
        }
        let mut due = Vec::new();
        for (ino, _) in folders {
            for moved in &tree.folder(*ino)?.moved {
                for path in headers_of(tree, *moved)? {
                    self.store.open(&path, false).and_then(|file| file.sync(false)).map_err(Error::io(&path))?;
                }
            }
            self.due_of_folder(tree, *ino, &mut due)?;
        }
        self.sync_on_disk(&due)?;
        note_synced(tree, due);
        for (ino, _) in folders {
            tree.folder_mut(*ino)?.moved.clear();
        }
        Ok(())
    }

    /// Before something durable moves into a folder: that folder must not be lost in a crash with it, nor a long name.
    pub fn before_move(&self, tree: &mut Tree, from: (u64, &Entry), to: (u64, &Entry)) -> Result<()> {
        let durable = from.1.seq <= tree.synced.max(tree.folder(from.0)?.synced);
        let mut at = to.0;
        let mut new = name::is_long(&to.1.store);
        while !new {
            let folder = tree.folder(at)?;
            new = folder.new_header;
            match &folder.place {
                Some(place) => at = place.parent,
                None => break,
            }
        }
        if durable && new {
            let mut due = Vec::new();
            self.due_of_folder(tree, to.0, &mut due)?;
            self.sync_on_disk(&due)?;
            note_synced(tree, due);
        }
        Ok(())
    }

    fn sync_on_disk(&self, due: &[Due]) -> Result<()> {
        for folder in due {
            for header in &folder.headers {
                let file = self.store.open(header, false).map_err(Error::io(header))?;
                file.sync(false).map_err(Error::io(header))?;
            }
            self.store.sync_folder(&folder.path).map_err(Error::io(&folder.path))?;
        }
        Ok(())
    }
}

/// Where the headers of a file or folder lie.
fn headers_of(tree: &Tree, ino: u64) -> Result<Vec<PathBuf>> {
    Ok(match tree.nodes.get(&ino) {
        Some(Node::File(_)) => tree.file_path(ino)?.into_iter().collect(),
        Some(Node::Folder(folder)) => {
            let path = tree.folder_path(ino)?;
            folder.headers.iter().map(|(node, _)| path.join(folder::header_name(node))).collect()
        }
        None => Vec::new(),
    })
}

fn note_synced(tree: &mut Tree, due: Vec<Due>) {
    for done in due {
        if let Ok(folder) = tree.folder_mut(done.ino) {
            folder.synced = folder.synced.max(done.seq);
            folder.unsynced &= folder.changes != done.changes;
            folder.new_header &= done.headers.is_empty();
        }
    }
}

//! What can be rebuilt, in sled under `state/`: what the disk shows, and how files looked when their roots were known.
//! Deleting it costs a rescan, nothing else.

use std::path::Path;

use keymgr::ids::{FileId, NodeId, Root};

use crate::engine::DiskNode;
use crate::scan::Signature;

pub struct Index {
    db: sled::Db,
    disk: sled::Tree,
    files: sled::Tree,
}

/// Marks the index as one of a session that ended well.
const COMPLETE: &[u8] = b"complete";
/// The session that writes it, or wrote it last.
const SESSION: &[u8] = b"session";

impl Index {
    /// A broken index is thrown away: nothing is lost with it.
    pub fn open(store: &Path) -> Result<Self, sled::Error> {
        let path = store.join("state");
        let open = || sled::Config::new().path(&path).cache_capacity(32 << 20).open();
        let db = match open() {
            Ok(db) => db,
            // Somebody has it open: it is not broken.
            Err(sled::Error::Io(e)) if e.to_string().contains("could not acquire lock") => {
                return Err(sled::Error::Io(e));
            }
            Err(e) => {
                tracing::warn!("the index is thrown away: {e}");
                let _ = std::fs::remove_dir_all(&path);
                open()?
            }
        };
        Ok(Self { disk: db.open_tree("disk")?, files: db.open_tree("files")?, db })
    }

    /// What the disk showed when the last session ended well with this number; `None` after any other end.
    pub fn load(&self, session: u64) -> Option<Vec<(NodeId, DiskNode)>> {
        let mark = self.db.remove(COMPLETE).ok()??;
        self.db.flush().ok()?;
        if mark.as_ref() == session.to_le_bytes() { self.nodes() } else { None }
    }

    /// What the disk showed in the session with this number, but for its last steps perhaps.
    pub fn lagging(&self, session: u64) -> Option<Vec<(NodeId, DiskNode)>> {
        let of = self.db.get(SESSION).ok()??;
        if of.as_ref() == session.to_le_bytes() { self.nodes() } else { None }
    }

    /// From now on this is the index of that session.
    pub fn begin(&self, session: u64) {
        let done = self.db.insert(SESSION, &session.to_le_bytes()).and_then(|_| self.db.flush());
        if let Err(e) = done {
            tracing::warn!("the index could not be begun: {e}");
        }
    }

    fn nodes(&self) -> Option<Vec<(NodeId, DiskNode)>> {
        let parse = |(key, value): (sled::IVec, sled::IVec)| {
            Some((NodeId::from_slice(&key).ok()?, postcard::from_bytes(&value).ok()?))
        };
        self.disk.iter().map(|item| parse(item.ok()?)).collect()
    }

    pub fn put(&self, changes: Vec<(NodeId, Option<DiskNode>)>) {
        for (node, shown) in changes {
            let done = match shown.and_then(|s| postcard::to_stdvec(&s).ok()) {
                Some(bytes) => self.disk.insert(node.as_bytes(), bytes),
                None => self.disk.remove(node.as_bytes()),
            };
            if let Err(e) = done {
                tracing::warn!("the index could not be written: {e}");
            }
        }
    }

    /// The session ended well.
    pub fn complete(&self, session: u64) {
        let done = self.db.insert(COMPLETE, &session.to_le_bytes()).and_then(|_| self.db.flush());
        if let Err(e) = done {
            tracing::warn!("the index could not be completed: {e}");
        }
    }

    pub fn clear(&self) {
        let _ = self.disk.clear();
    }

    pub fn root(&self, file: &FileId, signature: &Signature) -> Option<Root> {
        let bytes = self.files.get(file.as_bytes()).ok()??;
        let (was, root): (Signature, Root) = postcard::from_bytes(&bytes).ok()?;
        (was == *signature).then_some(root)
    }

    pub fn set_root(&self, file: &FileId, signature: &Signature, root: &Root) {
        if let Ok(bytes) = postcard::to_stdvec(&(signature, root)) {
            let _ = self.files.insert(file.as_bytes(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_counts_once_and_for_its_session_only() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.complete(4);
        assert!(Index::open(dir.path()).is_err(), "somebody has it open");
        drop(index);
        let index = Index::open(dir.path()).unwrap();
        assert!(index.load(4).is_some(), "and it was left as it is");
        assert!(index.load(4).is_none(), "a crash from now on leaves none");
        index.complete(5);
        assert!(index.load(6).is_none());
    }

    #[test]
    fn a_broken_index_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(Index::open(dir.path()).unwrap());
        for entry in std::fs::read_dir(dir.path().join("state")).unwrap().flatten() {
            if entry.path().is_file() {
                std::fs::write(entry.path(), [7; 5000]).unwrap();
            }
        }
        assert!(Index::open(dir.path()).unwrap().load(1).is_none());
    }
}

//! Checking everything: each folder against its records, each file against its root, each page for itself.

use std::path::PathBuf;

use super::error::{Error, Result};
use super::tree::{Node, ROOT};
use super::{Inner, Volume};
use crate::content::Kind;
use crate::records::EntryId;

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// As the mount shows it.
    pub shown: PathBuf,
    /// In the store.
    pub path: PathBuf,
    pub id: Option<EntryId>,
    pub what: String,
}

impl Volume {
    /// Verifies all that there is, and tells `each` of every file that is done.
    ///
    /// `repair`: files that cannot be verified go to quarantine. The caller must not count on the tree that it knew any
    /// more: what is fetched again is for whoever replicates.
    pub fn fsck(&self, repair: bool, each: impl FnMut(&std::path::Path)) -> Result<Vec<Finding>> {
        let found = self.verify(each)?;
        if repair {
            let inner = &self.0;
            let _gate = inner.gate.write();
            for finding in found.iter().filter(|f| matches!(f.id, Some(EntryId::File(_)))) {
                let gone = crate::session::into_quarantine(inner.store.as_ref(), &finding.path);
                match gone {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&finding.path)(e)),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Verifies one file, by its folder and its name in the store; what is refused is told to the feed.
    pub fn verify_entry(&self, folder: keymgr::ids::NodeId, name: &keymgr::ids::StoreName) -> Result<()> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let found = {
            let mut tree = inner.tree.lock();
            let parent = inner.find_folder(&mut tree, folder)?;
            inner.load_listing(&mut tree, parent)?;
            let shown = tree.listing(parent)?.shown.get(name).cloned().ok_or(Error::Errno(libc::ENOENT))?;
            inner.bind(&mut tree, parent, &shown)?
        };
        let (file, _) = inner.find(found)?;
        inner.check_file(found).map_err(|e| inner.tell(&file, e))
    }

    fn verify(&self, mut each: impl FnMut(&std::path::Path)) -> Result<Vec<Finding>> {
        let inner = &self.0;
        let before = inner.session.refusals().len();
        let mut found = Vec::new();
        let mut next = vec![ROOT];
        while let Some(ino) = next.pop() {
            let _gate = inner.gate.read();
            let mut tree = inner.tree.lock();
            let shown_folder = tree.shown_folder(ino);
            if let Err(e) = inner.load_listing(&mut tree, ino) {
                let path = tree.folder_path(ino).unwrap_or_default();
                found.push(Finding { shown: shown_folder, path, id: None, what: e.to_string() });
                continue;
            }
            let hidden: Vec<_> = tree.listing(ino)?.hidden.iter().cloned().collect();
            for name in hidden {
                let path = tree.folder_path(ino)?.join(&name);
                let what = "a name that no key opens".to_owned();
                found.push(Finding { shown: shown_folder.clone(), path, id: None, what });
            }
            let names: Vec<Vec<u8>> = tree.listing(ino)?.entries.keys().cloned().collect();
            let mut files = Vec::new();
            for shown in names {
                match inner.bind(&mut tree, ino, &shown) {
                    Ok(child) => match tree.nodes.get(&child) {
                        Some(Node::Folder(_)) => next.push(child),
                        Some(Node::File(_)) => files.push(child),
                        None => {}
                    },
                    Err(e) => {
                        let entry = tree.entry(ino, &shown)?;
                        let path = tree.path_at(ino, &entry.store)?;
                        let id = entry.id();
                        let shown = tree.shown_at(ino, &entry.store);
                        found.push(Finding { shown, path, id, what: e.to_string() });
                    }
                }
            }
            drop(tree);
            for file in files {
                let checked = inner.check_file(file);
                let tree = inner.tree.lock();
                each(&tree.shown_file(file));
                if let Err(e) = checked {
                    let id = tree.file(file).ok().map(|f| EntryId::File(f.file.id));
                    let path = tree.file_path(file)?.unwrap_or_default();
                    found.push(Finding { shown: tree.shown_file(file), path, id, what: e.to_string() });
                }
            }
        }
        // What was refused on the way: missing entries, planted ones, headers.
        for refusal in inner.session.refusals().split_off(before) {
            if !found.iter().any(|f| f.path == refusal.path) {
                let crate::records::Refusal { shown, path, id, why } = refusal;
                found.push(Finding { shown, path, id, what: why });
            }
        }
        Ok(found)
    }
}

impl Inner {
    fn check_file(&self, ino: u64) -> Result<()> {
        let (file, path) = self.find(ino)?;
        let at = path.clone().unwrap_or_default();
        let mut state = file.state.write();
        self.load(&file, &mut state, path.as_deref())?;
        let content = state.content()?;
        content.verify_all()?;
        // Every page must also prove itself: where nothing is recorded, and where a record is of what a crash left.
        let mut buf = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < content.size() {
            offset += content.read_at(&mut buf, offset)? as u64;
        }
        let most = match file.kind {
            Kind::File => u64::MAX,
            Kind::Symlink => libc::PATH_MAX as u64,
            Kind::Fifo | Kind::Socket | Kind::Share => 0,
            Kind::Block | Kind::Char => 8,
        };
        let size = content.size();
        self.let_go(&mut state);
        if size > most {
            Err(Error::Damaged { path: at, what: "it is longer than such a thing can be" })
        } else {
            Ok(())
        }
    }
}

//! Junctions: small files of their own kind that say where in this volume another share is shown (kith-store(5),
//! "Junctions"). Programs see a folder there: an empty one that nobody can write to, as long as [`crate::mount::Forest`]
//! does not put the share's own volume in its place.

use keymgr::ids::{FileId, ShareId};

use super::error::{Error, Result};
use super::tree::{Node, ROOT, Tree};
use super::{Inner, Volume};
use crate::content::Kind;
use crate::volume::names::Who;

/// Where a junction lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Junction {
    pub share: ShareId,
    /// The inode of the folder that it is in.
    pub folder: u64,
    /// As the mount shows it.
    pub name: Vec<u8>,
}

impl Volume {
    /// A new junction in a folder. EEXIST where the name is taken, or where the share has a junction already.
    pub fn make_junction(&self, parent: u64, name: &[u8], share: ShareId) -> Result<()> {
        let id = file_id(share);
        let inner = &self.0;
        if share == inner.keys().share() || inner.records.file(id).is_some() || self.junction(share).is_some() {
            return Err(Error::Errno(libc::EEXIST));
        }
        let made = self.make_with(parent, name, id, Kind::Share, 0o600, Who::me(), None, false)?;
        self.forget(made.ino, 1);
        self.tell_names(parent, vec![name.to_vec()]);
        Ok(())
    }

    /// Removes the junction of a share. ENOENT where there is none.
    pub fn remove_junction(&self, share: ShareId) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let Some(at) = self.junction(share) else { return Err(Error::Errno(libc::ENOENT)) };
        {
            let _gate = inner.gate.read();
            let mut tree = inner.tree.lock();
            if inner.junction_at(&mut tree, at.folder, &at.name)? != Some(share) {
                return Err(Error::Errno(libc::EBUSY)); // renamed a moment ago
            }
            inner.remove_file_entry(&mut tree, at.folder, &at.name)?;
        }
        inner.feed.changed();
        self.tell_names(at.folder, vec![at.name]);
        Ok(())
    }

    /// Where the junction of a share lies: from the table, or found by walking where the records know of it.
    pub fn junction(&self, share: ShareId) -> Option<Junction> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        let id = file_id(share);
        if !tree.files.contains_key(&id) {
            inner.records.file(id)?;
            inner.walk_to(&mut tree, &id);
        }
        tree.junction_of(share)
    }

    /// Whether the junction of a share lies in the tree, recorded or not. Walks through all of it.
    pub(super) fn has_junction(&self, share: ShareId) -> bool {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.walk_to(&mut tree, &file_id(share));
        tree.junction_of(share).is_some()
    }

    /// As [`Self::junction`], from the table alone: what the kernel knows is in it.
    pub(crate) fn known_junction(&self, share: ShareId) -> Option<Junction> {
        self.0.tree.lock().junction_of(share)
    }

    /// The share of this volume.
    pub fn share(&self) -> ShareId {
        self.0.keys().share()
    }

    pub(crate) fn tell_names(&self, folder: u64, names: Vec<Vec<u8>>) {
        let notifier = self.0.notifier.lock().clone();
        if let Some(notifier) = notifier {
            notifier.forget_names(folder, names);
        }
    }
}

fn file_id(share: ShareId) -> FileId {
    FileId::from_bytes(*share.as_bytes())
}

impl Inner {
    /// The share whose junction an entry is.
    pub fn junction_at(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<Option<ShareId>> {
        if tree.entry(parent, shown)?.folder {
            return Ok(None);
        }
        // What is damaged is no junction, and can be removed.
        let Ok(ino) = self.bind(tree, parent, shown) else { return Ok(None) };
        Ok(tree.junction(ino))
    }

    fn walk_to(&self, tree: &mut Tree, id: &FileId) {
        let mut next = vec![ROOT];
        while let Some(folder) = next.pop() {
            if self.load_listing(tree, folder).is_err() {
                continue;
            }
            let Ok(listing) = tree.listing(folder) else { continue };
            let maybe = |e: &super::tree::Entry| {
                e.folder || e.ino == 0 && (e.ids.is_empty() || e.ids.contains(&crate::records::EntryId::File(*id)))
            };
            let names: Vec<Vec<u8>> =
                listing.entries.iter().filter(|(_, e)| maybe(e)).map(|(name, _)| name.clone()).collect();
            for shown in names {
                if let Ok(ino) = self.bind(tree, folder, &shown)
                    && matches!(tree.nodes.get(&ino), Some(Node::Folder(_)))
                {
                    next.push(ino);
                }
            }
            if tree.files.contains_key(id) {
                return;
            }
        }
    }
}

impl Tree {
    /// What a junction says of itself else means nothing: only its share's volume has attributes to change.
    pub fn no_junction(&self, ino: u64) -> Result<()> {
        if self.junction(ino).is_some() { Err(Error::Errno(libc::EROFS)) } else { Ok(()) }
    }

    fn junction_of(&self, share: ShareId) -> Option<Junction> {
        let place = self.file(*self.files.get(&file_id(share))?).ok()?.places.first()?;
        let name = self.listing(place.parent).ok()?.shown.get(&place.store)?.clone();
        Some(Junction { share, folder: place.parent, name })
    }

    /// The share, where this inode is a junction.
    pub fn junction(&self, ino: u64) -> Option<ShareId> {
        match self.nodes.get(&ino) {
            Some(Node::File(entry)) if entry.file.kind == Kind::Share => {
                Some(ShareId::from_bytes(*entry.file.id.as_bytes()))
            }
            _ => None,
        }
    }
}

//! Mending after an unclean end: what is on the list, or not recorded at all, becomes this device's own work; what it
//! finds without a header gets one; locators are written anew. All else must fit its record, and is refused when met.

use std::collections::HashMap;
use std::path::Path;

use keymgr::ids::{FileId, Locator, NodeId};

use super::error::{Error, Result};
use super::tree::{Node, ROOT, Tree};
use super::{Inner, Volume};
use crate::content::Changed;
use crate::format::HEADER;
use crate::format::header::AT_LOCATOR;
use crate::records::EntryId;
use crate::session::LooseFile;

/// What mending did.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Mending {
    /// Folders and files that will be recorded anew.
    pub folders: usize,
    pub files: usize,
    /// Locators that were written anew.
    pub relocated: usize,
}

impl Volume {
    /// Makes what may differ from the records dirty, so that [`Volume::observe`] gives it. Mending has ended when all of it is
    /// recorded ([`Volume::is_unmended`]). Nothing to do after a clean end.
    pub fn mend(&self) -> Result<Mending> {
        let inner = &self.0;
        let mut done = Mending::default();
        if !inner.session.unmended() || inner.options.read_only {
            return Ok(done);
        }
        if inner.options.reader {
            // It changed nothing: all must fit its records.
            inner.session.found();
            inner.session.all_recorded();
            return Ok(done);
        }
        let loose: HashMap<FileId, LooseFile> = inner.session.loose(|loose| loose.files.clone());
        let mut next = vec![ROOT];
        while let Some(ino) = next.pop() {
            // The gate opens between folders, so that programs need not wait for all.
            let _gate = inner.gate.read();
            let mut tree = inner.tree.lock();
            match inner.mend_folder(&mut tree, ino, &loose, &mut done) {
                Ok(children) => next.extend(children),
                Err(Error::Errno(libc::ENOENT | libc::ESTALE)) => {} // removed meanwhile
                Err(e) => {
                    let shown = tree.shown_folder(ino);
                    let path = tree.folder_path(ino).unwrap_or_default();
                    inner.refused(Some(shown), &path, None, &e);
                }
            }
        }
        inner.session.found();
        if !self.is_dirty() {
            inner.session.all_recorded();
        }
        inner.feed.changed();
        Ok(done)
    }
}

impl Inner {
    fn mend_folder(
        &self,
        tree: &mut Tree,
        ino: u64,
        loose: &HashMap<FileId, LooseFile>,
        done: &mut Mending,
    ) -> Result<Vec<u64>> {
        self.load_listing(tree, ino)?;
        let nodes: Vec<NodeId> = tree.folder(ino)?.headers.iter().map(|(node, _)| *node).collect();
        let recorded = nodes.iter().any(|node| self.records.has_folder(*node));
        let is_loose = self.session.is_loose_folder(nodes.iter().copied());
        // On the list of this session: it may have been recorded without the files that are not recorded yet.
        let changed = is_loose || !recorded || tree.folder(ino)?.listed;
        let mut children = Vec::new();
        let names: Vec<Vec<u8>> = tree.listing(ino)?.entries.keys().cloned().collect();
        for shown in names {
            let entry = tree.entry(ino, &shown)?.clone();
            if !entry.folder && !changed {
                let known = |(file, at): (&FileId, &LooseFile)| {
                    entry.id() == Some(EntryId::File(*file)) || nodes.contains(&at.folder) && at.name == entry.store
                };
                if !loose.iter().any(known) {
                    continue; // It must fit its record, and is checked when it is opened.
                }
            }
            let Ok(child) = self.bind(tree, ino, &shown) else { continue };
            if changed {
                let relocated = self.mend_locators(tree, ino, &shown)?;
                if relocated > 0 {
                    tree.folder_mut(ino)?.moved.insert(child);
                }
                done.relocated += relocated;
            }
            match tree.nodes.get(&child) {
                Some(Node::Folder(_)) => children.push(child),
                Some(Node::File(_)) => done.files += usize::from(self.mend_file(tree, child, loose)?),
                None => {}
            }
        }
        if changed && !nodes.is_empty() {
            self.mend_hidden(tree, ino)?;
            let folder = tree.folder_mut(ino)?;
            folder.listed |= is_loose;
            self.touch_folder(tree, ino)?;
            done.folders += 1;
        }
        Ok(children)
    }

    /// What is left of names that were never durable goes to quarantine: nothing is thrown away.
    fn mend_hidden(&self, tree: &mut Tree, ino: u64) -> Result<()> {
        let path = tree.folder_path(ino)?;
        for name in std::mem::take(&mut tree.listing_mut(ino)?.hidden) {
            let at = path.join(&name);
            tracing::warn!(path = %at.display(), "a name that no key opens goes to quarantine");
            crate::session::into_quarantine(self.store.as_ref(), &at).map_err(Error::io(&at))?;
            tree.next_seq(); // so that it is durable before the folder is recorded
        }
        Ok(())
    }

    fn mend_file(&self, tree: &Tree, ino: u64, loose: &HashMap<FileId, LooseFile>) -> Result<bool> {
        let file = tree.file(ino)?.file.clone();
        let listed = loose.get(&file.id);
        let recorded = self.records.file(file.id).is_some();
        let mut state = file.state.write();
        if state.damaged || recorded && listed.is_none() {
            return Ok(false);
        }
        let mut changed = Changed::default();
        match listed {
            // A list that says some groups also lets the length differ.
            Some(LooseFile { groups: Some(groups), .. }) if recorded => {
                changed.add(groups.iter().copied());
                let path = tree.file_path(ino)?.unwrap_or_default();
                let length = self.store.stat(&path).map_err(Error::io(&path))?.length;
                let was = self.records.file(file.id).map_or(0, |r| r.length);
                if was != length {
                    changed.add_from(was.min(length));
                }
            }
            Some(LooseFile { groups: None, .. }) if recorded => {}
            _ => changed.all(),
        }
        state.changed.merge(changed);
        let settled = state.writers == 0;
        state.touch();
        if settled {
            state.settled = state.changes;
        }
        drop(state);
        self.note_dirty(ino);
        Ok(true)
    }

    /// A crash can leave the locator of the place before, or of one that a rename did not reach.
    fn mend_locators(&self, tree: &Tree, parent: u64, shown: &[u8]) -> Result<usize> {
        let entry = tree.entry(parent, shown)?;
        let at = tree.path_at(parent, &entry.store)?;
        let mut done = 0;
        for id in &entry.ids {
            let Some(want) = self.locator_of(entry, id) else { continue };
            let path = match id {
                EntryId::Folder(node) => at.join(crate::format::folder::header_name(node)),
                EntryId::File(_) => at.clone(),
            };
            let have = self.locator_at(&path)?;
            if have == want {
                continue;
            }
            let linked = matches!(id, EntryId::File(_)) && self.store.stat(&path).is_ok_and(|s| s.links > 1);
            match self.file_of(tree, entry) {
                _ if linked => self.relocate_link(&path, None, Some(&want))?,
                Some(file) => self.relocate_file(&file, &path, &want)?,
                None => {
                    let file = self.store.open(&path, true).map_err(Error::io(&path))?;
                    file.write_at(want.as_bytes(), AT_LOCATOR as u64).map_err(Error::io(&path))?;
                }
            }
            done += 1;
        }
        Ok(done)
    }

    fn locator_at(&self, path: &Path) -> Result<Locator> {
        let mut bytes = [0; HEADER - AT_LOCATOR];
        let file = self.store.open(path, false).map_err(Error::io(path))?;
        file.read_at(&mut bytes, AT_LOCATOR as u64).map_err(Error::io(path))?;
        Ok(Locator::from_bytes(bytes))
    }
}

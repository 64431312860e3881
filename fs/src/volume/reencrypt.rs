//! What is under former keys, sealed anew under the newest: pages, headers, attributes, names.
//!
//! In place, page after page, as a program would write the same bytes again: it can stop anywhere and begin again, files
//! may be open meanwhile, and a crash leaves each page under the one key or the other.

use std::path::Path;

use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{Node, ROOT, Tree};
use super::{Inner, OpenHow, Volume, attrs};
use crate::content::Kind;
use crate::format::HEADER;
use crate::format::folder::{self, FolderHeader};
use crate::format::tag::EpochTag;
use crate::format::xattr;
use crate::store::{File, Rename, read_small};

/// So many bytes are sealed anew while others wait for the file.
const STEP: u64 = 1 << 20;

impl Volume {
    /// Seals an entry of a folder under the newest key: a file with all its pages, or a folder itself without what is in it.
    /// `false`: all of it was already.
    pub fn reencrypt(&self, parent: u64, name: &[u8]) -> Result<bool> {
        let inner = &self.0;
        inner.writable()?;
        let ino = {
            let _gate = inner.gate.read();
            let mut tree = inner.tree.lock();
            inner.load_listing(&mut tree, parent)?;
            inner.bind(&mut tree, parent, name)?
        };
        let is_folder = matches!(inner.tree.lock().nodes.get(&ino), Some(Node::Folder(_)));
        let done = if is_folder { self.reencrypt_folder(ino)? } else { self.reencrypt_file(ino)? };
        let _gate = inner.gate.read();
        let renamed = inner.reseal_name(&mut inner.tree.lock(), parent, name)?;
        if done || renamed {
            inner.feed.changed();
        }
        Ok(done || renamed)
    }

    /// As [`Self::reencrypt`], of all that there is. `each` hears how many entries were looked at, and stops it by `false`.
    /// What could not be done is tried again another time, and comes back.
    pub fn reencrypt_all(&self, mut each: impl FnMut(usize) -> bool) -> Result<Vec<Error>> {
        let inner = &self.0;
        let (mut count, mut failed) = (0, Vec::new());
        let mut next = vec![ROOT];
        failed.extend(self.reencrypt_folder(ROOT).err());
        while let Some(folder) = next.pop() {
            let names: Vec<Vec<u8>> = {
                let _gate = inner.gate.read();
                let mut tree = inner.tree.lock();
                match inner.load_listing(&mut tree, folder) {
                    Ok(()) => tree.listing(folder)?.entries.keys().cloned().collect(),
                    Err(_) => continue, // removed meanwhile
                }
            };
            for name in names {
                match self.reencrypt(folder, &name) {
                    Ok(_) | Err(Error::Errno(libc::ENOENT | libc::ESTALE)) => {}
                    Err(e) => failed.push(e),
                }
                count += 1;
                if !each(count) {
                    return Ok(failed);
                }
                let tree = inner.tree.lock();
                let ino = tree.entry(folder, &name).map_or(0, |entry| entry.ino);
                if matches!(tree.nodes.get(&ino), Some(Node::Folder(_))) {
                    next.push(ino);
                }
            }
        }
        Ok(failed)
    }

    fn reencrypt_folder(&self, ino: u64) -> Result<bool> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        let tree = &mut *tree;
        let path = tree.folder_path(ino)?;
        let keys = inner.keys();
        let mut old = Vec::new();
        for (node, _) in &tree.folder(ino)?.headers {
            let at = path.join(folder::header_name(node));
            let bytes = read_small(inner.store.as_ref(), &at, HEADER).map_err(Error::io(&at))?;
            let bytes = bytes.try_into().map_err(|_| Error::Damaged { path: at.clone(), what: "a header is cut" })?;
            let (header, locator) = FolderHeader::open(&keys, &bytes).map_err(Error::refused(&at))?;
            if header.epoch != keys.current() {
                old.push((at, header.node, locator));
            }
        }
        let disk = inner.store.open_folder(&path).map_err(Error::io(&path))?;
        let node = *tree.node_of(ino)?.as_bytes();
        let stale = inner.has_old_xattrs(disk.as_ref()).map_err(Error::io(&path))?;
        if old.is_empty() && !stale {
            return Ok(false);
        }
        inner.intend_folders(tree, &[ino])?;
        for (at, node, locator) in old {
            let bytes = FolderHeader::new(&keys, node).seal(&keys, &locator).map_err(Error::refused(&at))?;
            let file = inner.store.open(&at, true).map_err(Error::io(&at))?;
            file.write_at(&bytes, 0).and_then(|()| file.sync(false)).map_err(Error::io(&at))?;
        }
        if stale {
            for (name, value) in inner.folder_xattrs(tree, ino)?.clone() {
                attrs::write_xattr(disk.as_ref(), &keys, &node, &name, Some(&value)).map_err(Error::io(&path))?;
            }
        }
        inner.touch_folder(tree, ino)?;
        Ok(true)
    }

    fn reencrypt_file(&self, ino: u64) -> Result<bool> {
        let inner = &self.0;
        let file = inner.tree.lock().file(ino)?.file.clone();
        // Held open, so that no half of it is recorded.
        let is_junction = file.kind == Kind::Share;
        if !is_junction {
            self.open_file(ino, OpenHow { write: true, truncate: false })?;
        }
        let done = inner.reencrypt_content(&file);
        if !is_junction {
            self.release(ino, true)?;
        }
        done
    }
}

impl Inner {
    fn reencrypt_content(&self, file: &std::sync::Arc<FileNode>) -> Result<bool> {
        let current = EpochTag::current(&self.keys());
        let mut done = false;
        let mut at = 0;
        loop {
            let _gate = self.gate.read();
            let old = self.with_content(file, |state| {
                let content = state.content()?;
                Ok((at < content.size()).then(|| content.has_old_pages(at, STEP, current)).transpose()?)
            })?;
            let Some(old) = old else { break };
            if old {
                done = true;
                self.kept_times(file, |state| Ok(state.content_mut()?.reseal_pages(at, STEP, current)?), at)?;
            }
            at += STEP;
        }
        let _gate = self.gate.read();
        let keys = self.keys();
        let (header, disk) = self.with_content(file, |state| {
            let content = state.content()?;
            Ok((content.header().clone(), content.file().clone()))
        })?;
        let at = Path::new("");
        if header.epoch != keys.current() || !header.former.is_empty() {
            done = true;
            // Pages first, durably: without the former keys no other page opens.
            disk.sync(false).map_err(Error::io(at))?;
            self.kept_times(file, |state| Ok(state.content_mut()?.renew_header(&keys)?), 0)?;
            file.state.write().epoch = keys.current();
        }
        if self.has_old_xattrs(disk.as_ref()).map_err(Error::io(at))? {
            done = true;
            let standing = self.standing(&self.tree.lock(), file.ino);
            let path = self.tree.lock().file_path(file.ino)?;
            let mut state = file.state.write();
            self.intend_attrs(file, &mut state, standing)?;
            for (name, value) in self.file_xattrs(file, &mut state, path.as_deref())?.clone() {
                attrs::write_xattr(disk.as_ref(), &keys, file.id.as_bytes(), &name, Some(&value))
                    .map_err(Error::io(at))?;
            }
            self.touch_attrs(file.ino, &mut state);
        }
        Ok(done)
    }

    /// Changes a content that shows the same after: the file keeps its times.
    fn kept_times(
        &self,
        file: &std::sync::Arc<FileNode>,
        change: impl FnOnce(&mut super::file::FileState) -> Result<()>,
        at: u64,
    ) -> Result<()> {
        let touched = |content: &crate::content::Content| {
            content.groups_of_write(at, STEP.min(content.size().saturating_sub(at)).max(1))
        };
        self.change_file(file, touched, |state| {
            let disk = state.content()?.file().clone();
            let stat = disk.stat().map_err(Error::io(Path::new("")))?;
            change(state)?;
            disk.set_times(Some(stat.atime), Some(stat.mtime)).map_err(Error::io(Path::new("")))
        })
    }

    fn has_old_xattrs(&self, disk: &dyn File) -> std::io::Result<bool> {
        let current = EpochTag::current(&self.keys());
        for stored in disk.xattrs()?.into_iter().filter(|stored| xattr::is_stored(stored.as_bytes())) {
            if disk.xattr(&stored)?.is_some_and(|raw| !raw.starts_with(&current.0)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Renames an entry to what its name is under the newest key.
    fn reseal_name(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<bool> {
        self.load_listing(tree, parent)?;
        self.bind(tree, parent, shown)?;
        let source = tree.entry(parent, shown)?.clone();
        if source.epoch == self.keys().current() {
            return Ok(false);
        }
        self.intend_folders(tree, &[parent])?;
        let path = tree.folder_path(parent)?;
        let disk = self.store.open_folder(&path).map_err(Error::io(&path))?;
        let before = disk.stat().map_err(Error::io(&path))?;
        let mut entry = self.new_entry(tree, parent, &source.plain, source.folder)?;
        if tree.listing(parent)?.by_store(&entry.store).is_some() {
            return Ok(false); // Two are named alike: the other one has it.
        }
        entry.ids.clone_from(&source.ids);
        self.move_entry(tree, (parent, shown, &source), (parent, entry), Rename::NoReplace)?;
        // Programs see no change of it.
        disk.set_times(Some(before.atime), Some(before.mtime)).map_err(Error::io(&path))?;
        Ok(true)
    }
}

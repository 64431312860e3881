//! Attributes of files and folders, extended ones too, and what the disk has room for.

use super::attrs::{self, Attr, Device, Shown};
use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{Node, Tree};
use super::{Inner, Volume, acl};
use crate::content::Kind;
use crate::format::xattr::MAX_NAME;
use crate::store::{File, Nanos, Space, Stat};

/// What to set; `None` leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Nanos>,
    pub mtime: Option<Nanos>,
}

impl Volume {
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.attr_of(&mut tree, ino)
    }

    pub fn setattr(&self, ino: u64, set: SetAttr) -> Result<Attr> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        inner.tree.lock().no_junction(ino)?;
        if let Some(size) = set.size {
            inner.truncate(ino, size)?;
        }
        let mut tree = inner.tree.lock();
        if matches!(tree.nodes.get(&ino), Some(Node::Folder(_))) {
            inner.set_folder(&mut tree, ino, &set)?;
        } else if set.mode.is_some()
            || set.uid.is_some()
            || set.gid.is_some()
            || set.atime.is_some()
            || set.mtime.is_some()
        {
            inner.set_file(&mut tree, ino, &set)?;
        }
        let attr = inner.attr_of(&mut tree, ino)?;
        drop(tree);
        // The kernel's own flush of times follows each write: it is told when the file is closed.
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            inner.feed.changed();
        }
        Ok(attr)
    }

    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let inner = &self.0;
        inner.check_xattr(name)?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        if let Ok(entry) = tree.file(ino) {
            let file = entry.file.clone();
            let path = tree.file_path(ino)?;
            drop(tree);
            let mut state = file.state.write();
            let xattrs = inner.file_xattrs(&file, &mut state, path.as_deref())?;
            return xattrs.get(name).cloned().ok_or(Error::Errno(libc::ENODATA));
        }
        inner.folder_xattrs(&mut tree, ino)?.get(name).cloned().ok_or(Error::Errno(libc::ENODATA))
    }

    pub fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        if let Ok(entry) = tree.file(ino) {
            let file = entry.file.clone();
            let path = tree.file_path(ino)?;
            drop(tree);
            let mut state = file.state.write();
            return Ok(inner.file_xattrs(&file, &mut state, path.as_deref())?.keys().cloned().collect());
        }
        Ok(inner.folder_xattrs(&mut tree, ino)?.keys().cloned().collect())
    }

    /// `flags`: XATTR_CREATE and XATTR_REPLACE, as setxattr(2) has them.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let check = |there: bool| match flags {
            libc::XATTR_CREATE if there => Err(Error::Errno(libc::EEXIST)),
            libc::XATTR_REPLACE if !there => Err(Error::Errno(libc::ENODATA)),
            _ => Ok(()),
        };
        self.change_xattr(ino, name, Some(value), check)
    }

    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.change_xattr(ino, name, None, |there| if there { Ok(()) } else { Err(Error::Errno(libc::ENODATA)) })
    }

    pub fn statfs(&self) -> Result<Space> {
        self.0.store.space().map_err(Error::io(std::path::Path::new("")))
    }

    fn change_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: Option<&[u8]>,
        check: impl Fn(bool) -> Result<()>,
    ) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        inner.check_xattr(name)?;
        let (value, bits) = acl::set(name, value)?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        tree.no_junction(ino)?;
        let keys = inner.keys();
        if let Ok(entry) = tree.file(ino) {
            let file = entry.file.clone();
            let path = tree.file_path(ino)?;
            let standing = inner.standing(&tree, ino);
            drop(tree);
            let mut state = file.state.write();
            check(inner.file_xattrs(&file, &mut state, path.as_deref())?.contains_key(name))?;
            inner.intend_attrs(&file, &mut state, standing)?;
            let disk = inner.disk_of(&state, path.as_deref())?;
            let at = path.as_deref().unwrap_or(std::path::Path::new(""));
            attrs::write_xattr(disk.as_ref(), &keys, file.id.as_bytes(), name, value).map_err(Error::io(at))?;
            set_bits(disk.as_ref(), bits, false).map_err(Error::io(at))?;
            let xattrs = inner.file_xattrs(&file, &mut state, path.as_deref())?;
            put(xattrs, name, value);
            inner.touch_attrs(ino, &mut state);
        } else {
            let path = tree.folder_path(ino)?;
            check(inner.folder_xattrs(&mut tree, ino)?.contains_key(name))?;
            inner.intend_folders(&mut tree, &[ino])?;
            let node = tree.node_of(ino)?;
            let disk = inner.store.open_folder(&path).map_err(Error::io(&path))?;
            attrs::write_xattr(disk.as_ref(), &keys, node.as_bytes(), name, value).map_err(Error::io(&path))?;
            set_bits(disk.as_ref(), bits, true).map_err(Error::io(&path))?;
            put(inner.folder_xattrs(&mut tree, ino)?, name, value);
            inner.touch_folder(&mut tree, ino)?;
        }
        inner.feed.changed();
        Ok(())
    }
}

/// The mode that an access list stands for.
fn set_bits(disk: &dyn File, bits: Option<u32>, folder: bool) -> std::io::Result<()> {
    match bits {
        Some(bits) => attrs::set_mode(disk, attrs::stat(disk)?.mode & !0o777 | bits, folder),
        None => Ok(()),
    }
}

fn put(xattrs: &mut acl::Xattrs, name: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => drop(xattrs.insert(name.to_vec(), value.to_vec())),
        None => drop(xattrs.remove(name)),
    }
}

impl Inner {
    pub fn attr_of(&self, tree: &mut Tree, ino: u64) -> Result<Attr> {
        match tree.nodes.get(&ino) {
            Some(Node::Folder(folder)) if folder.gone => {
                let stat = folder.stat.ok_or(Error::Errno(libc::ESTALE))?;
                Ok(attrs::of_stat(ino, Shown::Folder, &stat))
            }
            Some(Node::Folder(_)) => Ok(attrs::of_stat(ino, Shown::Folder, &self.folder_stat(tree, ino)?)),
            Some(Node::File(entry)) => {
                let file = entry.file.clone();
                let known = file.state.read().stat;
                let stat = match known {
                    Some(stat) => stat,
                    None => {
                        let path = tree.file_path(ino)?;
                        self.stat_file(&mut file.state.write(), path.as_deref())?
                    }
                };
                let mut attr = attrs::of_stat(ino, Shown::of(&file), &stat);
                if matches!(file.kind, Kind::Block | Kind::Char) {
                    attr.device = self.device_of(tree, &file)?;
                }
                Ok(attr)
            }
            None => Err(Error::Errno(libc::ESTALE)),
        }
    }

    /// Which device a node stands for: its content.
    fn device_of(&self, tree: &Tree, file: &FileNode) -> Result<Device> {
        let path = tree.file_path(file.ino)?;
        let mut state = file.state.write();
        self.load(file, &mut state, path.as_deref())?;
        let content = state.content()?.read_all(8);
        self.let_go(&mut state);
        let what = "its content is no device's number";
        Device::of_content(&content?).ok_or_else(|| Error::Damaged { path: path.unwrap_or_default(), what })
    }

    pub fn folder_stat(&self, tree: &mut Tree, ino: u64) -> Result<Stat> {
        if let Some(stat) = tree.folder(ino)?.stat {
            return Ok(stat);
        }
        if ino != super::tree::ROOT && tree.folder(ino)?.place.is_none() {
            return Err(Error::Errno(libc::ESTALE)); // removed
        }
        let path = tree.folder_path(ino)?;
        let stat = self.stat_path(&path)?;
        tree.folder_mut(ino)?.stat = Some(stat);
        Ok(stat)
    }

    fn set_folder(&self, tree: &mut Tree, ino: u64, set: &SetAttr) -> Result<()> {
        self.intend_folders(tree, &[ino])?;
        let path = tree.folder_path(ino)?;
        let disk = self.store.open_folder(&path).map_err(Error::io(&path))?;
        apply(disk.as_ref(), set, true).map_err(Error::io(&path))?;
        if let Some(mode) = set.mode
            && let Some(list) = acl::after_chmod(self.folder_xattrs(tree, ino)?, mode)
        {
            let node = tree.node_of(ino)?;
            let written = attrs::write_xattr(disk.as_ref(), &self.keys(), node.as_bytes(), acl::ACCESS, Some(&list));
            written.map_err(Error::io(&path))?;
            put(self.folder_xattrs(tree, ino)?, acl::ACCESS, Some(&list));
        }
        self.touch_folder(tree, ino)
    }

    fn set_file(&self, tree: &mut Tree, ino: u64, set: &SetAttr) -> Result<()> {
        let file = tree.file(ino)?.file.clone();
        let path = tree.file_path(ino)?;
        let standing = self.standing(tree, ino);
        let mut state = file.state.write();
        let only_mtime = SetAttr { mtime: set.mtime, ..SetAttr::default() } == *set;
        if only_mtime && !state.mtime_moved && Some(self.stat_file(&mut state, path.as_deref())?.mtime) == set.mtime {
            return Ok(()); // The kernel tells it again with each change of its own.
        }
        self.intend_attrs(&file, &mut state, standing)?;
        let disk = self.disk_of(&state, path.as_deref())?;
        let at = path.as_deref().unwrap_or(std::path::Path::new(""));
        let symlink = file.kind == Kind::Symlink;
        let set = SetAttr { mode: set.mode.filter(|_| !symlink), ..*set };
        apply(disk.as_ref(), &set, false).map_err(Error::io(at))?;
        if let Some(mode) = set.mode
            && let Some(list) = acl::after_chmod(self.file_xattrs(&file, &mut state, path.as_deref())?, mode)
        {
            let id = file.id.as_bytes();
            attrs::write_xattr(disk.as_ref(), &self.keys(), id, acl::ACCESS, Some(&list)).map_err(Error::io(at))?;
            put(self.file_xattrs(&file, &mut state, path.as_deref())?, acl::ACCESS, Some(&list));
        }
        if set.mtime.is_some() {
            (state.mtime, state.mtime_moved) = (set.mtime, false);
        }
        self.touch_attrs(ino, &mut state);
        Ok(())
    }

    /// Only attributes changed: nobody need close it first.
    pub fn touch_attrs(&self, ino: u64, state: &mut super::file::FileState) {
        let settled = state.settled == state.changes;
        state.touch();
        if settled {
            state.settled = state.changes;
        }
        self.note_dirty_file(ino, state);
    }

    fn check_xattr(&self, name: &[u8]) -> Result<()> {
        let known =
            [&b"user."[..], b"security.", b"trusted."].iter().any(|p| name.starts_with(p) && name.len() > p.len())
                || [acl::ACCESS, acl::DEFAULT].contains(&name);
        match name.len() {
            _ if !known => Err(Error::Errno(libc::EOPNOTSUPP)),
            len if len > MAX_NAME => Err(Error::Errno(libc::ERANGE)),
            _ => Ok(()),
        }
    }
}

fn apply(disk: &dyn File, set: &SetAttr, folder: bool) -> std::io::Result<()> {
    if set.uid.is_some() || set.gid.is_some() {
        // The disk drops bits at a change of owner, of the mark among them: what is true is put back.
        let mut mode = attrs::stat(disk)?.mode;
        disk.set_owner(set.uid, set.gid)?;
        if !folder {
            mode &= if mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
        if set.mode.is_none() {
            attrs::set_mode(disk, mode, folder)?;
        }
    }
    if let Some(mode) = set.mode {
        attrs::set_mode(disk, mode, folder)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        disk.set_times(set.atime, set.mtime)?;
    }
    Ok(())
}

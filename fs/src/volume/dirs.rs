//! Reading folders: each opening sees the entries as they were when it began to read.

use std::collections::HashMap;
use std::sync::Arc;

use super::attrs::{Attr, Shown};
use super::error::{Error, Result};
use super::tree::{Node, ROOT, Tree};
use super::{Inner, Volume};

#[derive(Clone, Debug)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: Shown,
}

#[derive(Default)]
pub(crate) struct Handles {
    next: u64,
    open: HashMap<u64, Option<Arc<Vec<Vec<u8>>>>>,
}

impl Volume {
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        if tree.junction(ino).is_none() {
            inner.load_listing(&mut tree, ino)?;
            inner.has_header(&tree, ino)?;
        }
        drop(tree);
        let mut handles = inner.handles.lock();
        handles.next += 1;
        let handle = handles.next;
        handles.open.insert(handle, None);
        Ok(handle)
    }

    pub fn releasedir(&self, handle: u64) {
        self.0.handles.lock().open.remove(&handle);
    }

    /// The entries from `offset` on, `.` and `..` first, until `add` says that it is full. `add` gets the offset of what
    /// follows.
    pub fn readdir(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, &DirEntry) -> bool,
    ) -> Result<()> {
        self.each(ino, handle, offset, |next, tree, name, at| {
            let Ok(kind) = kind_of(tree, at) else { return Ok(true) };
            Ok(!add(next, &DirEntry { name: name.to_vec(), ino: at, kind }))
        })
    }

    /// As [`Self::readdir`], with attributes; each entry but `.` and `..` counts as looked up.
    pub fn readdirplus(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, &[u8], &Attr) -> bool,
    ) -> Result<()> {
        let inner = &self.0;
        self.each(ino, handle, offset, |next, tree, name, at| {
            let Ok(attr) = inner.attr_of(tree, at) else { return Ok(true) };
            if add(next, name, &attr) {
                return Ok(false);
            }
            if name != b"." && name != b".." {
                inner.look(tree, at);
            }
            Ok(true)
        })
    }

    /// Goes on as long as `each` says so.
    fn each(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut each: impl FnMut(u64, &mut Tree, &[u8], u64) -> Result<bool>,
    ) -> Result<()> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        let names = inner.snapshot(&mut tree, ino, handle, offset == 0)?;
        let parent = match tree.nodes.get(&ino) {
            Some(Node::Folder(folder)) => folder.place.as_ref().map_or(ROOT, |p| p.parent),
            _ => ino,
        };
        for (at, (name, dot)) in [(&b"."[..], ino), (&b".."[..], parent)].into_iter().enumerate() {
            if offset <= at as u64 && !each(at as u64 + 1, &mut tree, name, dot)? {
                return Ok(());
            }
        }
        for (at, name) in names.iter().enumerate().skip(offset.saturating_sub(2) as usize) {
            // What was removed meanwhile is not shown any more.
            let Ok(bound) = inner.bind(&mut tree, ino, name) else { continue };
            if !each(at as u64 + 3, &mut tree, name, bound)? {
                break;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn snapshot(&self, tree: &mut Tree, ino: u64, handle: u64, anew: bool) -> Result<Arc<Vec<Vec<u8>>>> {
        let mut handles = self.handles.lock();
        let slot = handles.open.get_mut(&handle).ok_or(Error::Errno(libc::EBADF))?;
        match slot {
            Some(names) if !anew => Ok(names.clone()),
            _ if tree.junction(ino).is_some() => Ok(Arc::default()),
            _ => {
                if tree.listing(ino).is_err() {
                    self.load_listing(tree, ino)?;
                }
                let names = Arc::new(tree.listing(ino)?.entries.keys().cloned().collect::<Vec<_>>());
                *slot = Some(names.clone());
                Ok(names)
            }
        }
    }
}

fn kind_of(tree: &Tree, ino: u64) -> Result<Shown> {
    match tree.nodes.get(&ino) {
        Some(Node::Folder(_)) => Ok(Shown::Folder),
        Some(Node::File(file)) => Ok(Shown::of(&file.file)),
        None => Err(Error::Errno(libc::ENOENT)),
    }
}

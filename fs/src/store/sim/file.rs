//! A file of the simulated disk: what was written to it since its last fsync, page by page.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::super::{File, Nanos, Stat};
use super::SimDisk;

pub(super) const PAGE: u64 = 4096;

pub(super) type Page = Option<Arc<[u8; PAGE as usize]>>;

/// All versions since the last fsync; the last one is what is read.
#[derive(Clone)]
pub(super) struct Node {
    pub folder: bool,
    pub pages: BTreeMap<u64, Vec<Page>>,
    pub length: Vec<u64>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub times: [Nanos; 3],
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

pub(super) struct SimFile {
    pub disk: SimDisk,
    pub ino: u64,
    pub life: u64,
}

impl Node {
    pub fn new(folder: bool, mode: u32) -> Self {
        Self {
            folder,
            pages: BTreeMap::new(),
            length: vec![0],
            mode,
            uid: 1000,
            gid: 1000,
            times: [0; 3],
            xattrs: BTreeMap::new(),
        }
    }

    pub fn len(&self) -> u64 {
        self.length.last().copied().unwrap_or(0)
    }

    fn page(&self, k: u64) -> Page {
        self.pages.get(&k).and_then(|versions| versions.last().cloned()).flatten()
    }

    pub fn note(&mut self, k: u64, page: Page) {
        self.pages.entry(k).or_insert_with(|| vec![None]).push(page);
    }

    /// Nothing past the length is ever seen.
    pub fn clip(&mut self) {
        let length = self.len();
        let past: Vec<u64> = self.pages.range(length / PAGE..).map(|(k, _)| *k).collect();
        for k in past {
            let Some(page) = self.page(k) else { continue };
            let keep = length.saturating_sub(k * PAGE).min(PAGE) as usize;
            let mut piece = *page;
            piece[keep..].fill(0);
            self.note(k, piece.iter().any(|b| *b != 0).then(|| Arc::new(piece)));
        }
    }

    pub fn settle(&mut self) {
        for versions in self.pages.values_mut() {
            versions.drain(..versions.len() - 1);
        }
        self.pages.retain(|_, versions| versions[0].is_some());
        self.length.drain(..self.length.len() - 1);
    }
}

impl SimFile {
    fn change<T>(&self, f: impl FnOnce(&mut Node) -> T) -> io::Result<T> {
        let mut state = self.disk.step(self.life)?;
        let now = state.clock;
        let node = state.node_mut(self.ino)?;
        node.times[2] = now;
        Ok(f(node))
    }

    fn show<T>(&self, f: impl FnOnce(&Node) -> T) -> io::Result<T> {
        Ok(f(self.disk.look(self.life)?.node(self.ino)?))
    }

    /// One page's change is one step.
    fn write_page(&self, k: u64, from: usize, piece: &[u8]) -> io::Result<()> {
        self.change(|node| {
            let mut page = node.page(k).map_or([0; PAGE as usize], |page| *page);
            page[from..from + piece.len()].copy_from_slice(piece);
            node.note(k, page.iter().any(|b| *b != 0).then(|| Arc::new(page)));
            let end = k * PAGE + (from + piece.len()) as u64;
            if end > node.len() {
                node.length.push(end);
            }
            node.times[1] = node.times[2];
        })
    }
}

impl File for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        self.disk.look(self.life)?.stat(self.ino)
    }

    fn length(&self) -> io::Result<u64> {
        self.show(Node::len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.show(|node| {
            let end = node.len().min(offset + buf.len() as u64);
            let mut at = offset;
            while at < end {
                let (k, from) = (at / PAGE, (at % PAGE) as usize);
                let count = ((end - at) as usize).min(PAGE as usize - from);
                let target = &mut buf[(at - offset) as usize..][..count];
                match node.page(k) {
                    Some(page) => target.copy_from_slice(&page[from..from + count]),
                    None => target.fill(0),
                }
                at += count as u64;
            }
            end.saturating_sub(offset) as usize
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let from = (at % PAGE) as usize;
            let count = (buf.len() - done).min(PAGE as usize - from);
            self.write_page(at / PAGE, from, &buf[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|node| {
            node.length.push(length);
            node.clip();
            node.times[1] = node.times[2];
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = self.length()?.min(offset + len);
        let zeros = [0; PAGE as usize];
        let mut at = offset;
        while at < end {
            let from = (at % PAGE) as usize;
            let count = ((end - at) as usize).min(PAGE as usize - from);
            self.write_page(at / PAGE, from, &zeros[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.change(|_| ())
    }

    fn seek_data(&self, from: u64) -> io::Result<Option<u64>> {
        self.show(|node| {
            let pages = (from / PAGE)..node.len().div_ceil(PAGE);
            pages.into_iter().find(|k| node.page(*k).is_some()).map(|k| (k * PAGE).max(from))
        })
    }

    fn seek_hole(&self, from: u64) -> io::Result<u64> {
        self.show(|node| {
            let pages = (from / PAGE)..node.len().div_ceil(PAGE);
            let hole = pages.into_iter().find(|k| node.page(*k).is_none());
            hole.map_or(node.len(), |k| (k * PAGE).max(from))
        })
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        let mut state = self.disk.step(self.life)?;
        let folder = state.node(self.ino)?.folder;
        if folder {
            state.sync_steps(self.ino);
        } else {
            state.node_mut(self.ino)?.settle();
            state.syncs += 1;
        }
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.change(|node| node.mode = mode & 0o7777)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.change(|node| (node.uid, node.gid) = (uid.unwrap_or(node.uid), gid.unwrap_or(node.gid)))
    }

    fn set_times(&self, atime: Option<Nanos>, mtime: Option<Nanos>) -> io::Result<()> {
        self.change(|node| {
            node.times[0] = atime.unwrap_or(node.times[0]);
            node.times[1] = mtime.unwrap_or(node.times[1]);
        })
    }

    fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.show(|node| node.xattrs.get(name).cloned())
    }

    fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.change(|node| drop(node.xattrs.insert(name.to_owned(), value.to_owned())))
    }

    fn remove_xattr(&self, name: &str) -> io::Result<bool> {
        self.change(|node| node.xattrs.remove(name).is_some())
    }

    fn xattrs(&self) -> io::Result<Vec<String>> {
        self.show(|node| node.xattrs.keys().cloned().collect())
    }

    fn try_lock(&self, _exclusive: bool) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn clone_range(&self, _from: &dyn File, _offset: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }
}

//! What must hold on a disk after any crash, whatever the volume believes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keymgr::ids::FileId;

use super::super::{DirEntry, OpenHow, ROOT, Result, Shown, Volume};
use super::plain;

/// Plaintext bytes of a page.
const PAGE: u64 = 4060;

/// What was promised to whoever wrote.
#[derive(Clone, Default)]
pub struct Oracle {
    /// The disk tears pages: one that was written to since its fsync may be lost, and nothing else.
    torn: bool,
    /// Of each file the pages that may be lost, with all from the last one on.
    lost: HashMap<FileId, BTreeSet<u64>>,
    /// Names made durable by an fsync, and not renamed or removed since.
    /// With the file, where that was fsynced too: what only its folder's fsync kept may have to begin anew.
    names: BTreeMap<String, Option<FileId>>,
    /// Of the bytes that were fsynced those that nothing was done to since.
    sure: HashMap<FileId, Vec<Option<u8>>>,
    /// All that was ever written to each file that somebody made.
    written: HashMap<FileId, BTreeSet<u8>>,
}

impl Oracle {
    pub fn new(torn: bool) -> Self {
        Self { torn, ..Self::default() }
    }

    pub fn made(&mut self, file: FileId) {
        self.written.entry(file).or_default();
    }

    /// Before the write, since it may be broken off.
    pub fn writes(&mut self, file: FileId, at: u64, data: &[u8]) {
        self.written.entry(file).or_default().extend(data);
        self.doubts(file, at, at + data.len() as u64);
    }

    /// These bytes are about to become something else, or to go.
    pub fn doubts(&mut self, file: FileId, mut from: u64, mut to: u64) {
        if self.torn {
            // Also the page that a file ended in, which growing rewrites.
            let end = self.sure.get(&file).map_or(0, |sure| sure.len() as u64);
            let first = from.min(end.saturating_sub(1)) / PAGE;
            let last = to.min(from + (1 << 16)).max(end) / PAGE;
            self.lost.entry(file).or_default().extend(first..=last);
            (from, to) = (first * PAGE, to.saturating_add(PAGE));
        }
        if let Some(sure) = self.sure.get_mut(&file) {
            let end = sure.len().min(to as usize);
            sure[(from as usize).min(end)..end].fill(None);
        }
    }

    pub fn synced(&mut self, path: &str, file: FileId, data: &[u8]) {
        self.names.insert(path.to_owned(), Some(file));
        self.sure.insert(file, data.iter().copied().map(Some).collect());
        self.lost.remove(&file);
    }

    pub fn named(&mut self, path: &str) {
        self.names.entry(path.to_owned()).or_default();
    }

    /// A version that sync is about to put there: whatever differs is one or the other.
    pub fn installs(&mut self, file: FileId, data: &[u8]) {
        self.written.entry(file).or_default().extend(data);
        for (i, sure) in self.sure.get_mut(&file).into_iter().flatten().enumerate() {
            if data.get(i) != sure.as_ref() {
                *sure = None;
            }
        }
    }

    /// A name, or all below it, is about to go or to become something else.
    pub fn forget(&mut self, path: &str) {
        self.names.retain(|name, _| name != path && !name.starts_with(&format!("{path}/")));
    }

    /// What was fsynced is there; all that is there reads, and was written there once.
    pub fn check(&self, volume: &Volume) -> Result<()> {
        for (path, file) in &self.names {
            let ino = find(volume, path).unwrap_or_else(|e| panic!("{path}, fsynced, is gone: {e}"));
            assert!(file.is_none_or(|file| id_of(volume, ino) == file), "{path} is another file");
        }
        for (path, ino) in files(volume)? {
            let file = id_of(volume, ino);
            let now = match read(volume, ino) {
                Ok(now) => now,
                Err(_) if self.torn => {
                    self.check_pages(volume, ino, &path)?;
                    continue;
                }
                Err(e) => panic!("{path} does not read: {e}"),
            };
            // A file whose header was lost with all else begins anew, under a new id.
            let nothing = BTreeSet::new();
            let written = self.written.get(&file).unwrap_or(&nothing);
            let strange = now.iter().position(|b| *b != 0 && !written.contains(b));
            assert_eq!(strange, None, "{path} shows what was never written to it");
            let lost = self
                .sure
                .get(&file)
                .into_iter()
                .flatten()
                .enumerate()
                .find(|(i, sure)| sure.is_some_and(|b| now.get(*i) != Some(&b)));
            assert_eq!(lost, None, "{path}, {} bytes, lost what was fsynced", now.len());
        }
        Ok(())
    }
}

impl Oracle {
    /// Of a file with lost pages the others.
    fn check_pages(&self, volume: &Volume, ino: u64, path: &str) -> Result<()> {
        let file = id_of(volume, ino);
        let (sure, size) = (self.sure.get(&file), volume.getattr(ino)?.size);
        volume.open_file(ino, OpenHow::default())?;
        for page in 0..size.div_ceil(PAGE) {
            let mut now = [0; PAGE as usize];
            match volume.read(ino, &mut now, page * PAGE) {
                Ok(_) => {
                    let promised = sure.into_iter().flatten().skip((page * PAGE) as usize).zip(now);
                    assert!(promised.clone().all(|(sure, b)| sure.is_none_or(|sure| sure == b)), "{path}, page {page}");
                }
                Err(e) => {
                    let may = self.lost.get(&file).is_some_and(|lost| lost.contains(&page));
                    assert!(may, "{path}, page {page} of {size} bytes was not being written: {e}");
                }
            }
        }
        volume.release(ino, false)
    }
}

/// Everything can be removed.
pub fn remove_all(volume: &Volume) -> Result<()> {
    let mut folders = vec![(ROOT, Vec::new())];
    let mut inside = Vec::new();
    while let Some((ino, path)) = folders.pop() {
        for entry in entries(volume, ino)? {
            volume.lookup(ino, &entry.name)?;
            match entry.kind {
                Shown::Folder => folders.push((entry.ino, [&path[..], &[(ino, entry.name.clone())]].concat())),
                _ => volume.unlink(ino, &entry.name)?,
            }
        }
        inside.extend(path.last().cloned());
    }
    for (parent, name) in inside.into_iter().rev() {
        volume.rmdir(parent, &name)?;
    }
    assert_eq!(entries(volume, ROOT)?.len(), 0);
    Ok(())
}

pub fn id_of(volume: &Volume, ino: u64) -> FileId {
    volume.0.tree.lock().file(ino).unwrap().file.id
}

pub fn find(volume: &Volume, path: &str) -> Result<u64> {
    let mut at = ROOT;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        at = volume.lookup(at, &plain(name))?.ino;
    }
    Ok(at)
}

pub fn read(volume: &Volume, ino: u64) -> Result<Vec<u8>> {
    volume.open_file(ino, OpenHow::default())?;
    let mut out = vec![0; 1 << 16];
    let len = volume.read(ino, &mut out, 0);
    volume.release(ino, false)?;
    out.truncate(len?);
    Ok(out)
}

fn entries(volume: &Volume, folder: u64) -> Result<Vec<DirEntry>> {
    let handle = volume.opendir(folder)?;
    let mut out = Vec::new();
    volume.readdir(folder, handle, 2, |_, entry| {
        out.push(entry.clone());
        false
    })?;
    volume.releasedir(handle);
    Ok(out)
}

fn files(volume: &Volume) -> Result<Vec<(String, u64)>> {
    let mut out = Vec::new();
    let mut next = vec![(ROOT, String::new())];
    while let Some((folder, path)) = next.pop() {
        for entry in entries(volume, folder)? {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let ino = volume.lookup(folder, &entry.name)?.ino;
            match entry.kind {
                Shown::Folder => next.push((ino, path)),
                _ => out.push((path, ino)),
            }
        }
    }
    Ok(out)
}

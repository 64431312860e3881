//! Contents: opening, reading, writing, cutting, holes, and copying inside the volume.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{Error, Result};
use super::file::{FileNode, FileState};
use super::{Inner, Volume, attrs, change};
use crate::content::Kind;

#[derive(Clone, Copy, Default, Debug)]
pub struct OpenHow {
    pub write: bool,
    pub truncate: bool,
}

impl Volume {
    pub fn open_file(&self, ino: u64, how: OpenHow) -> Result<()> {
        let inner = &self.0;
        if how.write || how.truncate {
            inner.writable()?;
        }
        let _gate = inner.gate.read();
        {
            let (file, path) = inner.find(ino)?;
            if file.kind == Kind::Share {
                return Err(Error::Errno(libc::EISDIR));
            }
            let mut state = file.state.write();
            inner.unkeep_open(&mut state);
            if let Err(e) = inner.load_or_tell(&file, &mut state, path.as_deref()) {
                drop(state);
                return Err(inner.tell_missing(&file, path.as_deref(), e));
            }
            state.opens += 1;
            state.writers += u32::from(how.write);
        }
        if how.truncate
            && let Err(e) = inner.truncate(ino, 0)
        {
            inner.release(ino, how.write)?;
            return Err(e);
        }
        Ok(())
    }

    /// `write`: as it was opened.
    pub fn release(&self, ino: u64, write: bool) -> Result<()> {
        let _gate = self.0.gate.read();
        self.0.release(ino, write)
    }

    pub fn read(&self, ino: u64, out: &mut [u8], offset: u64) -> Result<usize> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let file = inner.tree.lock().file(ino)?.file.clone();
        let state = file.state.read();
        if let Some(content) = &state.content {
            return content.read_at(out, offset).map_err(|e| inner.tell(&file, e.into()));
        }
        drop(state);
        inner.with_content(&file, |content| Ok(content.content()?.read_at(out, offset)?))
    }

    /// `unprivileged`: the file loses its setuid and setgid bits.
    pub fn write(&self, ino: u64, data: &[u8], offset: u64, unprivileged: bool) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let file = inner.tree.lock().file(ino)?.file.clone();
        inner.change_content(
            &file,
            |content| content.groups_of_write(offset, data.len() as u64),
            |content| content.write_at(data, offset),
        )?;
        if unprivileged { inner.drop_privileges(&file) } else { Ok(()) }
    }

    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let file = inner.tree.lock().file(ino)?.file.clone();
        if file.kind != Kind::Symlink {
            return Err(Error::Errno(libc::EINVAL));
        }
        inner.with_content(&file, |state| Ok(state.content()?.read_all(libc::PATH_MAX as u64)?))
    }

    /// `mode` as fallocate(2) has it: room, holes and zeros; no shifting.
    pub fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let file = inner.tree.lock().file(ino)?.file.clone();
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let groups = |content: &crate::content::Content| content.groups_of_write(offset, len);
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => inner.change_content(&file, groups, |content| content.allocate(offset, len, keep)),
            libc::FALLOC_FL_PUNCH_HOLE if keep => inner.change_content(&file, groups, |c| c.punch(offset, len)),
            libc::FALLOC_FL_ZERO_RANGE => inner.change_content(&file, groups, |c| c.zero(offset, len, keep)),
            _ => Err(Error::Errno(libc::EOPNOTSUPP)),
        }
    }

    /// SEEK_DATA (`data`) or SEEK_HOLE.
    pub fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<u64> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let file = inner.tree.lock().file(ino)?.file.clone();
        let found = inner.with_content(&file, |state| {
            let content = state.content()?;
            Ok(if data { content.seek_data(offset)? } else { content.seek_hole(offset)? })
        })?;
        found.ok_or(Error::Errno(libc::ENXIO))
    }

    /// Copies inside the volume, at most to the source's end; how much is what comes back.
    pub fn copy_range(&self, from: u64, at: u64, to: u64, target: u64, len: u64) -> Result<u64> {
        let mut done = 0;
        let mut buf = vec![0; len.min(1 << 20) as usize];
        while done < len {
            let want = (len - done).min(buf.len() as u64) as usize;
            let piece = buf.get_mut(..want).unwrap_or_default();
            let got = match self.read(from, piece, at + done) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            if got == 0 {
                break;
            }
            match self.write(to, piece.get(..got).unwrap_or_default(), target + done, false) {
                Ok(()) => done += got as u64,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

impl Inner {
    pub fn find(&self, ino: u64) -> Result<(Arc<FileNode>, Option<std::path::PathBuf>)> {
        let tree = self.tree.lock();
        Ok((tree.file(ino)?.file.clone(), tree.file_path(ino)?))
    }

    pub fn truncate(&self, ino: u64, size: u64) -> Result<()> {
        let file = self.tree.lock().file(ino)?.file.clone();
        if file.kind != Kind::File {
            return Err(Error::Errno(libc::EINVAL));
        }
        self.change_content(&file, |content| content.groups_of_truncate(size), |content| content.truncate(size))?;
        self.drop_privileges(&file)
    }

    /// Changes a content after its groups are on the list.
    fn change_content(
        &self,
        file: &Arc<FileNode>,
        groups: impl Fn(&crate::content::Content) -> std::ops::Range<u32>,
        change: impl FnOnce(&mut crate::content::Content) -> Result<(), crate::content::Error>,
    ) -> Result<()> {
        self.change_file(file, groups, |state| {
            state.mtime_moved = self.kernel_times.load(Ordering::Relaxed) && file.kind == Kind::File;
            Ok(change(state.content_mut()?)?)
        })
    }

    /// As [`Self::change_content`], with the times left to `change`.
    pub fn change_file(
        &self,
        file: &Arc<FileNode>,
        groups: impl Fn(&crate::content::Content) -> std::ops::Range<u32>,
        change: impl FnOnce(&mut FileState) -> Result<()>,
    ) -> Result<()> {
        let mut state = file.state.write();
        loop {
            if state.content.is_none() {
                drop(state);
                let path = self.tree.lock().file_path(file.ino)?;
                state = file.state.write();
                self.load_or_tell(file, &mut state, path.as_deref())?;
            }
            let touched = groups(state.content()?);
            if change::unlisted(&state, &touched).is_none() {
                break;
            }
            drop(state);
            self.intend_groups(file, &touched).map_err(|e| self.tell(file, e))?;
            state = file.state.write();
        }
        state.touch();
        self.note_dirty_file(file.ino, &state);
        let done = change(&mut state);
        let closed = state.opens == 0;
        if closed {
            state.settled = state.changes;
            self.let_go(&mut state);
        }
        drop(state);
        if closed {
            self.feed.changed();
        }
        done.map_err(|e| self.tell(file, e))
    }

    /// Opens the content for a moment, if nobody has it open.
    pub fn with_content<T>(&self, file: &Arc<FileNode>, f: impl FnOnce(&mut FileState) -> Result<T>) -> Result<T> {
        let path = self.tree.lock().file_path(file.ino)?;
        let mut state = file.state.write();
        self.load_or_tell(file, &mut state, path.as_deref())?;
        let done = f(&mut state);
        self.let_go(&mut state);
        drop(state);
        done.map_err(|e| self.tell(file, e))
    }

    /// Loads; what is refused then is told of without the table, whose lock comes before this one.
    fn load_or_tell(&self, file: &FileNode, state: &mut FileState, path: Option<&std::path::Path>) -> Result<()> {
        let told = state.damaged; // when its header was refused
        self.load(file, state, path).inspect_err(|e| {
            if e.is_damage() && !told {
                let id = crate::records::EntryId::File(file.id);
                self.refused(None, path.unwrap_or(std::path::Path::new("")), Some(id), e);
            }
        })
    }

    /// Tells of a file that is refused. Called without locks.
    pub fn tell(&self, file: &FileNode, e: Error) -> Error {
        if e.is_damage() {
            let (shown, path) = {
                let tree = self.tree.lock();
                (tree.shown_file(file.ino), tree.file_path(file.ino).ok().flatten())
            };
            let id = crate::records::EntryId::File(file.id);
            self.refused(Some(shown), &path.unwrap_or_default(), Some(id), &e);
        }
        e
    }

    /// As [`Self::tell`], of a file that was not found at `path`: unless it is somewhere else by now, it is gone.
    fn tell_missing(&self, file: &FileNode, path: Option<&std::path::Path>, e: Error) -> Error {
        if !e.is_missing() {
            return e;
        }
        let tree = self.tree.lock();
        match tree.file_path(file.ino) {
            Ok(Some(now)) if Some(now.as_path()) == path => {
                let id = crate::records::EntryId::File(file.id);
                self.missing(e, tree.shown_file(file.ino), &now, Some(id))
            }
            // Renamed between finding and opening it: the kernel looks again.
            _ => Error::Errno(libc::ESTALE),
        }
    }

    fn unkeep_open(&self, state: &mut FileState) {
        if state.kept {
            // Its content is taken over by the opening.
            state.opens += 1;
            self.unkeep(state);
            state.opens -= 1;
        }
    }

    fn release(&self, ino: u64, write: bool) -> Result<()> {
        let mut tree = self.tree.lock();
        let entry = tree.file(ino)?;
        let file = entry.file.clone();
        let dirty = {
            let mut state = file.state.write();
            state.opens = state.opens.saturating_sub(1);
            state.writers = state.writers.saturating_sub(u32::from(write));
            if state.writers == 0 {
                state.settled = state.changes;
            }
            self.let_go(&mut state);
            state.dirty
        };
        drop(file);
        tree.drop_unused(ino);
        drop(tree);
        if write && dirty {
            self.feed.changed();
        }
        Ok(())
    }

    /// The files that some program has open.
    pub fn open_inodes(&self) -> Vec<u64> {
        let tree = self.tree.lock();
        let is_open = |node: &super::tree::Node| match node {
            super::tree::Node::File(entry) => entry.file.state.read().opens > 0,
            super::tree::Node::Folder(_) => false,
        };
        tree.nodes.iter().filter(|(_, node)| is_open(node)).map(|(ino, _)| *ino).collect()
    }

    /// The kernel is gone, and with it every opening: what it had still queued of closes never comes.
    pub fn release_all(&self) {
        let _gate = self.gate.read();
        let mut tree = self.tree.lock();
        let inos: Vec<u64> = tree.nodes.keys().copied().collect();
        for ino in inos {
            match tree.nodes.get_mut(&ino) {
                Some(super::tree::Node::File(entry)) => {
                    entry.lookups = 0;
                    let mut state = entry.file.state.write();
                    (state.opens, state.writers, state.settled) = (0, 0, state.changes);
                    self.let_go(&mut state);
                }
                Some(super::tree::Node::Folder(folder)) => folder.lookups = 0,
                None => {}
            }
            tree.drop_unused(ino);
        }
    }

    fn drop_privileges(&self, file: &Arc<FileNode>) -> Result<()> {
        let path = self.tree.lock().file_path(file.ino)?;
        let mut state = file.state.write();
        let stat = self.stat_file(&mut state, path.as_deref())?;
        let drop = if stat.mode & 0o010 != 0 { 0o6000 } else { 0o4000 };
        if stat.mode & drop != 0 {
            let disk = self.disk_of(&state, path.as_deref())?;
            attrs::set_mode(disk.as_ref(), stat.mode & !drop, false)
                .map_err(Error::io(path.as_deref().unwrap_or(std::path::Path::new(""))))?;
            state.stat = None;
        }
        Ok(())
    }
}

//! A file in the table: its content while somebody has it open, and what of it was changed and not recorded yet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use keymgr::ids::{Epoch, FileId, LineageId, Locator};
use parking_lot::{RwLock, RwLockWriteGuard};

use super::error::{Error, Result};
use super::{Inner, attrs};
use crate::content::{Changed, Content, Expected, Kind};
use crate::format::locator::OTHERS;
use crate::session::ListedGroups;
use crate::store::{File, Nanos, Stat};

/// How many contents are kept open for what has still to be recorded.
const KEPT: usize = 200;

pub(crate) struct FileNode {
    pub ino: u64,
    pub id: FileId,
    pub kind: Kind,
    pub state: RwLock<FileState>,
}

pub(crate) struct FileState {
    pub content: Option<Content>,
    pub stat: Option<Stat>,
    /// The modification time that the kernel has: what it was told first, or what it told last. It keeps the times of what
    /// is written through its cache.
    pub mtime: Option<Nanos>,
    /// The disk's is another one, by what was written since: [`Inner::settle_time`].
    pub mtime_moved: bool,
    pub epoch: Epoch,
    pub lineage: LineageId,
    /// Only its name, its record and the disk's stat were looked at: where its header must say that it belongs.
    pub unread: Option<Locator>,
    /// Its header is not what it should be: it can be listed and removed, and nothing else.
    pub damaged: bool,
    pub xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub opens: u32,
    pub writers: u32,
    /// What changed since the record, besides what the open content says.
    pub changed: Changed,
    /// What an observation that is not recorded yet told.
    pub observing: Option<Changed>,
    pub dirty: bool,
    /// It has no name any more: nothing of it will ever be recorded.
    pub unlinked: bool,
    /// How often it changed.
    pub changes: u64,
    /// [`Self::changes`] when it was last closed or fsynced by a program: so far it has settled.
    pub settled: u64,
    pub changed_at: Option<Instant>,
    /// Not all of it is durable.
    pub unsynced: bool,
    /// How many groups its record has, or that of an observation on its way; `None`: there is none, as far as was asked.
    pub recorded: Option<u32>,
    pub listed: ListedGroups,
    pub listed_attrs: bool,
    /// Its content is one of those that are kept open for what has still to be recorded.
    pub kept: bool,
}

impl FileNode {
    pub fn new(ino: u64, id: FileId, kind: Kind, epoch: Epoch, lineage: LineageId) -> Self {
        let state = FileState {
            content: None,
            stat: None,
            mtime: None,
            mtime_moved: false,
            epoch,
            lineage,
            unread: None,
            damaged: false,
            xattrs: None,
            opens: 0,
            writers: 0,
            changed: Changed::default(),
            observing: None,
            dirty: false,
            unlinked: false,
            changes: 0,
            settled: 0,
            changed_at: None,
            unsynced: false,
            recorded: None,
            listed: ListedGroups::default(),
            listed_attrs: false,
            kept: false,
        };
        Self { ino, id, kind, state: RwLock::new(state) }
    }

    /// Nobody has it open, and it is recorded. (Asked with the table's lock held, so never waits.)
    pub fn is_idle(&self) -> bool {
        self.state.try_read().is_some_and(|s| s.opens == 0 && !s.dirty)
    }
}

impl FileState {
    /// It changed by a program's work.
    pub fn touch(&mut self) {
        self.dirty = !self.unlinked;
        self.unsynced = true;
        self.changes += 1;
        self.changed_at = Some(Instant::now());
        self.stat = None;
    }

    /// What a program is shown as modification time, the disk having this one.
    pub fn shown_mtime(&self, disk: Nanos) -> Nanos {
        self.mtime.filter(|_| self.mtime_moved).unwrap_or(disk)
    }

    /// Everything that changed since the record.
    pub fn all_changed(&self) -> Changed {
        let mut all = self.changed.clone();
        if let Some(observing) = &self.observing {
            all.merge(observing.clone());
        }
        if let Some(content) = &self.content {
            all.merge(content.changed().clone());
        }
        all
    }

    pub fn content(&self) -> Result<&Content> {
        self.content.as_ref().ok_or(Error::Errno(libc::EIO))
    }

    pub fn content_mut(&mut self) -> Result<&mut Content> {
        self.content.as_mut().ok_or(Error::Errno(libc::EIO))
    }
}

/// Whether a file with several names has that locator beside its header.
pub(crate) fn is_beside(disk: &dyn File, at: &Locator) -> bool {
    let others = disk.xattr(OTHERS).ok().flatten();
    others.is_some_and(|list| list.chunks_exact(Locator::LEN).any(|l| l == at.as_bytes()))
}

/// How many contents are kept though nobody has them open.
#[derive(Default)]
pub(crate) struct Kept(AtomicUsize);

impl Inner {
    /// Opens the content, if it is not open yet. `path`: where it lies; `None`: it is unlinked.
    pub fn load(&self, file: &FileNode, state: &mut FileState, path: Option<&Path>) -> Result<()> {
        if state.damaged {
            return Err(Error::Damaged {
                path: path.unwrap_or(Path::new("")).to_owned(),
                what: "its header is refused",
            });
        }
        if state.content.is_some() {
            return Ok(());
        }
        let path = path.ok_or(Error::Errno(libc::ESTALE))?;
        let mut content = match self.open_content(file, state, path) {
            Err(e) if e.is_damage() && state.unread.is_some() => {
                state.damaged = true;
                return Err(e);
            }
            other => other?,
        };
        state.unread = None;
        if state.observing.is_none() {
            state.recorded = None;
        }
        if let Some(recorded) = self.records.file(file.id) {
            state.recorded = u32::try_from(keymgr::root::count(recorded.length)).ok();
            let mut loose = self.session.loose_groups(&file.id);
            let changed = state.all_changed();
            if !changed.is_empty() {
                loose.get_or_insert_default().extend(changed.list(content.length()));
            }
            if !self.options.trusting {
                content.expect(Expected {
                    length: recorded.length,
                    root: recorded.root,
                    groups: recorded.groups,
                    loose,
                })?;
            }
        }
        (state.epoch, state.lineage) = (content.header().epoch, content.header().lineage);
        state.content = Some(content);
        Ok(())
    }

    fn open_content(&self, file: &FileNode, state: &FileState, path: &Path) -> Result<Content> {
        let content = Content::open(self.open_disk(path)?, path, &self.keys())?;
        if content.id() != file.id || content.kind() != file.kind {
            return Err(Error::Damaged { path: path.to_owned(), what: "another file lies in its place" });
        }
        // What lost a name a moment ago may still have that one's locator in its header.
        if let Some(at) = state.unread
            && at != content.locator()
            && !is_beside(content.file().as_ref(), &at)
        {
            return Err(Error::Damaged { path: path.to_owned(), what: "it does not belong to this place" });
        }
        Ok(content)
    }

    /// What the header says is known from here on.
    pub fn read(&self, file: &FileNode, state: &mut FileState, path: Option<&Path>) -> Result<()> {
        if state.unread.is_some() {
            self.load(file, state, path)?;
            self.let_go(state);
        }
        Ok(())
    }

    /// For reading and writing, where the disk lets us.
    pub fn open_disk(&self, path: &Path) -> Result<Arc<dyn File>> {
        let open = |write| self.store.open(path, write);
        let result = match open(!self.frozen()) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EROFS | libc::EPERM)) => open(false),
            other => other,
        };
        result.map_err(Error::io(path))
    }

    /// After the last close: the content is let go, unless it is soon needed again.
    pub fn let_go(&self, state: &mut FileState) {
        if state.opens > 0 || state.kept {
            return;
        }
        let Some(content) = &mut state.content else { return };
        let changed = content.take_changed();
        state.changed.merge(changed);
        if state.dirty && self.kept.0.load(Ordering::Relaxed) < KEPT {
            self.kept.0.fetch_add(1, Ordering::Relaxed);
            state.kept = true;
        } else {
            state.content = None;
        }
    }

    /// After it was recorded, or opened again: a kept content counts no longer.
    pub fn unkeep(&self, state: &mut FileState) {
        if !std::mem::take(&mut state.kept) {
            return;
        }
        if state.opens == 0
            && let Some(mut content) = state.content.take()
        {
            state.changed.merge(content.take_changed());
        }
        let _ = self.kept.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    }

    /// A file lost a name. Without any it is not recorded any more, and goes with the last who has it open.
    pub fn lost_name(&self, entry: &super::tree::FileRef) {
        let mut state = entry.file.state.write();
        // Of its names only those that were looked at are in the table.
        let last = state.stat.take().is_none_or(|stat| stat.links <= 1);
        if entry.places.is_empty() && last {
            state.unlinked = true;
            state.dirty = false;
            self.dirty.lock().remove(&entry.file.ino);
            self.unkeep(&mut state);
        }
    }

    /// What the disk says of the file, from memory where nothing changed.
    pub fn stat_file(&self, state: &mut FileState, path: Option<&Path>) -> Result<Stat> {
        if let Some(stat) = state.stat {
            return Ok(stat);
        }
        let mut stat = match (&state.content, path) {
            (Some(content), _) => attrs::stat(content.file().as_ref()).map_err(Error::io(content.path()))?,
            (None, Some(path)) => self.stat_path(path)?,
            (None, None) => return Err(Error::Errno(libc::ESTALE)),
        };
        stat.mtime = state.shown_mtime(stat.mtime);
        state.stat = Some(stat);
        Ok(stat)
    }

    /// Gives the ciphertext the modification time that the kernel shows. It tells a changed one before a file is closed,
    /// but its pages may come after that; and it tells none where a write fell into the same tick of its clock as the
    /// time it has, though the disk's own clock went on until the page came.
    pub fn settle_time(&self, state: &mut FileState, disk: &dyn File) -> std::io::Result<()> {
        if let Some(mtime) = state.mtime.filter(|_| state.mtime_moved) {
            disk.set_times(None, Some(mtime))?;
            (state.mtime_moved, state.stat) = (false, None);
        }
        Ok(())
    }

    /// The extended attributes, opened.
    pub fn file_xattrs<'a>(
        &self,
        file: &FileNode,
        state: &'a mut RwLockWriteGuard<'_, FileState>,
        path: Option<&Path>,
    ) -> Result<&'a mut BTreeMap<Vec<u8>, Vec<u8>>> {
        if state.xattrs.is_none() {
            let disk = self.disk_of(state, path)?;
            let xattrs = attrs::read_xattrs(disk.as_ref(), &self.keys(), file.id.as_bytes());
            state.xattrs = Some(xattrs.map_err(Error::io(path.unwrap_or(Path::new(""))))?);
        }
        state.xattrs.as_mut().ok_or(Error::Errno(libc::EIO))
    }

    /// The ciphertext file itself: for its attributes.
    pub fn disk_of(&self, state: &FileState, path: Option<&Path>) -> Result<Arc<dyn File>> {
        match (&state.content, path) {
            (Some(content), _) => Ok(content.file().clone()),
            (None, Some(path)) => self.open_disk(path),
            (None, None) => Err(Error::Errno(libc::ESTALE)),
        }
    }
}

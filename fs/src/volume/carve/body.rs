//! One file: its pages as they are under a header of the new share, or, where that will not do, sealed anew.

use std::path::Path;

use keymgr::ids::{FileId, LineageId};

use super::{CarvedFile, Carving, Spot};
use crate::content::{self, Content, Expected, Kind, roots};
use crate::format::header::{Former, Header, MAX_FORMER};
use crate::format::tag::EpochTag;
use crate::store::File;
use crate::volume::attrs;
use crate::volume::error::{Error, Result};
use crate::volume::file::FileNode;

impl Carving {
    /// Makes a file of another at a place, with all but its further names, and how many names that one has. Called without
    /// locks: what changes meanwhile is noted by whoever changes it, and made again.
    pub(super) fn make_body(&self, file: &FileNode, at: &Spot, detached: bool) -> Result<(u64, CarvedFile)> {
        let inner = &self.volume.0;
        let path = inner.tree.lock().file_path(file.ino)?.ok_or(Error::Errno(libc::ENOENT))?;
        let mut changed = file.state.read().all_changed();
        let disk = match inner.store.open(&path, false) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::Errno(libc::ENOENT)),
            other => other.map_err(Error::io(&path))?,
        };
        let mut content = Content::open(disk.clone(), &path, &inner.keys())?;
        if content.id() != file.id || content.kind() != file.kind {
            return Err(Error::Errno(libc::ENOENT)); // renamed over in this moment
        }
        let record = inner.records.file(file.id);
        if let Some(record) = &record {
            // Or what its record refuses would be recorded as this device's own work.
            let loose = (!changed.is_empty()).then(|| changed.list(content.length()).into_iter().collect());
            let (length, root, groups) = (record.length, record.root, record.groups.clone());
            content.expect(Expected { length, root, groups, loose })?;
        }
        if let Err(e) = content.verify_all() {
            // Changed while it was read: it is on the list of what is made again.
            let is_changed = inner.watch.lock().as_ref().is_some_and(|watch| watch.contains(&file.ino));
            return Err(if is_changed { Error::Errno(libc::ENOENT) } else { inner.tell(file, e.into()) });
        }
        let to = self.home.create(&at.path, 0o600).map_err(Error::io(&at.path))?;
        let former = if detached { None } else { self.former(&content, disk.as_ref(), &path)? };
        let id = if detached { FileId::random() } else { file.id };
        match former {
            Some(former) => self.copy(&content, disk.as_ref(), to.as_ref(), at, former)?,
            None => {
                let mut new = Content::create(to.clone(), &at.path, &self.keys, id, file.kind, &self.locate(at, &id)?)?;
                content.reseal(&mut new)?;
                changed.all();
            }
        }
        changed.add([0]);
        let recorded = record.as_ref().and_then(|r| r.groups.clone()).unwrap_or_default();
        let (groups, list) = roots::update(to.as_ref(), &recorded, &changed).map_err(Error::io(&at.path))?;
        let length = to.length().map_err(Error::io(&at.path))?;
        let mut stat = attrs::stat(disk.as_ref()).map_err(Error::io(&path))?;
        stat.mtime = file.state.read().shown_mtime(stat.mtime);
        let xattrs = attrs::read_xattrs(disk.as_ref(), &inner.keys(), file.id.as_bytes()).map_err(Error::io(&path))?;
        self.dress(to.as_ref(), id.as_bytes(), &xattrs, &stat, false).map_err(Error::io(&at.path))?;
        let before = record.map(|record| record.root).filter(|_| !detached);
        Ok((stat.links, CarvedFile { file: id, before, root: groups.root(), length, changed: list }))
    }

    /// The page keys that the file's pages are under. `None`: they are more than a header holds.
    fn former(&self, content: &Content, disk: &dyn File, path: &Path) -> Result<Option<Vec<Former>>> {
        let (keys, header) = (self.volume.0.keys(), content.header());
        if header.kind == Kind::Share {
            return Ok(Some(Vec::new()));
        }
        let mut all = header.former.clone();
        all.extend(keys.epochs().filter_map(|epoch| {
            let key = keys.page_key(epoch, &header.lineage)?;
            Some(Former { tag: EpochTag::of(keys.share(), epoch), key })
        }));
        if all.len() > MAX_FORMER {
            let used = content::tags(disk).map_err(Error::io(path))?;
            all.retain(|former| used.contains(&former.tag));
        }
        Ok(Some(all).filter(|all| all.len() <= MAX_FORMER))
    }

    fn copy(&self, content: &Content, from: &dyn File, to: &dyn File, at: &Spot, former: Vec<Former>) -> Result<()> {
        let old = content.header();
        let (kind, file, lineage): (Kind, FileId, LineageId) = (old.kind, old.file, old.lineage);
        let header = Header { kind, share: self.keys.share(), epoch: self.keys.current(), file, lineage, former };
        let sealed = header.seal(&self.keys, &self.locate(at, &file)?).map_err(Error::refused(&at.path))?;
        let length = content.length();
        to.set_length(length)
            .and_then(|()| content::copy_data(from, to, length))
            .and_then(|()| to.write_at(&sealed, 0))
            .map_err(Error::io(&at.path))
    }
}

//! Steps on files: a body comes to its names, moves, goes.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use keymgr::ids::Locator;
use keymgr::root::LOCATOR;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags};
use nix::sys::time::TimeSpec;
use xattr::FileExt as _;

use super::beneath::{beneath, exists, mtime, open_in, rename, sync, unlink};
use super::kept::Found;
use super::{FOLDER_HEADER, Stop, Work};
use crate::bodies::groups_of_open;
use crate::engine::{EntryId, Spot};
use crate::record::Content;
use crate::scan::Clear;

/// Where else a file with several names belongs, beside the place that its header says (kith-store(5)).
const OTHERS: &str = "user.kith.locators";

fn put_others(file: &File, at: &[(Spot, Locator)]) -> io::Result<()> {
    let mut others: Vec<_> = at.iter().skip(1).map(|(_, locator)| *locator.as_bytes()).collect();
    others.sort_unstable();
    others.dedup();
    let done = match others.is_empty() {
        true => file.remove_xattr(OTHERS),
        false => file.set_xattr(OTHERS, others.as_flattened()),
    };
    match done {
        // There was none; or a disk without attributes, where the records alone say it.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(()),
        done => done,
    }
}

impl Work<'_> {
    /// A body to all its names; what is there goes to versions.
    pub(super) fn put(
        &mut self,
        at: &[(Spot, Locator)],
        old: Option<&Content>,
        content: &Content,
        attrs: &[u8],
        attrs_for: &EntryId,
    ) -> Result<(), Stop> {
        if let Some(old) = old {
            self.free(old)?;
        }
        let found = match old {
            Some(old) => self.look(at.iter().map(|(spot, _)| spot), old)?,
            None => Vec::new(),
        };
        if old.is_none() {
            // All names are free, or none is made: half of them would be taken for somebody else's.
            for (spot, _) in at {
                let place = self.place(spot)?;
                if exists(&place) {
                    return Err(Stop::Busy);
                }
            }
        }
        self.put_over(at, old, found, content, attrs, attrs_for)
    }

    /// A body to all its names once more, where what is there was refused.
    pub(super) fn heal_file(
        &mut self,
        at: &[(Spot, Locator)],
        content: &Content,
        attrs: &[u8],
        attrs_for: &EntryId,
    ) -> Result<(), Stop> {
        self.free(content)?;
        let mut found = Vec::with_capacity(at.len());
        for (spot, _) in at {
            found.push(self.look_again(spot, content)?);
        }
        if found.iter().all(|f| *f == Found::Body) {
            self.touched.folders.extend(at.iter().map(|(spot, _)| spot.folder));
            self.touched.files.push(EntryId::File(content.file));
            return Ok(());
        }
        self.put_over(at, Some(content), found, content, attrs, attrs_for)
    }

    fn put_over(
        &mut self,
        at: &[(Spot, Locator)],
        old: Option<&Content>,
        found: Vec<Found>,
        content: &Content,
        attrs: &[u8],
        attrs_for: &EntryId,
    ) -> Result<(), Stop> {
        let ((first, locator), others) = at.split_first().ok_or(Stop::Refused)?;
        let place = self.place(first)?;
        let mut found = found.into_iter();
        let aside = format!(".kith-tmp-{}00", content.file);
        let made = place.path.with_file_name(&aside);
        unlink(&place.dir, &aside, false)?;
        self.bring(&place.dir, &aside, content)?;
        let file = File::from(beneath(&place.dir, Path::new(&aside), OFlag::O_WRONLY | OFlag::O_NONBLOCK)?);
        file.write_all_at(locator.as_bytes(), LOCATOR.start as u64)?;
        put_others(&file, at)?;
        self.dress(&made, *attrs_for, attrs)?;
        for (spot, _) in at {
            self.name(spot, *attrs_for, attrs)?;
        }
        file.sync_all()?;
        let flags = if let Some(old) = old {
            self.keep(&place, old, found.next().unwrap_or(Found::Nothing))?;
            RenameFlags::empty()
        } else {
            RenameFlags::RENAME_NOREPLACE
        };
        rename(&place.dir, &aside, &place.dir, place.name, flags)?;
        sync(&place.dir)?;
        self.touched.folders.push(first.folder);
        for (spot, _) in others {
            let other = self.place(spot)?;
            nix::unistd::linkat(&place.dir, place.name, &other.dir, aside.as_str(), nix::fcntl::AtFlags::empty())?;
            if let Some(old) = old {
                self.keep(&other, old, found.next().unwrap_or(Found::Nothing))?;
            }
            rename(&other.dir, &aside, &other.dir, other.name, flags)?;
            sync(&other.dir)?;
            self.touched.folders.push(spot.folder);
        }
        if let Some(old) = old {
            self.kept_now(old);
        }
        self.touched.files.extend(old.map(|old| EntryId::File(old.file)));
        self.touched.files.push(EntryId::File(content.file));
        Ok(())
    }

    /// A body as `aside` in a folder: what came is moved there, what is kept or lies in the tree is copied, and the
    /// copy verified: whoever has the disk may have changed it.
    fn bring(&self, dir: &OwnedFd, aside: &str, content: &Content) -> Result<(), Stop> {
        let beside = self.bodies.whole(&content.root);
        if let Some(path) = &beside
            && path.starts_with(self.bodies.incoming())
            && nix::fcntl::renameat(AT_FDCWD, path, dir, aside).is_ok()
        {
            return Ok(());
        }
        let mut from = match &beside {
            Some(path) => crate::bodies::open(path)?,
            None => self.tree.read(&self.paths.body(&content.root).ok_or(Stop::Refused)?)?,
        };
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let mut to = File::from(open_in(dir, Path::new(aside), flags, 0o600)?);
        io::copy(&mut from, &mut to)?;
        if groups_of_open(&to)?.root() == content.root {
            return Ok(());
        }
        unlink(dir, aside, false)?;
        if let Some(path) = &beside {
            let _ = self.bodies.quarantine(path, &content.file.to_string());
        }
        Err(Stop::Refused)
    }

    pub(super) fn move_file(&mut self, content: &Content, from: &[Spot], to: &[(Spot, Locator)]) -> Result<(), Stop> {
        if self.busy(&EntryId::File(content.file)) {
            return Err(Stop::Busy);
        }
        let source = self.place(from.first().ok_or(Stop::Refused)?)?;
        let time = mtime(&source)?;
        if let Some((_, locator)) = to.first() {
            // As fs does it: the locator first, then the name. Content and time stay.
            let file = File::from(beneath(&source.dir, Path::new(source.name), OFlag::O_RDWR | OFlag::O_NONBLOCK)?);
            let mut header = [0; FOLDER_HEADER];
            file.read_exact_at(&mut header, 0)?;
            if Clear::parse(&header).is_none_or(|h| h.id != *content.file.as_bytes()) {
                return Err(Stop::Refused);
            }
            file.write_all_at(locator.as_bytes(), LOCATOR.start as u64)?;
            put_others(&file, to)?;
            nix::sys::stat::futimens(&file, &TimeSpec::UTIME_OMIT, &time)?;
        }
        if let ([only], [(target, _)]) = (from, to) {
            let target_place = self.place(target)?;
            rename(&source.dir, source.name, &target_place.dir, target_place.name, RenameFlags::RENAME_NOREPLACE)?;
            sync(&source.dir)?;
            sync(&target_place.dir)?;
            self.touched.folders.extend([only.folder, target.folder]);
        } else {
            for (spot, _) in to.iter().filter(|(spot, _)| !from.contains(spot)) {
                let place = self.place(spot)?;
                nix::unistd::linkat(&source.dir, source.name, &place.dir, place.name, nix::fcntl::AtFlags::empty())?;
                sync(&place.dir)?;
                self.touched.folders.push(spot.folder);
            }
            for spot in from.iter().filter(|spot| !to.iter().any(|(t, _)| t == *spot)) {
                let place = self.place(spot)?;
                unlink(&place.dir, place.name, false)?;
                sync(&place.dir)?;
                self.touched.folders.push(spot.folder);
            }
        }
        self.touched.files.push(EntryId::File(content.file));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, at: &[Spot], content: &Content) -> Result<(), Stop> {
        self.free(content)?;
        let found = self.look(at.iter(), content)?;
        for (spot, found) in at.iter().zip(found) {
            let place = self.place(spot)?;
            self.keep(&place, content, found)?;
            unlink(&place.dir, place.name, false)?;
            sync(&place.dir)?;
            self.touched.folders.push(spot.folder);
        }
        self.kept_now(content);
        self.touched.files.push(EntryId::File(content.file));
        Ok(())
    }
}

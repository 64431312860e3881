//! Steps on folders: made with their headers, moved, joined and parted, removed; and what is dressed where it lies.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use keymgr::ids::{Locator, NodeId, StoreName};
use keymgr::root::LOCATOR;
use nix::fcntl::{OFlag, RenameFlags};
use nix::sys::stat::Mode;

use super::beneath::{beneath, entries, exists, rename, sync, unlink};
use super::{FOLDER_HEADER, Stop, Work, header_name};
use crate::engine::{EntryId, Spot};

impl Work<'_> {
    pub(super) fn make_folder(
        &mut self,
        node: &NodeId,
        at: &Spot,
        locator: &Locator,
        attrs: &[u8],
        join: bool,
    ) -> Result<(), Stop> {
        let place = self.place(at)?;
        if join {
            let dir = self.folder(&place.dir, place.name)?;
            self.tree.write_header(&dir, node, attrs, locator)?;
        } else {
            // Made aside and renamed: no crash leaves a folder without its header.
            let aside = format!(".kith-tmp-{node}00");
            let made = nix::sys::stat::mkdirat(&place.dir, aside.as_str(), Mode::from_bits_truncate(0o700));
            if let Err(e) = made
                && e != nix::Error::EEXIST
            {
                return Err(e.into());
            }
            let dir = beneath(&place.dir, Path::new(&aside), OFlag::O_DIRECTORY | OFlag::O_RDONLY)?;
            self.tree.write_header(&dir, node, attrs, locator)?;
            rename(&place.dir, &aside, &place.dir, place.name, RenameFlags::RENAME_NOREPLACE)?;
            sync(&dir)?;
        }
        sync(&place.dir)?;
        self.touched.folders.push(at.folder);
        self.touched.folders.push(*node);
        self.name(at, EntryId::Folder(*node), attrs)?;
        self.dress(&place.path, EntryId::Folder(*node), attrs)
    }

    /// A folder's header once more, where it was refused; the directory with it, where that is gone or no directory.
    pub(super) fn heal_folder(
        &mut self,
        node: &NodeId,
        at: &Spot,
        locator: &Locator,
        attrs: &[u8],
    ) -> Result<(), Stop> {
        let place = self.place(at)?;
        let opened = beneath(&place.dir, Path::new(place.name), OFlag::O_DIRECTORY | OFlag::O_RDONLY);
        let Ok(dir) = opened else {
            if exists(&place) {
                self.quarantine(&place.dir, place.name, &node.to_string())?;
            }
            self.make_folder(node, at, locator, attrs, false)?;
            // Not as one that steps filled: fs is to miss what was in it.
            self.touched.folders.retain(|folder| folder != node);
            self.touched.files.retain(|id| *id != EntryId::Folder(*node));
            return Ok(());
        };
        self.keep_time(&dir)?;
        let name = header_name(node);
        let mut wanted = attrs.get(..FOLDER_HEADER).ok_or(Stop::Refused)?.to_vec();
        wanted[LOCATOR].copy_from_slice(locator.as_bytes());
        let there = beneath(&dir, Path::new(&name), OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok().and_then(|fd| {
            let mut bytes = [0; FOLDER_HEADER + 1];
            let got = File::from(fd).read_at(&mut bytes, 0).ok()?;
            Some(bytes.get(..got)? == wanted)
        });
        if there != Some(true) {
            if let Err(Stop::Io(e)) = self.quarantine(&dir, &name, &format!("header-{node}"))
                && e.kind() != std::io::ErrorKind::NotFound
            {
                return Err(e.into());
            }
            self.tree.write_header(&dir, node, attrs, locator)?;
            sync(&dir)?;
        }
        self.touched.folders.push(at.folder);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn move_folder(
        &mut self,
        node: &NodeId,
        from: &Spot,
        to: &Spot,
        locator: &Locator,
        split: bool,
        join: bool,
        moved: &[StoreName],
    ) -> Result<(), Stop> {
        if self.busy(&EntryId::Folder(*node)) {
            return Err(Stop::Busy);
        }
        let (source, target) = (self.place(from)?, self.place(to)?);
        let dir = self.folder(&source.dir, source.name)?;
        let header = header_name(node);
        let file = File::from(beneath(&dir, Path::new(&header), OFlag::O_WRONLY | OFlag::O_NONBLOCK)?);
        file.write_all_at(locator.as_bytes(), LOCATOR.start as u64)?;
        if !split && !join {
            rename(&source.dir, source.name, &target.dir, target.name, RenameFlags::RENAME_NOREPLACE)?;
        } else {
            if !join {
                nix::sys::stat::mkdirat(&target.dir, target.name, Mode::from_bits_truncate(0o700))?;
            }
            let into = self.folder(&target.dir, target.name)?;
            rename(&dir, &header, &into, &header, RenameFlags::empty())?;
            for name in moved {
                rename(&dir, name.as_str(), &into, name.as_str(), RenameFlags::RENAME_NOREPLACE)?;
            }
            sync(&into)?;
            if split { sync(&dir)? } else { unlink(&source.dir, source.name, true)? }
        }
        sync(&source.dir)?;
        sync(&target.dir)?;
        self.touched.folders.extend([from.folder, to.folder, *node]);
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, node: &NodeId, at: &Spot, split: bool) -> Result<(), Stop> {
        if self.busy(&EntryId::Folder(*node)) {
            return Err(Stop::Busy);
        }
        let place = self.place(at)?;
        let dir = self.folder(&place.dir, place.name)?;
        if !split && entries(&dir)?.iter().any(|n| *n != header_name(node)) {
            return Err(Stop::Busy);
        }
        unlink(&dir, &header_name(node), false)?;
        if !split {
            unlink(&place.dir, place.name, true)?;
        }
        sync(&place.dir)?;
        self.touched.folders.push(at.folder);
        self.touched.folders.push(*node);
        Ok(())
    }

    /// Another header or other attributes, for what is there.
    pub(super) fn dress_there(
        &mut self,
        node: &NodeId,
        at: Option<&Spot>,
        attrs: &[u8],
        attrs_for: &EntryId,
    ) -> Result<(), Stop> {
        if self.busy(attrs_for) {
            return Err(Stop::Busy);
        }
        let path = match at {
            Some(spot) => self.place(spot)?.path,
            None => self.tree.path.clone(),
        };
        if let EntryId::Folder(_) = attrs_for {
            let dir = match at {
                Some(spot) => self.folder(&self.place(spot)?.dir, spot.name.as_str())?,
                None => self.tree.dir(&[])?,
            };
            self.same_header(&dir, node, attrs)?;
        }
        if let Some(spot) = at {
            self.name(spot, *attrs_for, attrs)?;
        }
        self.dress(&path, *attrs_for, attrs)
    }

    /// The root is there from the beginning: without a header on a blind device, with one of its own on each full one. The
    /// header of its record becomes everybody's.
    fn same_header(&self, dir: &OwnedFd, node: &NodeId, attrs: &[u8]) -> Result<(), Stop> {
        let mut locator = [0; LOCATOR.end - LOCATOR.start];
        let mut there = [0; FOLDER_HEADER];
        if let Ok(fd) = beneath(dir, Path::new(&header_name(node)), OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            && File::from(fd).read_exact_at(&mut there, 0).is_ok()
        {
            locator.copy_from_slice(&there[LOCATOR]);
        }
        let wanted = attrs.get(..LOCATOR.start).ok_or(Stop::Refused)?;
        if there.get(..LOCATOR.start) == Some(wanted) {
            return Ok(());
        }
        self.keep_time(dir)?;
        self.tree.write_header(dir, node, attrs, &Locator::from_bytes(locator))
    }
}

//! What a step replaces or removes stays: in versions/ where it is what its record says, else in quarantine/.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::time::TimeSpec;

use super::beneath::beneath;
use super::tree::Place;
use super::{Stop, Work};
use crate::bodies::groups_of_open;
use crate::engine::Spot;
use crate::record::Content;
use crate::scan::Signature;

/// The longest file that is read while file operations wait.
const READ_AT_ONCE: u64 = 1 << 20;

/// What lies at a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Body,
    Other,
}

impl Work<'_> {
    /// What lies at the names of a file that is about to go, before anything is done. On a full device something else
    /// than its record says is what was written there and not recorded yet, as after a crash, or what fs will refuse:
    /// it waits for fs, and is not read again until it changes.
    pub(super) fn look<'s>(&self, at: impl Iterator<Item = &'s Spot>, content: &Content) -> Result<Vec<Found>, Stop> {
        let mut all = Vec::new();
        for spot in at {
            let place = self.place(spot)?;
            let file = match beneath(&place.dir, Path::new(place.name), OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
                Ok(file) => File::from(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    all.push(Found::Nothing);
                    continue;
                }
                // A symlink: nothing that kith made.
                Err(_) if self.inside.is_none() => {
                    all.push(Found::Other);
                    continue;
                }
                Err(_) => return Err(Stop::Busy),
            };
            let meta = file.metadata()?;
            let known = self.bodies.is_body(&content.root, &Signature::of(&meta));
            if self.inside.is_some() && meta.is_file() && meta.len() > READ_AT_ONCE && known.is_none() {
                self.bodies.read_later(spot.clone(), place.path, content.root);
                return Err(Stop::Busy);
            }
            let differs = !meta.is_file() || !self.bodies.read_body(spot, &file, &content.root)?;
            if differs && self.inside.is_some() && !self.paths.refused(&content.file) {
                return Err(Stop::Busy);
            }
            all.push(if differs { Found::Other } else { Found::Body });
        }
        Ok(all)
    }

    /// What lies at a name whose file was refused; whatever it is, it is in nobody's way.
    pub(super) fn look_again(&self, spot: &Spot, content: &Content) -> Result<Found, Stop> {
        let place = self.place(spot)?;
        match beneath(&place.dir, Path::new(place.name), OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(_) => Ok(Found::Other),
            Ok(file) => {
                let file = File::from(file);
                let right = file.metadata()?.is_file() && groups_of_open(&file)?.root() == content.root;
                Ok(if right { Found::Body } else { Found::Other })
            }
        }
    }

    /// Keeps an entry that is about to go, by a second name: in versions/, or in quarantine/ where it is not what its
    /// record says. A body's entry stays until then, so that no crash leaves the name without either.
    pub(super) fn keep(&self, place: &Place<'_>, content: &Content, found: Found) -> Result<(), Stop> {
        match found {
            Found::Nothing => return Ok(()),
            Found::Other => return self.to_quarantine(place, content),
            Found::Body => {}
        }
        let kept = self.bodies.version_path(&content.root);
        let _ = std::fs::remove_file(&kept);
        nix::unistd::linkat(&place.dir, place.name, AT_FDCWD, &kept, nix::fcntl::AtFlags::empty())?;
        Ok(())
    }

    fn to_quarantine(&self, place: &Place<'_>, content: &Content) -> Result<(), Stop> {
        self.quarantine(&place.dir, place.name, &content.file.to_string())
    }

    pub(super) fn quarantine(&self, dir: &OwnedFd, name: &str, what: &str) -> Result<(), Stop> {
        let kept = self.bodies.quarantine_path(what);
        nix::fcntl::renameat(dir, name, AT_FDCWD, &kept)?;
        self.bodies.damaged(kept);
        Ok(())
    }

    /// A version is kept from now on, whatever its own time says.
    pub(super) fn kept_now(&self, content: &Content) {
        let (kept, now) = (self.bodies.version_path(&content.root), TimeSpec::UTIME_NOW);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        let _ = nix::sys::stat::utimensat(AT_FDCWD, &kept, &now, &now, flags);
    }
}

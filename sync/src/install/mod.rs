//! Steps of the engine, done on the ciphertext tree. Every path is opened beneath `tree/`, without symlinks; names are
//! sealed names or a folder's header, kinds are regular files and folders; what is replaced or deleted goes to versions/.

mod beneath;
mod files;
mod folders;
mod kept;
mod tree;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use keymgr::ids::{FileId, NodeId, Root, StoreName};
use nix::fcntl::OFlag;
use nix::sys::time::TimeSpec;

use crate::bodies::Bodies;
use crate::engine::{Done, EntryId, Spot, Step};
use crate::record::Content;
use beneath::beneath;
use tree::Place;

pub use tree::{Tree, header_name};

/// Bytes of a folder's header, which the attributes of a folder's record begin with.
pub const FOLDER_HEADER: usize = 256;

/// A folder's attributes begin with its header.
pub fn sealed_attrs<'a>(attrs: &'a [u8], id: &EntryId) -> Option<&'a [u8]> {
    match id {
        EntryId::Folder(_) => attrs.get(FOLDER_HEADER..),
        EntryId::File(_) => Some(attrs),
    }
}

/// What a full device's file system does in a step; a blind device has none of it.
pub trait Inside {
    /// Open for writing, or changed and not observed yet.
    fn busy(&self, id: &EntryId) -> bool;
    /// Writes what a long name at this path needs beside it; whether it is one. The attributes hold it.
    fn name(&self, path: &Path, id: &EntryId, attrs: &[u8]) -> io::Result<bool>;
    /// Gives a ciphertext file or folder these sealed attributes; what it shows then, where that is something else.
    fn dress(&self, path: &Path, id: &EntryId, attrs: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Entries of these folders changed, these files were replaced or dressed.
    fn touched(&self, folders: &[NodeId], files: &[EntryId]);
}

/// Where things lie, as the engine says it.
pub trait Paths {
    /// The names down to a spot, which may be there or not.
    fn spot(&self, spot: &Spot) -> Option<Vec<StoreName>>;
    /// The names down to a file of the tree that has this body.
    fn body(&self, root: &Root) -> Option<Vec<StoreName>>;
    /// Whether fs refused what lies there of a file.
    fn refused(&self, file: &FileId) -> bool;
}

/// What steps changed, for the file system's tables.
#[derive(Default)]
pub struct Touched {
    pub folders: Vec<NodeId>,
    pub files: Vec<EntryId>,
}

impl Tree {
    /// Does a step. `inside`: the file system of a full device, whose operations all wait meanwhile; it has to be told of
    /// what was touched once the engine knows of the step.
    pub fn step(
        &self,
        paths: &dyn Paths,
        bodies: &Bodies,
        inside: Option<&dyn Inside>,
        touched: &mut Touched,
        step: &Step,
    ) -> Done {
        let mut work = Work { tree: self, paths, bodies, inside, touched, shows: None, times: RefCell::default() };
        let outcome = work.step(step);
        work.restore_times();
        match outcome {
            Ok(()) => {
                bodies.note_room(None);
                Done::Made { attrs: work.shows }
            }
            Err(Stop::Busy) => Done::Busy,
            Err(Stop::Refused) => Done::Refused,
            Err(Stop::Io(e)) => {
                bodies.note_room(Some(&e));
                tracing::warn!("a step could not be done: {e}: {step:?}");
                Done::Refused
            }
        }
    }
}

/// Why a step is not done.
enum Stop {
    Busy,
    Refused,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Stop::Io(e)
    }
}

impl From<nix::Error> for Stop {
    fn from(e: nix::Error) -> Self {
        Stop::Io(e.into())
    }
}

struct Work<'a> {
    tree: &'a Tree,
    paths: &'a dyn Paths,
    bodies: &'a Bodies,
    inside: Option<&'a dyn Inside>,
    touched: &'a mut Touched,
    shows: Option<Vec<u8>>,
    /// The folders that the step changes entries of, with their times: those are said by their own records.
    times: RefCell<Vec<(OwnedFd, TimeSpec)>>,
}

impl Work<'_> {
    fn keep_time(&self, dir: &OwnedFd) -> Result<(), Stop> {
        let stat = nix::sys::stat::fstat(dir)?;
        self.times.borrow_mut().push((dir.try_clone()?, TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)));
        Ok(())
    }

    fn restore_times(&mut self) {
        // The time that was kept first is the one from before the step.
        for (dir, time) in self.times.take().into_iter().rev() {
            let _ = nix::sys::stat::futimens(&dir, &TimeSpec::UTIME_OMIT, &time);
        }
    }

    /// A folder in a folder.
    fn folder(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Stop> {
        let folder = beneath(dir, Path::new(name), OFlag::O_DIRECTORY | OFlag::O_RDONLY)?;
        self.keep_time(&folder)?;
        Ok(folder)
    }

    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::MakeFolder { node, at, locator, attrs, join } => self.make_folder(node, at, locator, attrs, *join),
            Step::PutFile { at, content, attrs, attrs_for, .. } => self.put(at, None, content, attrs, attrs_for),
            Step::Replace { at, old, content, attrs, attrs_for, .. } => {
                self.put(at, Some(old), content, attrs, attrs_for)
            }
            Step::MoveFile { content, from, to, .. } => self.move_file(content, from, to),
            Step::MoveFolder { node, from, to, locator, split, join, entries } => {
                self.move_folder(node, from, to, locator, *split, *join, entries)
            }
            Step::RemoveFile { at, content, .. } => self.remove_file(at, content),
            Step::RemoveFolder { node, at, split } => self.remove_folder(node, at, *split),
            Step::HealFile { at, content, attrs, attrs_for, .. } => self.heal_file(at, content, attrs, attrs_for),
            Step::HealFolder { node, at, locator, attrs } => self.heal_folder(node, at, locator, attrs),
            Step::Dress { node, at, attrs, attrs_for } => self.dress_there(node, at.as_ref(), attrs, attrs_for),
        }
    }

    fn place<'s>(&self, spot: &'s Spot) -> Result<Place<'s>, Stop> {
        let place = self.tree.place(self.paths, spot)?;
        self.keep_time(&place.dir)?;
        Ok(place)
    }

    fn busy(&self, id: &EntryId) -> bool {
        self.inside.is_some_and(|inside| inside.busy(id))
    }

    /// Nobody has the file open for writing, and nothing of it waits to be recorded.
    fn free(&self, content: &Content) -> Result<(), Stop> {
        if self.busy(&EntryId::File(content.file)) { Err(Stop::Busy) } else { Ok(()) }
    }

    /// What a long name needs beside it, before or after the name itself is there. Its folder's entries are read again then.
    fn name(&mut self, spot: &Spot, id: EntryId, attrs: &[u8]) -> Result<(), Stop> {
        let Some(inside) = self.inside else { return Ok(()) };
        if inside.name(&self.place(spot)?.path, &id, sealed_attrs(attrs, &id).ok_or(Stop::Refused)?)? {
            self.touched.folders.push(spot.folder);
        }
        Ok(())
    }

    /// Attributes, where there is somebody who can open them. A folder's begin with its header.
    fn dress(&mut self, path: &Path, id: EntryId, attrs: &[u8]) -> Result<(), Stop> {
        let Some(inside) = self.inside else { return Ok(()) };
        let sealed = sealed_attrs(attrs, &id).ok_or(Stop::Refused)?;
        let header = &attrs[..attrs.len() - sealed.len()];
        if let EntryId::Folder(_) = id {
            // Its own time may be among those kept; what comes now is the one that counts.
            self.restore_times();
        }
        self.shows = inside.dress(path, &id, sealed)?.map(|shown| [header, &shown].concat());
        self.touched.files.push(id);
        Ok(())
    }
}

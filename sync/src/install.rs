//! Steps of the engine, done on the ciphertext tree. Every path is opened beneath `tree/`, without symlinks; names are
//! sealed names or a folder's header, kinds are regular files and folders; what is replaced or deleted goes to versions/.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use keymgr::ids::{Locator, NodeId, Root, StoreName};
use keymgr::root::LOCATOR;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

use crate::bodies::{Bodies, groups_of_open};
use crate::engine::{Done, EntryId, Spot, Step};
use crate::record::Content;
use crate::scan::{Clear, Signature};

/// Bytes of a folder's header, which the attributes of a folder's record begin with.
pub const FOLDER_HEADER: usize = 256;

/// What a full device's file system does in a step; a blind device has none of it.
pub trait Inside {
    /// Open for writing, or changed and not observed yet.
    fn busy(&self, id: &EntryId) -> bool;
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
}

/// What steps changed, for the file system's tables.
#[derive(Default)]
pub struct Touched {
    pub folders: Vec<NodeId>,
    pub files: Vec<EntryId>,
}

/// The ciphertext tree of a store.
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// A folder of the tree and a name in it.
struct Place<'a> {
    dir: OwnedFd,
    name: &'a str,
    path: PathBuf,
}

impl Tree {
    pub fn open(store: &Path) -> io::Result<Self> {
        let path = store.join("tree");
        std::fs::create_dir_all(&path)?;
        let root = nix::fcntl::open(&path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, path })
    }

    /// The path of an entry, for reading it and for messages.
    pub fn path_of(&self, names: &[StoreName]) -> PathBuf {
        names.iter().fold(self.path.clone(), |path, name| path.join(name.as_str()))
    }

    /// Opens a file of the tree for reading.
    pub fn read(&self, names: &[StoreName]) -> io::Result<File> {
        let (last, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.dir(above)?;
        let file = File::from(beneath(&dir, Path::new(last.as_str()), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn dir(&self, names: &[StoreName]) -> io::Result<OwnedFd> {
        let path: PathBuf = names.iter().map(StoreName::as_str).collect();
        let path = if names.is_empty() { Path::new(".") } else { &path };
        beneath(&self.root, path, OFlag::O_DIRECTORY | OFlag::O_RDONLY)
    }

    fn place<'a>(&self, paths: &dyn Paths, spot: &'a Spot) -> Result<Place<'a>, Stop> {
        let names = paths.spot(spot).ok_or(Stop::Refused)?;
        let above = names.get(..names.len().saturating_sub(1)).unwrap_or_default();
        Ok(Place { dir: self.dir(above)?, name: spot.name.as_str(), path: self.path_of(&names) })
    }

    /// Writes a folder's header into its directory.
    fn write_header(&self, dir: &OwnedFd, node: &NodeId, attrs: &[u8], locator: &Locator) -> Result<(), Stop> {
        let mut header = attrs.get(..FOLDER_HEADER).ok_or(Stop::Refused)?.to_vec();
        header[LOCATOR].copy_from_slice(locator.as_bytes());
        let name = header_name(node);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
        let file = File::from(open_in(dir, Path::new(&name), flags, 0o600)?);
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        file.sync_data()?;
        Ok(())
    }

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
            Ok(()) => Done::Made { attrs: work.shows },
            Err(Stop::Busy) => Done::Busy,
            Err(Stop::Refused) => Done::Refused,
            Err(Stop::Io(e)) => {
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
            Step::MakeFolder { node, at, locator, attrs, join } => {
                let place = self.place(at)?;
                if *join {
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
                self.dress(&place.path, EntryId::Folder(*node), attrs)
            }
            Step::PutFile { at, content, attrs, attrs_for, .. } => self.put(at, None, content, attrs, attrs_for),
            Step::Replace { at, old, content, attrs, attrs_for, .. } => {
                self.put(at, Some(old), content, attrs, attrs_for)
            }
            Step::MoveFile { content, from, to, .. } => self.move_file(content, from, to),
            Step::MoveFolder { node, from, to, locator, split, join, entries } => {
                self.move_folder(node, from, to, locator, *split, *join, entries)
            }
            Step::RemoveFile { at, content, .. } => {
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
            Step::RemoveFolder { node, at, split } => {
                if self.busy(&EntryId::Folder(*node)) {
                    return Err(Stop::Busy);
                }
                let place = self.place(at)?;
                let dir = self.folder(&place.dir, place.name)?;
                if !*split && entries(&dir)?.iter().any(|n| *n != header_name(node)) {
                    return Err(Stop::Busy);
                }
                unlink(&dir, &header_name(node), false)?;
                if !*split {
                    unlink(&place.dir, place.name, true)?;
                }
                sync(&place.dir)?;
                self.touched.folders.push(at.folder);
                self.touched.folders.push(*node);
                Ok(())
            }
            Step::Dress { node, at, attrs, attrs_for } => {
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
                self.dress(&path, *attrs_for, attrs)
            }
        }
    }

    fn place<'s>(&self, spot: &'s Spot) -> Result<Place<'s>, Stop> {
        let place = self.tree.place(self.paths, spot)?;
        self.keep_time(&place.dir)?;
        Ok(place)
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

    fn busy(&self, id: &EntryId) -> bool {
        self.inside.is_some_and(|inside| inside.busy(id))
    }

    /// Nobody has the file open for writing, and nothing of it waits to be recorded.
    fn free(&self, content: &Content) -> Result<(), Stop> {
        if self.busy(&EntryId::File(content.file)) { Err(Stop::Busy) } else { Ok(()) }
    }

    /// A body to all its names; what is there goes to versions.
    fn put(
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
        let ((first, locator), others) = at.split_first().ok_or(Stop::Refused)?;
        let place = self.place(first)?;
        let found = match old {
            Some(old) => self.look(at.iter().map(|(spot, _)| spot), old)?,
            None => Vec::new(),
        };
        let mut found = found.into_iter();
        if old.is_none() {
            // All names are free, or none is made: half of them would be taken for somebody else's.
            for (spot, _) in at {
                let place = self.place(spot)?;
                if exists(&place) {
                    return Err(Stop::Busy);
                }
            }
        }
        let aside = format!(".kith-tmp-{}00", content.file);
        let made = place.path.with_file_name(&aside);
        unlink(&place.dir, &aside, false)?;
        self.bring(&place.dir, &aside, content)?;
        let file = File::from(beneath(&place.dir, Path::new(&aside), OFlag::O_WRONLY | OFlag::O_NONBLOCK)?);
        file.write_all_at(locator.as_bytes(), LOCATOR.start as u64)?;
        self.dress(&made, *attrs_for, attrs)?;
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

    /// What lies at the names of a file that is about to go, before anything is done. On a full device something else
    /// than its record says is what was written there and not recorded yet, as after a crash, or what fs will refuse:
    /// it waits for fs, and is not read again until it changes.
    fn look<'s>(&self, at: impl Iterator<Item = &'s Spot>, content: &Content) -> Result<Vec<Found>, Stop> {
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
            let signature = Signature::of(&meta);
            let differs = self.bodies.differs(&content.root, &signature)
                || !meta.is_file()
                || groups_of_open(&file)?.root() != content.root;
            if differs && self.inside.is_some() {
                self.bodies.set_differs(content.root, signature);
                return Err(Stop::Busy);
            }
            all.push(if differs { Found::Other } else { Found::Body });
        }
        Ok(all)
    }

    /// Keeps an entry that is about to go, by a second name: in versions/, or in quarantine/ where it is not what its
    /// record says. A body's entry stays until then, so that no crash leaves the name without either.
    fn keep(&self, place: &Place<'_>, content: &Content, found: Found) -> Result<(), Stop> {
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
        let kept = self.bodies.quarantine_path(&content.file.to_string());
        nix::fcntl::renameat(&place.dir, place.name, AT_FDCWD, &kept)?;
        self.bodies.damaged(kept);
        Ok(())
    }

    /// A version is kept from now on, whatever its own time says.
    fn kept_now(&self, content: &Content) {
        let (kept, now) = (self.bodies.version_path(&content.root), TimeSpec::UTIME_NOW);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        let _ = nix::sys::stat::utimensat(AT_FDCWD, &kept, &now, &now, flags);
    }

    fn move_file(&mut self, content: &Content, from: &[Spot], to: &[(Spot, Locator)]) -> Result<(), Stop> {
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

    #[allow(clippy::too_many_arguments)]
    fn move_folder(
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

    /// Attributes, where there is somebody who can open them. A folder's begin with its header.
    fn dress(&mut self, path: &Path, id: EntryId, attrs: &[u8]) -> Result<(), Stop> {
        let Some(inside) = self.inside else { return Ok(()) };
        let (header, sealed) = match id {
            EntryId::Folder(_) => attrs.split_at_checked(FOLDER_HEADER).ok_or(Stop::Refused)?,
            EntryId::File(_) => (&[][..], attrs),
        };
        if let EntryId::Folder(_) = id {
            // Its own time may be among those kept; what comes now is the one that counts.
            self.restore_times();
        }
        self.shows = inside.dress(path, &id, sealed)?.map(|shown| [header, &shown].concat());
        self.touched.files.push(id);
        Ok(())
    }
}

/// What lies at a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Body,
    Other,
}

/// The file that holds the header of `node` (kith-store(5), "Folders").
pub fn header_name(node: &NodeId) -> String {
    format!(".kith-{node}")
}

fn beneath(dir: &OwnedFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open_in(dir, path, flags, 0)
}

fn open_in(dir: &OwnedFd, path: &Path, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(nix::fcntl::openat2(dir, path, how)?)
}

fn rename(from: &OwnedFd, name: &str, to: &OwnedFd, new: &str, flags: RenameFlags) -> Result<(), Stop> {
    match nix::fcntl::renameat2(from, name, to, new, flags) {
        Ok(()) => Ok(()),
        // Something is there that was not observed yet.
        Err(nix::Error::EEXIST) => Err(Stop::Busy),
        Err(e) => Err(e.into()),
    }
}

fn unlink(dir: &OwnedFd, name: &str, folder: bool) -> Result<(), Stop> {
    use nix::unistd::UnlinkatFlags::{NoRemoveDir, RemoveDir};
    match nix::unistd::unlinkat(dir, name, if folder { RemoveDir } else { NoRemoveDir }) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::ENOTEMPTY) => Err(Stop::Busy),
        Err(e) => Err(e.into()),
    }
}

fn exists(place: &Place<'_>) -> bool {
    let stat = nix::sys::stat::fstatat(&place.dir, place.name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    stat != Err(nix::Error::ENOENT)
}

fn sync(dir: &OwnedFd) -> Result<(), Stop> {
    Ok(nix::unistd::fsync(dir)?)
}

fn mtime(place: &Place<'_>) -> Result<TimeSpec, Stop> {
    let stat = nix::sys::stat::fstatat(&place.dir, place.name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn entries(dir: &OwnedFd) -> Result<Vec<String>, Stop> {
    let mut out = Vec::new();
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    for entry in std::fs::read_dir(path)? {
        out.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(out)
}

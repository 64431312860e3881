//! The volumes of one mount: the root share's, and that of each share whose junction lies in one of them.
//!
//! Operations as a [`Volume`] has them, on inode numbers whose upper 16 bits say the volume. Between volumes, rename and
//! link answer EXDEV. No lock of one volume is held while another one is asked: two shares may name each other.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keymgr::ids::ShareId;
use parking_lot::{Mutex, RwLock};

use super::tell::Teller;
use crate::content::Kind;
use crate::store::{Rename, Space};
use crate::volume::{Attr, Device, DirEntry, Error, OpenHow, ROOT, Result, SetAttr, Shown, Volume, Who};

/// Where the volume's number begins in an inode number.
const VOLUME: u32 = 48;

/// A forest. Clones are one forest.
#[derive(Clone)]
pub struct Forest(Arc<Inner>);

struct Inner {
    root: Volume,
    planted: RwLock<Planted>,
    teller: Mutex<Option<Teller>>,
}

#[derive(Default)]
struct Planted {
    /// By number; `None`: removed. Numbers are never given again, since the kernel may still know inodes of them.
    volumes: Vec<Option<Volume>>,
    shares: HashMap<ShareId, Share>,
}

#[derive(Clone, Copy)]
struct Share {
    /// The share in which its junction counts. In any other one a writer could put it to draw it there.
    parent: ShareId,
    /// `None`: awaited, an empty folder until then.
    number: Option<u16>,
}

/// What a junction is shown as.
enum Place {
    Volume(u16, Volume),
    Awaited,
    /// No share of this account's: not listed.
    Hidden,
}

/// Where a path leads. See [`Forest::find`].
pub struct Found {
    pub volume: Volume,
    pub ino: u64,
    pub kind: Shown,
}

impl Forest {
    pub fn new(root: Volume) -> Self {
        root.0.kernel_times.store(true, Ordering::Relaxed);
        let planted = Planted { volumes: vec![Some(root.clone())], shares: HashMap::new() };
        Self(Arc::new(Inner { root, planted: RwLock::new(planted), teller: Mutex::default() }))
    }

    pub fn root(&self) -> &Volume {
        &self.0.root
    }

    /// Shows a share's volume where its junction lies in the share `parent`. EEXIST where it is shown already.
    pub fn add(&self, parent: ShareId, volume: Volume) -> Result<()> {
        let share = volume.share();
        {
            let mut planted = self.0.planted.write();
            if planted.shares.get(&share).is_some_and(|s| s.number.is_some()) || share == self.0.root.share() {
                return Err(Error::Errno(libc::EEXIST));
            }
            let number = u16::try_from(planted.volumes.len()).map_err(|_| Error::Errno(libc::ENFILE))?;
            if let Some(teller) = &*self.0.teller.lock() {
                teller.listen(number, &volume);
            }
            volume.0.kernel_times.store(true, Ordering::Relaxed);
            planted.volumes.push(Some(volume));
            planted.shares.insert(share, Share { parent, number: Some(number) });
        }
        self.tell(parent, share);
        Ok(())
    }

    /// Shows an empty folder, which nobody can write to, where the junction of a share lies that is not here yet.
    pub fn await_share(&self, parent: ShareId, share: ShareId) {
        let is_new = {
            let mut planted = self.0.planted.write();
            let is_new = !planted.shares.contains_key(&share) && share != self.0.root.share();
            if is_new {
                planted.shares.insert(share, Share { parent, number: None });
            }
            is_new
        };
        if is_new {
            self.tell(parent, share);
        }
    }

    /// Hides a share again. What programs still write to files in it that they have open arrives before; after that they
    /// find them stale. Must not be called by whoever holds the gate of a volume.
    pub fn remove(&self, share: ShareId) -> Option<Volume> {
        let gone = self.0.planted.write().shares.remove(&share)?;
        self.tell(gone.parent, share);
        let number = gone.number?;
        let volume = self.numbered(number).ok()?;
        let teller = self.0.teller.lock().clone();
        if let Some(teller) = teller {
            teller.write_back(number, volume.0.open_inodes());
            teller.unlisten(&volume);
        }
        self.0.planted.write().volumes.get_mut(usize::from(number)).map(Option::take);
        volume.0.release_all();
        Some(volume)
    }

    /// The junction of a share lies in another share now: that of a folder which became one.
    pub fn reparent(&self, share: ShareId, parent: ShareId) {
        if let Some(share) = self.0.planted.write().shares.get_mut(&share) {
            share.parent = parent;
        }
        self.tell(parent, share);
    }

    pub fn volume(&self, share: ShareId) -> Option<Volume> {
        if share == self.0.root.share() {
            return Some(self.0.root.clone());
        }
        let number = self.0.planted.read().shares.get(&share)?.number?;
        self.numbered(number).ok()
    }

    /// Where a path in the mount leads, relative to it; through junctions, and to the share's topmost folder where it is
    /// one of a share that is here.
    pub fn find(&self, path: &Path) -> Result<Found> {
        let mut at = self.getattr(ROOT)?;
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let parent = at.ino;
                    at = self.lookup(parent, name.as_bytes())?;
                    self.forget(at.ino, 1);
                }
                Component::CurDir => {}
                _ => return Err(Error::Errno(libc::EINVAL)),
            }
        }
        let (_, volume, ino) = self.at(at.ino)?;
        Ok(Found { volume, ino, kind: at.kind })
    }

    /// The kernel is there now: it is told of what changes without it.
    pub(super) fn listen(&self, teller: Teller) {
        let planted = self.0.planted.write();
        for (number, volume) in (0..).zip(&planted.volumes) {
            if let Some(volume) = volume {
                teller.listen(number, volume);
            }
        }
        *self.0.teller.lock() = Some(teller);
    }

    /// Nobody is there any more to be told.
    pub(super) fn unlisten(&self) {
        let teller = self.0.teller.lock().take();
        if let Some(teller) = teller {
            self.volumes().iter().for_each(|volume| teller.unlisten(volume));
        }
    }

    /// The kernel is gone, and every opening with it.
    pub(super) fn ended(&self) {
        self.unlisten();
        self.volumes().iter().for_each(|volume| volume.0.release_all());
    }

    fn volumes(&self) -> Vec<Volume> {
        self.0.planted.read().volumes.iter().flatten().cloned().collect()
    }

    /// The kernel forgets the name of a junction: something else is shown there now.
    fn tell(&self, parent: ShareId, share: ShareId) {
        let mounted = self.0.teller.lock().is_some();
        if mounted
            && let Some(parent) = self.volume(parent)
            && let Some(at) = parent.known_junction(share)
        {
            parent.tell_names(at.folder, vec![at.name]);
        }
    }

    fn numbered(&self, number: u16) -> Result<Volume> {
        if number == 0 {
            return Ok(self.0.root.clone());
        }
        let volume = self.0.planted.read().volumes.get(usize::from(number)).cloned();
        volume.flatten().ok_or(Error::Errno(libc::ESTALE))
    }

    fn at(&self, ino: u64) -> Result<(u16, Volume, u64)> {
        let number = (ino >> VOLUME) as u16;
        Ok((number, self.numbered(number)?, ino & ((1 << VOLUME) - 1)))
    }

    fn place(&self, parent: ShareId, share: ShareId) -> Place {
        let planted = self.0.planted.read();
        match planted.shares.get(&share) {
            Some(known) if known.parent != parent => Place::Hidden,
            Some(Share { number: None, .. }) => Place::Awaited,
            Some(Share { number: Some(number), .. }) => match planted.volumes.get(usize::from(*number)) {
                Some(Some(volume)) => Place::Volume(*number, volume.clone()),
                _ => Place::Hidden,
            },
            None => Place::Hidden,
        }
    }

    /// What the kernel sees of what a volume shows.
    fn show(&self, number: u16, volume: &Volume, attr: Attr) -> Result<Attr> {
        let Shown::Share(share) = attr.kind else { return Ok(numbered(number, attr)) };
        match self.place(volume.share(), share) {
            Place::Volume(number, volume) => Ok(numbered(number, volume.getattr(ROOT)?)),
            Place::Awaited => Ok(numbered(number, attr)),
            Place::Hidden => Err(Error::Errno(libc::ENOENT)),
        }
    }
}

/// Operations, as [`Volume`] has them.
impl Forest {
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let (number, volume, parent) = self.at(parent)?;
        let attr = volume.lookup(parent, name)?;
        self.show(number, &volume, attr)
    }

    pub fn forget(&self, ino: u64, count: u64) {
        if let Ok((_, volume, ino)) = self.at(ino) {
            volume.forget(ino, count);
        }
    }

    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let (number, volume, ino) = self.at(ino)?;
        Ok(numbered(number, volume.getattr(ino)?))
    }

    pub fn setattr(&self, ino: u64, set: SetAttr) -> Result<Attr> {
        let (number, volume, ino) = self.at(ino)?;
        Ok(numbered(number, volume.setattr(ino, set)?))
    }

    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let (_, volume, ino) = self.at(ino)?;
        volume.readlink(ino)
    }

    pub fn create(&self, parent: u64, name: &[u8], mode: u32, who: Who) -> Result<Attr> {
        let (number, volume, parent) = self.at(parent)?;
        Ok(numbered(number, volume.create(parent, name, mode, who)?))
    }

    pub fn mknod(&self, parent: u64, name: &[u8], kind: Kind, mode: u32, device: Device, who: Who) -> Result<Attr> {
        let (number, volume, parent) = self.at(parent)?;
        Ok(numbered(number, volume.mknod(parent, name, kind, mode, device, who)?))
    }

    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], who: Who) -> Result<Attr> {
        let (number, volume, parent) = self.at(parent)?;
        Ok(numbered(number, volume.symlink(parent, name, target, who)?))
    }

    pub fn mkdir(&self, parent: u64, name: &[u8], mode: u32, who: Who) -> Result<Attr> {
        let (number, volume, parent) = self.at(parent)?;
        Ok(numbered(number, volume.mkdir(parent, name, mode, who)?))
    }

    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        let (from, _, ino) = self.at(ino)?;
        let (number, volume, parent) = self.at(parent)?;
        if from != number {
            return Err(Error::Errno(libc::EXDEV));
        }
        Ok(numbered(number, volume.link(ino, parent, name)?))
    }

    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        let (_, volume, parent) = self.at(parent)?;
        volume.unlink(parent, name)
    }

    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        let (_, volume, parent) = self.at(parent)?;
        volume.rmdir(parent, name)
    }

    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], how: Rename) -> Result<()> {
        let (from, volume, parent) = self.at(parent)?;
        let (to, _, new_parent) = self.at(new_parent)?;
        if from != to {
            return Err(Error::Errno(libc::EXDEV));
        }
        volume.rename(parent, name, new_parent, new_name, how)
    }

    pub fn open_file(&self, ino: u64, how: OpenHow) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.open_file(ino, how)
    }

    pub fn release(&self, ino: u64, write: bool) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.release(ino, write)
    }

    pub fn read(&self, ino: u64, out: &mut [u8], offset: u64) -> Result<usize> {
        let (_, volume, ino) = self.at(ino)?;
        volume.read(ino, out, offset)
    }

    pub fn write(&self, ino: u64, data: &[u8], offset: u64, unprivileged: bool) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.write(ino, data, offset, unprivileged)
    }

    pub fn fallocate(&self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.fallocate(ino, offset, len, mode)
    }

    pub fn seek(&self, ino: u64, offset: u64, data: bool) -> Result<u64> {
        let (_, volume, ino) = self.at(ino)?;
        volume.seek(ino, offset, data)
    }

    /// EXDEV between volumes: the kernel then copies by reading and writing.
    pub fn copy_range(&self, from: u64, at: u64, to: u64, target: u64, len: u64) -> Result<u64> {
        let (source, _, from) = self.at(from)?;
        let (number, volume, to) = self.at(to)?;
        if source != number {
            return Err(Error::Errno(libc::EXDEV));
        }
        volume.copy_range(from, at, to, target, len)
    }

    pub fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.fsync(ino, data_only)
    }

    pub fn fsyncdir(&self, ino: u64) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.fsyncdir(ino)
    }

    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let (_, volume, ino) = self.at(ino)?;
        volume.opendir(ino)
    }

    pub fn releasedir(&self, ino: u64, handle: u64) {
        if let Ok((_, volume, _)) = self.at(ino) {
            volume.releasedir(handle);
        }
    }

    pub fn readdir(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, &DirEntry) -> bool,
    ) -> Result<()> {
        let (number, volume, ino) = self.at(ino)?;
        let within = volume.share();
        volume.readdir(ino, handle, offset, |next, entry| {
            let (number, ino) = match entry.kind {
                Shown::Share(share) if entry.name != b"." && entry.name != b".." => match self.place(within, share) {
                    Place::Volume(number, _) => (number, ROOT),
                    Place::Awaited => (number, entry.ino),
                    Place::Hidden => return false,
                },
                _ => (number, entry.ino),
            };
            add(next, &DirEntry { ino: global(number, ino), ..entry.clone() })
        })
    }

    pub fn readdirplus(
        &self,
        ino: u64,
        handle: u64,
        offset: u64,
        mut add: impl FnMut(u64, &[u8], &Attr) -> bool,
    ) -> Result<()> {
        let (number, volume, ino) = self.at(ino)?;
        let within = volume.share();
        let mut offset = offset;
        // Topmost folders of shares. None: it could not be asked.
        let mut known: HashMap<u16, Option<Attr>> = HashMap::new();
        loop {
            let mut unknown = None;
            let mut done = offset;
            volume.readdirplus(ino, handle, offset, |next, name, attr| {
                let attr = match attr.kind {
                    Shown::Share(share) if name != b"." && name != b".." => match self.place(within, share) {
                        Place::Volume(number, volume) => match known.get(&number) {
                            Some(known) => *known,
                            None => {
                                unknown = Some((number, volume));
                                return true;
                            }
                        },
                        Place::Awaited => Some(numbered(number, *attr)),
                        Place::Hidden => None,
                    },
                    _ => Some(numbered(number, *attr)),
                };
                let full = attr.is_some_and(|attr| add(next, name, &attr));
                if !full {
                    done = next;
                }
                full
            })?;
            let Some((number, volume)) = unknown else { return Ok(()) };
            known.insert(number, volume.getattr(ROOT).ok().map(|attr| numbered(number, attr)));
            offset = done;
        }
    }

    pub fn statfs(&self, ino: u64) -> Result<Space> {
        self.at(ino)?.1.statfs()
    }

    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.setxattr(ino, name, value, flags)
    }

    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let (_, volume, ino) = self.at(ino)?;
        volume.getxattr(ino, name)
    }

    pub fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        let (_, volume, ino) = self.at(ino)?;
        volume.listxattr(ino)
    }

    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        let (_, volume, ino) = self.at(ino)?;
        volume.removexattr(ino, name)
    }
}

pub(super) fn global(number: u16, ino: u64) -> u64 {
    u64::from(number) << VOLUME | ino
}

fn numbered(number: u16, attr: Attr) -> Attr {
    Attr { ino: global(number, attr.ino), ..attr }
}

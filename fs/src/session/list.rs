//! STORE/session/list: what may differ from its record once the session ends uncleanly (kith-store(5), "Session list").
//!
//! Appended to and fsynced before what it names first changes. Each piece is sealed with its number, so that none can be
//! added, changed, moved or left out in the middle; what a crash tore at the end is cut off.

use std::io;
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{Epoch, FileId, NodeId, StoreName};
use keymgr::secret::random_bytes;
use keymgr::share::ShareKeys;
use serde::{Deserialize, Serialize};

use crate::format::seal::{Cipher, NONCE, TAG};
use crate::format::{VERSION, field};
use crate::store::{File, Store};

const FOLDER: &str = "session";
const PATH: &str = "session/list";
/// Length and epoch stand before nonce and tag.
const FRONT: usize = 8 + NONCE + TAG;
/// Room that is set aside, so that what is removed on a full disk can still be listed.
const ROOM: u64 = 64 * 1024;
/// No piece that kith writes is longer.
const MOST: usize = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Item {
    /// The entries of the directory with this header.
    Folder(NodeId),
    /// Groups of a file's ciphertext, from the first to before the second, and its length.
    File { file: FileId, folder: NodeId, name: StoreName, groups: (u32, u32) },
    /// Mode, times, owner, extended attributes of a file.
    Attrs { file: FileId, folder: NodeId, name: StoreName },
}

pub(crate) struct List {
    /// None where the volume is read-only: nothing is ever put on it.
    file: Option<Arc<dyn File>>,
    keys: ShareKeys,
    end: u64,
    number: u64,
}

impl List {
    /// The list, and what is on it; with `empty` it is emptied first, durably.
    pub fn open(
        store: &Arc<dyn Store>,
        keys: &ShareKeys,
        empty: bool,
        read_only: bool,
    ) -> io::Result<(Self, Vec<Item>)> {
        let path = Path::new(PATH);
        let mut list = Self { file: None, keys: keys.clone(), end: 0, number: 0 };
        let file = match store.open(path, !read_only) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && read_only => return Ok((list, Vec::new())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match store.make_folder(Path::new(FOLDER), 0o700) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                }
                let file = store.create(path, 0o600)?;
                store.sync_folder(Path::new(FOLDER))?;
                store.sync_folder(Path::new(""))?;
                file
            }
            Err(e) => return Err(e),
        };
        let mut items = Vec::new();
        if empty && read_only {
            return Ok((list, items));
        }
        if !empty {
            let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
            let got = file.read_at(&mut bytes, 0)?;
            bytes.truncate(got);
            while let Some((piece, len)) = list.parse(bytes.get(list.end as usize..).unwrap_or_default()) {
                items.extend(piece);
                list.end += len as u64;
                list.number += 1;
            }
        }
        if !read_only {
            if file.length()? != list.end {
                file.set_length(list.end)?;
                file.sync(false)?;
            }
            list.file = Some(file);
            list.set_room_aside();
        }
        Ok((list, items))
    }

    pub fn put(&mut self, items: &[Item], durable: bool) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::Error::from_raw_os_error(libc::EROFS)) };
        let epoch = self.keys.current();
        let cipher = self.cipher(epoch).ok_or_else(|| io::Error::from_raw_os_error(libc::EACCES))?;
        let mut sealed = postcard::to_allocvec(items).map_err(io::Error::other)?;
        let nonce = random_bytes();
        let tag = cipher.seal(&nonce, &self.about(epoch, self.number), &mut sealed);
        let mut bytes = Vec::with_capacity(FRONT + sealed.len());
        bytes.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&epoch.0.to_le_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&tag);
        bytes.extend_from_slice(&sealed);
        file.write_at(&bytes, self.end)?;
        if durable {
            file.sync(true)?;
        }
        let before = self.end / ROOM;
        self.end += bytes.len() as u64;
        self.number += 1;
        if self.end / ROOM > before {
            self.set_room_aside();
        }
        Ok(())
    }

    pub fn empty(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file
            && self.end > 0
        {
            file.set_length(0)?;
            file.sync(false)?;
        }
        (self.end, self.number) = (0, 0);
        self.set_room_aside();
        Ok(())
    }

    fn set_room_aside(&self) {
        if let Some(file) = &self.file {
            // A disk that cannot does without.
            let _ = file.allocate(self.end, ROOM);
        }
    }

    /// The piece at the beginning of `bytes` and its length; `None` at the end, or where it is torn.
    fn parse(&self, bytes: &[u8]) -> Option<(Vec<Item>, usize)> {
        let len = u32::from_le_bytes(field(bytes, 0).ok()?) as usize;
        let epoch = Epoch(u32::from_le_bytes(field(bytes, 4).ok()?));
        let (nonce, tag) = (field(bytes, 8).ok()?, field(bytes, 8 + NONCE).ok()?);
        if len > MOST {
            return None;
        }
        let mut sealed = bytes.get(FRONT..FRONT + len)?.to_vec();
        self.cipher(epoch)?.open(&nonce, &self.about(epoch, self.number), &mut sealed, &tag).ok()?;
        Some((postcard::from_bytes(&sealed).ok()?, FRONT + len))
    }

    fn cipher(&self, epoch: Epoch) -> Option<Cipher> {
        Some(Cipher::new(&self.keys.list_key(epoch)?))
    }

    fn about(&self, epoch: Epoch, number: u64) -> Vec<u8> {
        [&[VERSION][..], self.keys.share().as_bytes(), &epoch.0.to_le_bytes(), &number.to_le_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::SimDisk;
    use keymgr::ids::ShareId;

    #[test]
    fn what_was_put_comes_back_and_a_torn_end_is_cut() {
        let store: Arc<dyn Store> = Arc::new(SimDisk::new());
        let keys = ShareKeys::create(ShareId::random());
        let (mut list, items) = List::open(&store, &keys, true, false).unwrap();
        assert!(items.is_empty());
        let first = vec![Item::Folder(NodeId::random())];
        let name = StoreName::parse("abc").unwrap();
        let second = vec![Item::File { file: FileId::random(), folder: NodeId::random(), name, groups: (0, 3) }];
        list.put(&first, true).unwrap();
        list.put(&second, true).unwrap();
        let (list, items) = List::open(&store, &keys, false, false).unwrap();
        assert_eq!(items, [first.clone(), second].concat());
        let file = store.open(Path::new(PATH), true).unwrap();
        file.set_length(list.end - 1).unwrap();
        let (mut list, items) = List::open(&store, &keys, false, false).unwrap();
        assert_eq!(items, first);
        let third = vec![Item::Folder(NodeId::random())];
        list.put(&third, true).unwrap();
        assert_eq!(List::open(&store, &keys, false, false).unwrap().1, [first, third].concat());
        assert_eq!(List::open(&store, &keys, true, false).unwrap().0.end, 0);
        assert!(List::open(&store, &keys, false, false).unwrap().1.is_empty());
    }

    #[test]
    fn pieces_do_not_change_places() {
        let store: Arc<dyn Store> = Arc::new(SimDisk::new());
        let keys = ShareKeys::create(ShareId::random());
        let (mut list, _) = List::open(&store, &keys, true, false).unwrap();
        list.put(&[Item::Folder(NodeId::random())], true).unwrap();
        let first = list.end;
        list.put(&[Item::Folder(NodeId::random())], true).unwrap();
        let file = store.open(Path::new(PATH), true).unwrap();
        let mut bytes = vec![0; list.end as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes.rotate_left(first as usize);
        file.write_at(&bytes, 0).unwrap();
        assert!(List::open(&store, &keys, false, true).unwrap().1.is_empty());
    }
}

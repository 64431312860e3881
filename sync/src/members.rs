//! What a store keeps of who is in its share: `STORE/members/` has the member list, the device list of each account,
//! and the shelf (kith-store(5), "Members"). All of it is signed; a blind device keeps and passes on the same.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use keymgr::circle::{Circle, MemberList};
use keymgr::devices::DeviceList;
use keymgr::ids::{AccountId, ShareId};
use keymgr::shelf::Shelf;
use keymgr::{devices, durable, members, shelf};

const MEMBERS: &str = "members";
const SHELF: &str = "shelf";
const DEVICES: &str = ".devices";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Durable(#[from] durable::Error),
    #[error("{}: {why}; put it back from a backup, or take the folder `members` away: another device brings it", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// The folder, and what was written to it.
pub struct Kept {
    dir: PathBuf,
    written: HashMap<String, blake3::Hash>,
}

impl Kept {
    /// What `store` knows of `share`; `None` for a share that has members, and no list of them is here.
    pub fn load(store: &Path, share: ShareId) -> Result<Option<(Circle, Shelf)>, Error> {
        let dir = store.join("members");
        let members = match read(&dir.join(MEMBERS), members::MAX_BYTES)? {
            Some(bytes) => parsed(&dir.join(MEMBERS), MemberList::parse(&bytes, &share))?,
            None => return Ok(None),
        };
        let circle = Circle::of_share(members, lists(&dir)?);
        let shelf = shelf_of(&dir, share, &circle)?;
        Ok(Some((circle, shelf)))
    }

    /// Opens the folder, and learns what is in it.
    pub fn open(store: &Path, circle: &mut Circle, shelf: &mut Shelf) -> Result<Self, Error> {
        let dir = store.join("members");
        durable::make_dir(&dir)?;
        if let Some(bytes) = read(&dir.join(MEMBERS), members::MAX_BYTES)? {
            parsed(&dir.join(MEMBERS), circle.take_members(&bytes))?;
        }
        for list in lists(&dir)? {
            // One of an account that the circle does not name any more is no damage.
            let _ = circle.learn(list);
        }
        let kept = shelf_of(&dir, shelf.share(), circle)?;
        shelf.merge(&kept, circle);
        let mut kept = Self { dir, written: HashMap::new() };
        kept.save(circle, shelf)?;
        Ok(kept)
    }

    /// Makes durable what changed.
    pub(crate) fn save(&mut self, circle: &Circle, shelf: &Shelf) -> Result<(), Error> {
        // Devices first: the member list is judged by them.
        for list in circle.lists() {
            self.put(&format!("{}{DEVICES}", list.account()), &list.to_bytes())?;
        }
        if let Some(members) = circle.members() {
            self.put(MEMBERS, &members.to_bytes())?;
        }
        if !shelf.is_empty() {
            self.put(SHELF, &shelf.to_bytes())?;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let hash = blake3::hash(bytes);
        if self.written.get(name) != Some(&hash) {
            durable::save(&self.dir.join(name), bytes)?;
            self.written.insert(name.to_owned(), hash);
        }
        Ok(())
    }
}

fn read(path: &Path, most: usize) -> Result<Option<Vec<u8>>, Error> {
    match durable::load(path, most as u64) {
        Ok(bytes) => Ok(Some(bytes.to_vec())),
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn parsed<T>(path: &Path, outcome: Result<T, impl std::fmt::Display>) -> Result<T, Error> {
    outcome.map_err(|e| Error::Damaged { path: path.to_owned(), why: e.to_string() })
}

fn lists(dir: &Path) -> Result<Vec<DeviceList>, Error> {
    let mut lists = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let account = name.to_str().and_then(|n| n.strip_suffix(DEVICES)).and_then(|n| n.parse::<AccountId>().ok());
        let Some(account) = account else { continue };
        if let Some(bytes) = read(&entry.path(), devices::MAX_BYTES)? {
            lists.push(parsed(&entry.path(), DeviceList::parse_and_verify(&bytes, &account))?);
        }
    }
    Ok(lists)
}

/// What is in it counts as if it came from a peer.
fn shelf_of(dir: &Path, share: ShareId, circle: &Circle) -> Result<Shelf, Error> {
    let mut shelf = Shelf::empty(share);
    if let Some(bytes) = read(&dir.join(SHELF), shelf::MAX_BYTES)? {
        shelf.merge(&parsed(&dir.join(SHELF), Shelf::parse(&bytes, &share))?, circle);
    }
    Ok(shelf)
}

//! Contents against a plain vector, through crashes, and against someone with the disk.

mod attack;
mod crash;
mod model;

use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{FileId, Locator, ShareId};
use keymgr::root::Groups;
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;

use super::{Content, Error, Expected, Kind, roots};
use crate::store::sim::SimDisk;
use crate::store::{File, Store};

const PLACE: Locator = Locator::from_bytes([3; 16]);

fn keys() -> ShareKeys {
    ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
}

fn create(disk: &SimDisk, name: &str) -> Content {
    let path = Path::new(name);
    let file = disk.create(path, 0o600).unwrap();
    Content::create(file, path, &keys(), FileId::random(), Kind::File, &PLACE).unwrap()
}

fn open(disk: &SimDisk, name: &str) -> Result<Content, Error> {
    let path = Path::new(name);
    Content::open(disk.open(path, true).unwrap(), path, &keys())
}

fn read(content: &Content) -> Result<Vec<u8>, Error> {
    content.read_all(1 << 30)
}

fn bytes_of(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0; file.length().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn expected(groups: &Groups, length: u64) -> Expected {
    Expected { length, root: groups.root(), groups: Some(groups.clone()), loose: None }
}

fn recorded(content: &Content) -> Expected {
    expected(&roots::whole(content.file().as_ref()).unwrap(), content.length())
}

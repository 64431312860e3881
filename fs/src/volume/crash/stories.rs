//! Crashes that once cost something, each with its story. The search found them; they stay.

use std::path::Path;
use std::sync::Arc;

use keymgr::ids::ShareId;
use keymgr::share::ShareKeys;

use super::super::{OpenOptions, ROOT, Volume, Who};
use super::oracle::{find, read};
use super::world::Book;
use crate::records::Deaf;
use crate::store::Rename;
use crate::store::sim::SimDisk;

struct Stage {
    disk: SimDisk,
    keys: ShareKeys,
    book: Arc<Book>,
}

impl Stage {
    fn new() -> Self {
        let keys = ShareKeys::create(ShareId::from_bytes([1; 16]));
        let disk = SimDisk::new();
        Volume::init_on(&disk, &keys).unwrap();
        Self { disk, keys, book: Arc::default() }
    }

    fn open(&self, clean: bool) -> Volume {
        let o = OpenOptions { clean, ..OpenOptions::default() };
        let disk = Arc::new(self.disk.clone());
        Volume::open_on(disk, Path::new("store"), self.keys.clone(), self.book.clone(), Arc::new(Deaf), o).unwrap()
    }

    fn record(&self, volume: &Volume) {
        let seen = volume.observe().unwrap();
        self.book.take(&seen);
        volume.recorded(&seen);
    }

    /// Records all of it, and ends the session well.
    fn close(&self, volume: &Volume) {
        (0..3).for_each(|_| self.record(volume));
        assert!(!volume.is_dirty() && !volume.is_unmended());
        volume.end().unwrap();
    }

    fn put(&self, volume: &Volume, folder: u64, name: &str) -> u64 {
        let ino = volume.create(folder, name.as_bytes(), 0o600, Who::me()).unwrap().ino;
        volume.write(ino, b"content", 0, false).unwrap();
        volume.release(ino, true).unwrap();
        ino
    }
}

fn reads(volume: &Volume, path: &str) {
    let ino = find(volume, path).unwrap();
    assert_eq!(read(volume, ino).unwrap(), b"content", "{path}");
    assert_eq!(volume.refusals(), []);
}

/// A file has two names in two folders, and the one that its header says is removed. The header then says the other, and
/// that page is lost in the cut; the folder of the other name was not touched and is on no list.
#[test]
fn a_file_whose_first_name_was_removed_is_still_at_home_under_the_other() {
    let stage = Stage::new();
    let volume = stage.open(true);
    let folder = volume.mkdir(ROOT, b"d", 0o700, Who::me()).unwrap().ino;
    let ino = stage.put(&volume, ROOT, "a");
    volume.link(ino, folder, b"b").unwrap();
    stage.close(&volume);
    let volume = stage.open(true);
    volume.unlink(ROOT, b"a").unwrap();
    stage.disk.cut_without_pages();
    reads(&stage.open(false), "/d/b");
}

/// A file moves into a folder that no record knows, so that the folder is on no list; then the folder is recorded, and the
/// 16 bytes in the file's header that say where it belongs were never made durable.
#[test]
fn what_moved_into_a_new_folder_is_at_home_there_once_that_is_recorded() {
    let stage = Stage::new();
    let volume = stage.open(true);
    stage.put(&volume, ROOT, "a");
    volume.mkdir(ROOT, b"f", 0o700, Who::me()).unwrap();
    stage.close(&volume);
    let volume = stage.open(true);
    let folder = volume.mkdir(ROOT, b"d", 0o700, Who::me()).unwrap().ino;
    volume.rename(ROOT, b"a", folder, b"b", Rename::Over).unwrap();
    volume.rename(ROOT, b"f", folder, b"g", Rename::Over).unwrap();
    (0..2).for_each(|_| stage.record(&volume));
    stage.disk.cut_without_pages();
    let volume = stage.open(false);
    reads(&volume, "/d/b");
    find(&volume, "/d/g").unwrap();
}

/// After a crash a folder that no record knows is changed and recorded before mending comes to it: without the files that
/// a former session left in it. Mending then took it for one that fits its record, and those files were recorded never.
#[test]
fn mending_finds_what_a_recorded_folder_left_out() {
    let stage = Stage::new();
    let volume = stage.open(true);
    let folder = volume.mkdir(ROOT, b"d", 0o700, Who::me()).unwrap().ino;
    let ino = stage.put(&volume, folder, "a");
    volume.fsync(ino, false).unwrap();
    stage.disk.kill();
    let volume = stage.open(false);
    let folder = find(&volume, "/d").unwrap();
    stage.put(&volume, folder, "b");
    stage.record(&volume);
    volume.mend().unwrap();
    stage.close(&volume);
    let volume = stage.open(true);
    reads(&volume, "/d/a");
    reads(&volume, "/d/b");
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
}

/// While the folders that changed are made durable a file moves from one of them into one that had not changed: seen in
/// neither, it was recorded as deleted, and the next session refused it where it lay.
#[test]
fn a_file_that_moves_during_an_observation_is_seen_where_it_went() {
    let stage = Stage::new();
    let volume = stage.open(true);
    let from = volume.mkdir(ROOT, b"from", 0o700, Who::me()).unwrap().ino;
    volume.mkdir(ROOT, b"to", 0o700, Who::me()).unwrap();
    stage.put(&volume, from, "x");
    stage.close(&volume);
    let volume = stage.open(true);
    let (from, to) = (find(&volume, "/from").unwrap(), find(&volume, "/to").unwrap());
    stage.put(&volume, from, "y");
    let other = volume.clone();
    stage.disk.meanwhile(move || other.rename(from, b"x", to, b"x", Rename::NoReplace).unwrap());
    let seen = volume.observe().unwrap();
    assert_eq!(seen.folders.len(), 2, "both are seen at one moment");
    stage.book.take(&seen);
    volume.recorded(&seen);
    stage.close(&volume);
    reads(&stage.open(true), "/to/x");
}

//! Junctions in a volume, without a mount: entries that stand for another share.

mod common;

use common::Vault;
use fs::content::Kind;
use fs::records::EntryId;
use fs::store::Rename;
use fs::volume::{Error, OpenHow, OpenOptions, ROOT, Result, SetAttr, Shown, Volume, Who};
use keymgr::ids::{FileId, ShareId};

fn errno<T>(result: Result<T>) -> i32 {
    match result.map(drop) {
        Err(Error::Errno(errno)) => errno,
        other => panic!("{other:?}"),
    }
}

fn shown(volume: &Volume, parent: u64, name: &[u8]) -> (u64, Shown) {
    let attr = volume.lookup(parent, name).unwrap();
    (attr.ino, attr.kind)
}

#[test]
fn a_junction_is_an_empty_folder_that_cannot_be_removed_and_is_observed_as_a_file() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let share = ShareId::random();
    let folder = volume.mkdir(ROOT, b"d", 0o755, Who::me()).unwrap().ino;
    volume.mkdir(ROOT, b"empty", 0o755, Who::me()).unwrap();
    volume.create(ROOT, b"file", 0o644, Who::me()).unwrap();
    volume.make_junction(folder, b"Photos", share).unwrap();
    assert_eq!(errno(volume.make_junction(ROOT, b"again", share)), libc::EEXIST);
    assert_eq!(errno(volume.make_junction(folder, b"Photos", ShareId::random())), libc::EEXIST);
    assert_eq!(errno(volume.make_junction(folder, b"itself", volume.share())), libc::EEXIST);
    let (ino, kind) = shown(&volume, folder, b"Photos");
    assert_eq!(kind, Shown::Share(share));

    // An empty folder that nobody writes to.
    let handle = volume.opendir(ino).unwrap();
    let mut names = Vec::new();
    volume
        .readdir(ino, handle, 0, |_, entry| {
            names.push(entry.name.clone());
            false
        })
        .unwrap();
    volume.releasedir(handle);
    assert_eq!(names, [&b"."[..], b".."]);
    assert_eq!(errno(volume.lookup(ino, b"x")), libc::ENOENT);
    assert_eq!(errno(volume.create(ino, b"x", 0o600, Who::me())), libc::EROFS);
    assert_eq!(errno(volume.mkdir(ino, b"x", 0o700, Who::me())), libc::EROFS);
    assert_eq!(errno(volume.make_junction(ino, b"x", ShareId::random())), libc::EROFS);
    assert_eq!(errno(volume.rename(ROOT, b"file", ino, b"x", Rename::Over)), libc::EROFS);
    assert_eq!(errno(volume.setattr(ino, SetAttr { mode: Some(0o700), ..SetAttr::default() })), libc::EROFS);
    assert_eq!(errno(volume.setxattr(ino, b"user.a", b"b", 0)), libc::EROFS);
    assert_eq!(errno(volume.open_file(ino, OpenHow::default())), libc::EISDIR);
    assert_eq!(errno(volume.link(ino, ROOT, b"link")), libc::EPERM);

    // What removes or replaces it.
    assert_eq!(errno(volume.rmdir(folder, b"Photos")), libc::EBUSY);
    assert_eq!(errno(volume.unlink(folder, b"Photos")), libc::EBUSY);
    assert_eq!(errno(volume.rmdir(ROOT, b"d")), libc::ENOTEMPTY);
    assert_eq!(errno(volume.rename(ROOT, b"empty", folder, b"Photos", Rename::Over)), libc::EBUSY);
    assert_eq!(errno(volume.rename(ROOT, b"file", folder, b"Photos", Rename::Over)), libc::EBUSY);
    assert_eq!(errno(volume.rename(folder, b"Photos", ROOT, b"empty", Rename::Over)), libc::EBUSY);

    // It is renamed, and so is what it lies in.
    volume.rename(folder, b"Photos", ROOT, b"Pictures", Rename::NoReplace).unwrap();
    volume.rename(ROOT, b"Pictures", folder, &[b'l'; 200], Rename::NoReplace).unwrap();
    volume.rename(ROOT, b"d", ROOT, b"e", Rename::NoReplace).unwrap();
    let at = volume.junction(share).unwrap();
    assert_eq!((at.folder, at.name), (folder, vec![b'l'; 200]));

    let seen = vault.record(&volume);
    let file = seen.files.iter().find(|f| f.kind == Kind::Share).unwrap();
    assert_eq!((file.file, file.length), (FileId::from_bytes(*share.as_bytes()), 4097));
    assert!(seen.folders.iter().any(|f| f.entries.iter().any(|e| e.2 == EntryId::File(file.file))));
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
    vault.close(&volume);
    drop(volume);

    // A new session knows it from the disk, and finds it without being told where.
    let volume = vault.open(true);
    let at = volume.junction(share).unwrap();
    assert_eq!(at.name, [b'l'; 200]);
    assert_eq!(shown(&volume, at.folder, &at.name).1, Shown::Share(share));
    assert_eq!(errno(volume.make_junction(ROOT, b"again", share)), libc::EEXIST);
    assert_eq!(volume.junction(ShareId::random()), None);
    volume.remove_junction(share).unwrap();
    assert_eq!(errno(volume.remove_junction(share)), libc::ENOENT);
    assert_eq!(errno(volume.lookup(at.folder, &at.name)), libc::ENOENT);
    volume.rmdir(ROOT, b"e").unwrap();
    vault.close(&volume);
    assert_eq!(vault.ear.refusals.lock().unwrap().as_slice(), []);
}

#[test]
fn a_reader_changes_nothing_and_keeps_house_all_the_same() {
    let vault = Vault::new();
    let volume = vault.open(true);
    volume.mkdir(ROOT, b"d", 0o755, Who::me()).unwrap();
    vault.close(&volume);
    drop(volume);
    let o = OpenOptions { reader: true, ..OpenOptions::default() };
    let open = || {
        Volume::open(&vault.store(), vault.id, vault.keys.clone(), vault.book.clone(), vault.ear.clone(), o).unwrap()
    };
    let volume = open();
    assert_eq!(errno(volume.mkdir(ROOT, b"x", 0o755, Who::me())), libc::EROFS);
    assert_eq!(errno(volume.make_junction(ROOT, b"x", ShareId::random())), libc::EROFS);
    // After an unclean end there is nothing of its own to mend.
    assert!(volume.is_unmended());
    volume.mend().unwrap();
    assert!(!volume.is_unmended() && !volume.is_dirty());
    drop(volume);
    vault.open(true).mkdir(ROOT, b"never recorded", 0o755, Who::me()).unwrap();
    let volume = open();
    volume.mend().unwrap();
    assert_eq!(volume.lookup(ROOT, b"d").unwrap().kind, Shown::Folder);
    assert_eq!(errno(volume.lookup(ROOT, b"never recorded")), libc::ENOENT);
    assert_eq!(std::fs::read_dir(vault.store().join("quarantine")).unwrap().count(), 1);
    volume.end().unwrap();
    volume.list_emptied().unwrap();
}

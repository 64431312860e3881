//! The store changed by someone with the disk and no key (ATTACKS.md, S1 to S8, S11, S12): refused in a vault that was
//! closed cleanly, named to the feed and by fsck, and never in what an observation tells.

mod common;

use std::collections::BTreeMap;
use std::fs as disk;
use std::path::{Path, PathBuf};

use common::Vault;
use fs::records::EntryId;
use fs::volume::{OpenHow, ROOT, Volume, Who};
use keymgr::root::LOCATOR;

fn put(volume: &Volume, parent: u64, name: &str, data: &[u8]) -> u64 {
    let ino = match volume.lookup(parent, name.as_bytes()) {
        Ok(attr) => {
            volume.open_file(attr.ino, OpenHow { write: true, truncate: true }).unwrap();
            attr.ino
        }
        Err(_) => volume.create(parent, name.as_bytes(), 0o600, Who::me()).unwrap().ino,
    };
    volume.write(ino, data, 0, false).unwrap();
    volume.release(ino, true).unwrap();
    ino
}

fn get(volume: &Volume, parent: u64, name: &str) -> Result<Vec<u8>, i32> {
    let read = || {
        let ino = volume.lookup(parent, name.as_bytes())?.ino;
        volume.open_file(ino, OpenHow::default())?;
        let mut out = vec![0; 1 << 20];
        let len = volume.read(ino, &mut out, 0);
        volume.release(ino, false)?;
        out.truncate(len?);
        Ok(out)
    };
    read().map_err(|e: fs::volume::Error| e.errno())
}

/// A vault with a few files, closed cleanly, and where each lies.
struct Closed {
    vault: Vault,
    at: BTreeMap<&'static str, PathBuf>,
}

const BIG: usize = 200_000;

fn big(fill: u8) -> Vec<u8> {
    (0..BIG).map(|i| (i % 251) as u8 ^ fill).collect()
}

impl Closed {
    fn new() -> Self {
        let vault = Vault::new();
        let mut at = BTreeMap::new();
        let mut known = std::collections::BTreeSet::new();
        let volume = vault.open(true);
        let mut note = |name: &'static str| {
            let now = walk(&vault.store().join("tree"));
            let new = now.iter().find(|path| !known.contains(*path) && !is_header(path)).unwrap().clone();
            known.extend(now);
            at.insert(name, new);
        };
        put(&volume, ROOT, "small", b"small one");
        note("small");
        put(&volume, ROOT, "other", b"other one");
        note("other");
        put(&volume, ROOT, "big", &big(0));
        note("big");
        let dir = volume.mkdir(ROOT, b"dir", 0o700, Who::me()).unwrap().ino;
        note("dir");
        put(&volume, dir, "inner", b"inner one");
        note("inner");
        vault.close(&volume);
        Self { vault, at }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        disk::read(&self.at[name]).unwrap()
    }

    fn set(&self, name: &str, bytes: &[u8]) {
        disk::write(&self.at[name], bytes).unwrap();
    }

    /// Opens it again. `name` in `parent` must be refused, by reading and by fsck, and be told of.
    fn refused(&self, name: &str) {
        let volume = self.vault.open(true);
        assert_eq!(get(&volume, ROOT, name), Err(libc::EIO), "{name}");
        assert!(!self.vault.ear.refusals.lock().unwrap().is_empty());
        let found = volume.fsck(false, |_| ()).unwrap();
        assert!(found.iter().any(|f| f.shown == Path::new(name)), "{found:?}");
        for good in ["small", "other", "big"].iter().filter(|good| **good != name) {
            get(&volume, ROOT, good).unwrap();
        }
        // It can be removed all the same.
        volume.unlink(ROOT, name.as_bytes()).unwrap();
        self.vault.close(&volume);
    }
}

fn is_header(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with(".kith-")
}

fn walk(at: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in disk::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        out.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            out.extend(walk(&entry.path()));
        }
    }
    out
}

#[test]
fn s1_a_flipped_bit_is_refused() {
    for at in [0, 5, 100, 300, 4000, 4097] {
        let closed = Closed::new();
        let mut bytes = closed.bytes("small");
        bytes[at] ^= 1;
        closed.set("small", &bytes);
        closed.refused("small");
    }
}

#[test]
fn s1_a_flip_in_one_group_leaves_the_others_readable() {
    let closed = Closed::new();
    let mut bytes = closed.bytes("big");
    bytes[100_000] ^= 1;
    closed.set("big", &bytes);
    let volume = closed.vault.open(true);
    let ino = volume.lookup(ROOT, b"big").unwrap().ino;
    volume.open_file(ino, OpenHow::default()).unwrap();
    let mut out = vec![0; 10_000];
    assert_eq!(volume.read(ino, &mut out, 0).unwrap(), 10_000);
    assert_eq!(out, big(0)[..10_000]);
    assert_eq!(volume.read(ino, &mut out, 95_000).unwrap_err().errno(), libc::EIO);
    // A change of the group does not make it right either.
    volume.open_file(ino, OpenHow { write: true, truncate: false }).unwrap();
    assert_eq!(volume.write(ino, b"x", 99_000, false).unwrap_err().errno(), libc::EIO);
    volume.release(ino, true).unwrap();
    volume.release(ino, false).unwrap();
}

#[test]
fn s2_zeroed_pages_and_holes_are_refused() {
    let closed = Closed::new();
    let mut bytes = closed.bytes("big");
    bytes[8 * 4096..9 * 4096].fill(0);
    closed.set("big", &bytes);
    closed.refused("big");
    let closed = Closed::new();
    let mut bytes = closed.bytes("small");
    bytes[256..4096].fill(0);
    closed.set("small", &bytes);
    closed.refused("small");
}

#[test]
fn s3_s4_pieces_of_two_versions_are_refused() {
    let closed = Closed::new();
    let old = closed.bytes("big");
    let volume = closed.vault.open(true);
    put(&volume, ROOT, "big", &big(9));
    closed.vault.close(&volume);
    drop(volume);
    let new = closed.bytes("big");
    assert_eq!(old.len(), new.len());
    // An old page at its own index, the old header and first page, all old pages under the new header.
    for range in [20 * 4096..21 * 4096, 0..4096, 4096..old.len(), 0..old.len()] {
        let mut mixed = new.clone();
        mixed[range.clone()].copy_from_slice(&old[range.clone()]);
        closed.set("big", &mixed);
        let volume = closed.vault.open(true);
        assert_eq!(get(&volume, ROOT, "big"), Err(libc::EIO), "{range:?}");
    }
    closed.set("big", &new);
    assert_eq!(get(&closed.vault.open(true), ROOT, "big").unwrap(), big(9));
}

#[test]
fn s5_a_cut_and_an_appended_file_are_refused() {
    for change in [-1i64, 1, -4096, 4096, -(150_000)] {
        let closed = Closed::new();
        let file = disk::File::options().write(true).open(&closed.at["big"]).unwrap();
        file.set_len((file.metadata().unwrap().len() as i64 + change) as u64).unwrap();
        closed.refused("big");
    }
}

#[test]
fn s7_swapped_and_moved_things_are_refused() {
    // Two files swapped.
    let closed = Closed::new();
    let (a, b) = (&closed.at["small"], &closed.at["other"]);
    let aside = closed.vault.dir.path().join("aside");
    disk::rename(a, &aside).unwrap();
    disk::rename(b, a).unwrap();
    disk::rename(&aside, b).unwrap();
    let volume = closed.vault.open(true);
    assert_eq!(get(&volume, ROOT, "small"), Err(libc::EIO));
    assert_eq!(get(&volume, ROOT, "other"), Err(libc::EIO));
    // What is told of the folder is what was there, not what lies there.
    put(&volume, ROOT, "new", b"");
    let seen = closed.vault.record(&volume);
    let root = seen.folders.iter().find(|f| f.entries.len() > 1).unwrap();
    for entry in &root.entries {
        if let (name, _, EntryId::File(file), _) = entry
            && name.as_str() == a.file_name().unwrap()
        {
            let recorded = closed.vault.book.files.lock().unwrap()[file].clone();
            assert_eq!(recorded.length, disk::metadata(b).unwrap().len(), "small is still small");
        }
    }
    // A file moved to another folder, where nothing is recorded of it.
    let closed = Closed::new();
    let to = closed.at["dir"].join(closed.at["small"].file_name().unwrap());
    disk::rename(&closed.at["small"], &to).unwrap();
    let volume = closed.vault.open(true);
    assert_eq!(get(&volume, ROOT, "small"), Err(libc::ENOENT));
    let dir = volume.lookup(ROOT, b"dir").unwrap().ino;
    assert_eq!(get(&volume, dir, "small"), Err(libc::ENOENT), "its name does not even open there");
    assert!(volume.refusals().len() >= 2, "the one that is missing, and the one that is too much");
    // A forged locator.
    let closed = Closed::new();
    let mut bytes = closed.bytes("small");
    bytes[LOCATOR.start] ^= 1;
    closed.set("small", &bytes);
    closed.refused("small");
}

#[test]
fn s8_deleted_and_resurrected_entries_are_noticed_and_never_told_as_ours() {
    let closed = Closed::new();
    let gone = disk::read(&closed.at["other"]).unwrap();
    disk::remove_file(&closed.at["small"]).unwrap();
    let volume = closed.vault.open(true);
    assert_eq!(get(&volume, ROOT, "small"), Err(libc::ENOENT));
    assert_eq!(volume.refusals().len(), 1);
    volume.unlink(ROOT, b"other").unwrap();
    let seen = closed.vault.record(&volume);
    let small = closed.at["small"].file_name().unwrap();
    assert!(
        seen.folders.iter().any(|f| f.entries.iter().any(|(name, ..)| name.as_str() == small)),
        "what somebody else removed is still in what we tell"
    );
    closed.vault.close(&volume);
    drop(volume);
    // Put back what was removed.
    disk::write(&closed.at["other"], gone).unwrap();
    let volume = closed.vault.open(true);
    assert_eq!(get(&volume, ROOT, "other"), Err(libc::ENOENT));
    assert!(!closed.at["other"].exists(), "it is in quarantine");
    assert_eq!(disk::read_dir(closed.vault.store().join("quarantine")).unwrap().count(), 1);
}

#[test]
fn s11_hostile_names_are_neither_shown_nor_followed() {
    let closed = Closed::new();
    let tree = closed.vault.store().join("tree");
    disk::write(tree.join("lost+found"), "x").unwrap();
    disk::write(tree.join(".hidden"), "x").unwrap();
    disk::write(tree.join("AAAAAAAA"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("BBBBBBBB")).unwrap();
    // A symlink in a file's place.
    disk::remove_file(&closed.at["small"]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &closed.at["small"]).unwrap();
    let volume = closed.vault.open(true);
    let handle = volume.opendir(ROOT).unwrap();
    let mut names = Vec::new();
    volume
        .readdir(ROOT, handle, 0, |_, e| {
            names.push(String::from_utf8(e.name.clone()).unwrap());
            false
        })
        .unwrap();
    names.sort();
    assert_eq!(names, [".", "..", "big", "dir", "other", "small"]);
    assert_eq!(get(&volume, ROOT, "small"), Err(libc::EIO));
    assert!(volume.refusals().len() >= 2);
    volume.unlink(ROOT, b"small").unwrap();
    assert!(disk::metadata("/etc/passwd").is_ok());
}

#[test]
fn s12_what_changed_while_it_was_mounted_is_not_signed() {
    let closed = Closed::new();
    let volume = closed.vault.open(true);
    assert_eq!(get(&volume, ROOT, "big").unwrap(), big(0));
    let ino = volume.lookup(ROOT, b"big").unwrap().ino;
    volume.open_file(ino, OpenHow { write: true, truncate: false }).unwrap();
    volume.write(ino, b"mine", 10, false).unwrap();
    volume.release(ino, true).unwrap();
    // Far from our change, somebody else's.
    let mut bytes = closed.bytes("big");
    bytes[150_000] ^= 1;
    closed.set("big", &bytes);
    let seen = closed.vault.record(&volume);
    assert_ne!(seen.files[0].root, keymgr::root::Groups::of_bytes(&bytes).root());
    bytes[150_000] ^= 1;
    assert_eq!(seen.files[0].root, keymgr::root::Groups::of_bytes(&bytes).root());
}

#[test]
fn a_folder_without_its_header_can_be_listed_and_removed() {
    let closed = Closed::new();
    for path in walk(&closed.at["dir"]) {
        if is_header(&path) {
            disk::remove_file(path).unwrap();
        }
    }
    let volume = closed.vault.open(true);
    let ino = volume.lookup(ROOT, b"dir").unwrap().ino;
    assert_eq!(volume.getattr(ino).unwrap().kind, fs::volume::Shown::Folder);
    volume.rmdir(ROOT, b"dir").unwrap();
    assert!(!closed.at["dir"].exists());
    assert!(disk::read_dir(closed.vault.store().join("quarantine")).unwrap().count() >= 1, "nothing is thrown away");
}

#[test]
fn after_a_crash_only_what_was_listed_may_differ() {
    let closed = Closed::new();
    let old = closed.bytes("big");
    let volume = closed.vault.open(true);
    let ino = volume.lookup(ROOT, b"big").unwrap().ino;
    volume.open_file(ino, OpenHow { write: true, truncate: false }).unwrap();
    volume.write(ino, &[7; 20_000], 0, false).unwrap();
    volume.release(ino, true).unwrap();
    drop(volume);
    // Killed. The attacker changes what was being written to, and what was not.
    let mut bytes = closed.bytes("big");
    bytes[170_000] ^= 1;
    closed.set("big", &bytes);
    let mut small = closed.bytes("small");
    small[300] ^= 1;
    closed.set("small", &small);
    let volume = closed.vault.open(false);
    assert_eq!(get(&volume, ROOT, "small"), Err(libc::EIO), "it was not on the list");
    let ino = volume.lookup(ROOT, b"big").unwrap().ino;
    volume.open_file(ino, OpenHow::default()).unwrap();
    let mut out = vec![0; 20_000];
    volume.read(ino, &mut out, 0).unwrap();
    assert_eq!(out, [7; 20_000], "what was being written is there");
    assert_eq!(volume.read(ino, &mut out, 165_000).unwrap_err().errno(), libc::EIO, "groups that were not listed");
    volume.release(ino, false).unwrap();
    volume.mend().unwrap();
    closed.vault.record(&volume);
    assert!(!volume.is_unmended());
    let recorded: Vec<_> = closed.vault.book.files.lock().unwrap().values().cloned().collect();
    bytes[170_000] ^= 1;
    assert!(old != bytes && recorded.iter().any(|r| r.root == keymgr::root::Groups::of_bytes(&bytes).root()));
}

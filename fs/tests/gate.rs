//! What sync does to the tree while no file operation runs, and what programs then see through a real mount.

mod common;

use std::fs as disk;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Vault, Watchdog};
use fs::observe::Observation;
use fs::records::EntryId;
use fs::volume::{OpenHow, ROOT, SetAttr, Volume, Who};
use keymgr::ids::{FileId, NodeId, StoreName};

/// Another device of the same share: what it has written is put into the first by hand.
fn other(vault: &Vault) -> Vault {
    let mut other = Vault::new();
    disk::remove_dir_all(other.store().join("tree")).unwrap();
    other.keys = vault.keys.clone();
    Volume::init(&other.store(), other.id, &other.keys).unwrap();
    other
}

fn put(volume: &Volume, parent: u64, name: &str, data: &[u8]) -> u64 {
    let ino = match volume.lookup(parent, name.as_bytes()) {
        Ok(attr) => {
            volume.open_file(attr.ino, OpenHow { write: true, truncate: true }).unwrap();
            attr.ino
        }
        Err(_) => volume.create(parent, name.as_bytes(), 0o640, Who::me()).unwrap().ino,
    };
    volume.write(ino, data, 0, false).unwrap();
    volume.release(ino, true).unwrap();
    ino
}

fn file_of(seen: &Observation) -> FileId {
    seen.files[0].file
}

fn name_in(seen: &Observation, file: FileId) -> StoreName {
    let entries = seen.folders.iter().flat_map(|f| &f.entries);
    entries.filter(|e| e.2 == EntryId::File(file)).map(|e| e.0.clone()).next().unwrap()
}

fn root(vault: &Vault) -> NodeId {
    NodeId::root_of(vault.keys.share())
}

fn place(vault: &Vault, name: &StoreName) -> PathBuf {
    vault.store().join("tree").join(name.as_str())
}

/// Waits for what the kernel is told after the gate opened.
fn soon(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it was never seen");
}

/// Puts a file of `from` into `to` as sync would: aside, then renamed, then dressed.
fn install(from: &Vault, to: &Vault, volume: &Volume, name: &StoreName, file: FileId, attrs: &[u8]) {
    let aside = to.store().join("aside");
    disk::copy(place(from, name), &aside).unwrap();
    volume.gate(|gate| {
        assert!(!gate.busy(file));
        disk::rename(&aside, place(to, name)).unwrap();
        let shown = gate.dress(&place(to, name), EntryId::File(file), attrs).unwrap();
        assert_eq!(shown, attrs, "equal attributes are equal bytes");
        gate.touched(&[root(to)], &[file]);
    });
}

#[test]
fn what_comes_from_a_peer_is_seen_through_the_mount() {
    let _watchdog = Watchdog::new(100);
    let here = Vault::new();
    let there = other(&here);
    let (volume, peer) = (here.open(true), there.open(true));
    let mount = here.mount(&volume);
    assert!(!mount.path("doc").exists(), "and the kernel remembers that");

    put(&peer, ROOT, "doc", b"one");
    let seen = there.record(&peer);
    let file = file_of(&seen);
    let name = name_in(&seen, file);
    install(&there, &here, &volume, &name, file, &seen.files[0].attrs);
    here.book.take(&seen);
    soon(|| mount.path("doc").exists());
    assert_eq!(disk::read(mount.path("doc")).unwrap(), b"one");
    let meta = disk::metadata(mount.path("doc")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o640);

    // Another content for the same file, while a program has it open for reading.
    let held = disk::File::open(mount.path("doc")).unwrap();
    put(&peer, ROOT, "doc", b"two, and longer");
    let seen = there.record(&peer);
    assert_eq!(file_of(&seen), file);
    install(&there, &here, &volume, &name, file, &seen.files[0].attrs);
    here.book.take(&seen);
    soon(|| disk::read(mount.path("doc")).unwrap() == b"two, and longer");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &held, &mut text).unwrap();
    assert_eq!(text, "one", "as with a file that is saved by rename");
    drop(held);

    // What a program holds open for writing is busy, and so is what is not recorded yet.
    let writer = disk::File::options().write(true).open(mount.path("doc")).unwrap();
    assert!(volume.gate(|gate| gate.busy(file)));
    std::io::Write::write_all(&mut &writer, b"mine").unwrap();
    drop(writer);
    assert!(volume.gate(|gate| gate.busy(file)));
    let seen = here.record(&volume);
    assert_eq!(file_of(&seen), file);
    soon(|| !volume.gate(|gate| gate.busy(file)));

    // Removed by a peer.
    volume.gate(|gate| {
        disk::remove_file(place(&here, &name)).unwrap();
        gate.touched(&[root(&here)], &[file]);
    });
    soon(|| !mount.path("doc").exists());
    mount.unmount();
    assert_eq!(volume.refusals(), []);
}

#[test]
fn a_file_that_another_replaces_stays_readable_for_who_has_it_open() {
    let _watchdog = Watchdog::new(60);
    let here = Vault::new();
    let there = other(&here);
    let (volume, peer) = (here.open(true), there.open(true));
    put(&volume, ROOT, "doc", b"mine");
    here.record(&volume);
    let mount = here.mount(&volume);
    let held = disk::File::open(mount.path("doc")).unwrap();
    put(&peer, ROOT, "doc", b"theirs");
    let seen = there.record(&peer);
    let name = name_in(&seen, file_of(&seen));
    install(&there, &here, &volume, &name, file_of(&seen), &seen.files[0].attrs);
    soon(|| disk::read(mount.path("doc")).unwrap() == b"theirs");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &held, &mut text).unwrap();
    assert_eq!(text, "mine");
    drop(held);
    mount.unmount();
}

#[test]
fn a_folder_that_sync_moves_keeps_who_is_in_it() {
    let here = Vault::new();
    let volume = here.open(true);
    let a = volume.mkdir(ROOT, b"a", 0o700, Who::me()).unwrap().ino;
    let b = volume.mkdir(ROOT, b"b", 0o700, Who::me()).unwrap().ino;
    let moved = volume.mkdir(a, b"moved", 0o700, Who::me()).unwrap().ino;
    put(&volume, moved, "f", b"f");
    let seen = here.record(&volume);
    let node = |name: &[u8], parent: u64| {
        let ino = volume.lookup(parent, name).unwrap().ino;
        seen.folders.iter().map(|f| f.node).find(|node| volume.path_of(*node).is_some_and(|(i, _)| i == ino)).unwrap()
    };
    let (node_a, node_b, node_moved) = (node(b"a", ROOT), node(b"b", ROOT), node(b"moved", a));
    let old = volume.path_of(node_moved).unwrap().1;
    let name = StoreName::parse(old.file_name().unwrap().to_str().unwrap()).unwrap();
    let (name, locator) = volume.reseal(node_a, &name, node_b, EntryId::Folder(node_moved)).unwrap();
    let new = volume.path_of(node_b).unwrap().1.join(name.as_str());
    volume.gate(|gate| {
        let header = here.store().join(&old).join(format!(".kith-{node_moved}"));
        let mut bytes = disk::read(&header).unwrap();
        bytes[240..].copy_from_slice(locator.as_bytes());
        disk::write(&header, bytes).unwrap();
        disk::rename(here.store().join(&old), here.store().join(&new)).unwrap();
        gate.touched(&[node_a, node_b], &[]);
    });
    assert_eq!(volume.lookup(b, b"moved").unwrap().ino, moved);
    assert_eq!(volume.lookup(a, b"moved").unwrap_err().errno(), libc::ENOENT);
    assert_eq!(volume.lookup(moved, b"f").unwrap().size, 1);
    put(&volume, moved, "g", b"g");
    assert_eq!(volume.refusals(), []);
}

#[test]
fn the_losers_copy_is_the_same_on_every_device() {
    let here = Vault::new();
    let there = other(&here);
    let (volume, peer) = (here.open(true), there.open(true));
    put(&volume, ROOT, "doc.txt", &vec![3; 50_000]);
    let seen = here.record(&volume);
    let file = file_of(&seen);
    let name = name_in(&seen, file);
    disk::copy(place(&here, &name), there.store().join("body")).unwrap();
    let copy = FileId::random();
    volume.copy_as(&place(&here, &name), Path::new("copy"), copy).unwrap();
    peer.copy_as(Path::new("body"), Path::new("copy"), copy).unwrap();
    assert_eq!(disk::read(here.store().join("copy")).unwrap(), disk::read(there.store().join("copy")).unwrap());
    let id = EntryId::File(copy);
    let (conflict, locator) = volume.conflict_name(root(&here), &name, id, "pi, 2026-11-28").unwrap();
    assert_eq!(peer.conflict_name(root(&here), &name, id, "pi, 2026-11-28").unwrap(), (conflict.clone(), locator));
    volume.gate(|gate| {
        let mut bytes = disk::read(here.store().join("copy")).unwrap();
        bytes[240..256].copy_from_slice(locator.as_bytes());
        disk::write(place(&here, &conflict), bytes).unwrap();
        gate.touched(&[root(&here)], &[copy]);
    });
    let ino = volume.lookup(ROOT, b"doc (conflict, pi, 2026-11-28).txt").unwrap().ino;
    volume.open_file(ino, OpenHow::default()).unwrap();
    let mut out = vec![0; 60_000];
    assert_eq!(volume.read(ino, &mut out, 0).unwrap(), 50_000);
    assert_eq!(out[..50_000], [3; 50_000]);
    volume.release(ino, false).unwrap();
}

#[test]
fn long_names_times_and_attributes_travel() {
    let here = Vault::new();
    let there = other(&here);
    let (volume, peer) = (here.open(true), there.open(true));
    let long = "n".repeat(255);
    let ino = put(&peer, ROOT, &long, b"x");
    peer.setxattr(ino, b"user.k", b"v", 0).unwrap();
    let set = SetAttr { mode: Some(0o4755), mtime: Some(1_000_000_007), ..SetAttr::default() };
    peer.setattr(ino, set).unwrap();
    let seen = there.record(&peer);
    let file = file_of(&seen);
    let name = name_in(&seen, file);
    disk::copy(place(&there, &name), place(&here, &name)).unwrap();
    let shown = volume.gate(|gate| {
        let shown = gate.dress(&place(&here, &name), EntryId::File(file), &seen.files[0].attrs).unwrap();
        assert!(gate.name(&place(&here, &name), EntryId::File(file), &seen.files[0].attrs).unwrap());
        gate.touched(&[root(&here)], &[file]);
        shown
    });
    assert_ne!(shown, seen.files[0].attrs, "setuid does not travel");
    let attr = volume.lookup(ROOT, long.as_bytes()).unwrap();
    assert_eq!((attr.mode, attr.mtime), (0o755, 1_000_000_007));
    assert_eq!(volume.getxattr(attr.ino, b"user.k").unwrap(), b"v");
}

#[test]
fn two_headers_in_one_directory_are_one_folder() {
    let here = Vault::new();
    let there = other(&here);
    let (volume, peer) = (here.open(true), there.open(true));
    // Both make the same folder, and a file of one name in it.
    let (mine, theirs) = (
        volume.mkdir(ROOT, b"dir", 0o700, Who::me()).unwrap().ino,
        peer.mkdir(ROOT, b"dir", 0o700, Who::me()).unwrap().ino,
    );
    put(&volume, mine, "same", b"mine");
    put(&volume, mine, "only mine", b"");
    put(&peer, theirs, "same", b"theirs");
    put(&peer, theirs, "only theirs", b"");
    let (seen, peers) = (here.record(&volume), there.record(&peer));
    let folder = |seen: &Observation| seen.folders.iter().find(|f| f.node != root(&here)).unwrap().node;
    let (node, other_node) = (folder(&seen), folder(&peers));
    let at = here.store().join(volume.path_of(node).unwrap().1);
    let from = there.store().join(peer.path_of(other_node).unwrap().1);
    volume.gate(|gate| {
        for entry in disk::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            disk::copy(entry.path(), at.join(entry.file_name())).unwrap();
        }
        gate.touched(&[node], &[]);
    });
    let handle = volume.opendir(mine).unwrap();
    let mut names = Vec::new();
    volume
        .readdir(mine, handle, 0, |_, e| {
            names.push(String::from_utf8(e.name.clone()).unwrap());
            false
        })
        .unwrap();
    names.sort();
    assert_eq!(names, [".", "..", "only mine", "only theirs", "same", "same (2)"]);
    let both: Vec<u64> = ["same", "same (2)"].iter().map(|n| volume.lookup(mine, n.as_bytes()).unwrap().size).collect();
    assert!(both == [4, 6] || both == [6, 4]);
    // New names are under the smallest, and all of it is told.
    put(&volume, mine, "new", b"");
    let seen = here.record(&volume);
    let told = seen.folders.iter().find(|f| f.node != root(&here)).unwrap();
    assert_eq!((told.node, told.also.as_slice()), (node.min(other_node), &[node.max(other_node)][..]));
    assert_eq!(told.entries.len(), 5);
    let new = seen.files.iter().find(|f| f.length == 4097).unwrap().file;
    let entry = told.entries.iter().find(|e| e.2 == EntryId::File(new)).unwrap();
    assert_eq!(entry.1, node.min(other_node));
    // The parent tells of both headers.
    volume.rename(ROOT, b"dir", ROOT, b"renamed", fs::store::Rename::Over).unwrap();
    let seen = here.record(&volume);
    let entries = &seen.folders.iter().find(|f| f.node == root(&here)).unwrap().entries;
    assert_eq!(entries.len(), 2);
    here.close(&volume);
    drop(volume);
    let volume = here.open(true);
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
}

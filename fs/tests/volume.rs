//! Operations through the volume's own interface, against a model in memory, also across sessions.

mod common;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use common::{Vault, Watchdog};
use fs::content::Kind;
use fs::store::Rename;
use fs::volume::ROOT;
use fs::volume::{Device, Error, OpenHow, SetAttr, Shown, Volume, Who};

/// A small generator of numbers, so that a run follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[derive(Clone, PartialEq, Debug)]
enum Thing {
    File(usize),
    Folder,
}

/// What should be there: paths, and the contents that they are links to.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, Thing>,
    contents: Vec<Vec<u8>>,
}

impl Model {
    fn children(&self, of: &str) -> impl Iterator<Item = &String> {
        self.names.keys().filter(move |name| name.starts_with(&format!("{of}/")))
    }
}

fn find(volume: &Volume, path: &str) -> Result<u64, Error> {
    let mut at = ROOT;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        at = volume.lookup(at, name.as_bytes())?.ino;
    }
    Ok(at)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap()
}

fn read(volume: &Volume, ino: u64) -> Vec<u8> {
    volume.open_file(ino, OpenHow::default()).unwrap();
    let mut out = vec![0; 1 << 17];
    let len = volume.read(ino, &mut out, 0).unwrap();
    out.truncate(len);
    volume.release(ino, false).unwrap();
    out
}

fn write(volume: &Volume, ino: u64, data: &[u8], offset: u64) {
    volume.open_file(ino, OpenHow { write: true, truncate: false }).unwrap();
    volume.write(ino, data, offset, false).unwrap();
    volume.release(ino, true).unwrap();
}

fn list(volume: &Volume, ino: u64) -> Vec<String> {
    let handle = volume.opendir(ino).unwrap();
    let mut out = Vec::new();
    let mut offset = 0;
    loop {
        let before = offset;
        volume
            .readdir(ino, handle, offset, |next, entry| {
                // Five at a time, so that reading goes on where it stopped.
                if next - before > 5 {
                    return true;
                }
                offset = next;
                out.push(String::from_utf8(entry.name.clone()).unwrap());
                false
            })
            .unwrap();
        if offset == before {
            break;
        }
    }
    volume.releasedir(handle);
    out.retain(|n| n != "." && n != "..");
    out.sort();
    out
}

fn compare(volume: &Volume, model: &Model) {
    let folders =
        std::iter::once("").chain(model.names.iter().filter(|(_, t)| **t == Thing::Folder).map(|(n, _)| n.as_str()));
    for folder in folders {
        let mut want: Vec<String> =
            model.children(folder).filter(|n| split(n).0 == folder).map(|n| split(n).1.to_owned()).collect();
        want.sort();
        assert_eq!(list(volume, find(volume, folder).unwrap()), want, "in {folder:?}");
    }
    for (name, thing) in &model.names {
        if let Thing::File(content) = thing {
            let ino = find(volume, name).unwrap();
            assert_eq!(read(volume, ino), model.contents[*content], "{name}");
            let links = model.names.values().filter(|t| *t == thing).count();
            assert_eq!(volume.getattr(ino).unwrap().links as usize, links, "{name}");
        }
    }
}

/// One operation on both.
fn step(volume: &Volume, model: &mut Model, dice: &mut Dice) {
    let folders: Vec<String> = std::iter::once(String::new())
        .chain(model.names.iter().filter(|(_, t)| **t == Thing::Folder).map(|(n, _)| n.clone()))
        .collect();
    let pick = |dice: &mut Dice| {
        let folder = &folders[dice.roll(folders.len() as u64) as usize];
        let long = "z".repeat(200);
        let name = ["a", "b", "c", "dir", &long][dice.roll(5) as usize];
        format!("{folder}/{name}")
    };
    let (path, other) = (pick(dice), pick(dice));
    let at = |path: &str| find(volume, split(path).0).unwrap();
    let name = |path: &str| split(path).1.as_bytes().to_vec();
    let there = model.names.get(&path).cloned();
    let errno = |e: Error| e.errno();
    match dice.roll(12) {
        0 | 1 => {
            let made = volume.create(at(&path), &name(&path), 0o644, Who::me());
            match there {
                Some(_) => assert_eq!(made.unwrap_err().errno(), libc::EEXIST),
                None => {
                    volume.release(made.unwrap().ino, true).unwrap();
                    model.contents.push(Vec::new());
                    model.names.insert(path, Thing::File(model.contents.len() - 1));
                }
            }
        }
        2 => {
            let made = volume.mkdir(at(&path), &name(&path), 0o755, Who::me());
            match there {
                Some(_) => assert_eq!(made.unwrap_err().errno(), libc::EEXIST),
                None => drop(model.names.insert(path, Thing::Folder)),
            }
        }
        3 => {
            let gone = volume.unlink(at(&path), &name(&path)).map_err(errno);
            match there {
                Some(Thing::File(_)) => {
                    gone.unwrap();
                    model.names.remove(&path);
                }
                Some(Thing::Folder) => assert_eq!(gone, Err(libc::EISDIR)),
                None => assert_eq!(gone, Err(libc::ENOENT)),
            }
        }
        4 => {
            let gone = volume.rmdir(at(&path), &name(&path)).map_err(errno);
            match there {
                Some(Thing::Folder) if model.children(&path).next().is_some() => assert_eq!(gone, Err(libc::ENOTEMPTY)),
                Some(Thing::Folder) => {
                    gone.unwrap();
                    model.names.remove(&path);
                }
                Some(Thing::File(_)) => assert_eq!(gone, Err(libc::ENOTDIR)),
                None => assert_eq!(gone, Err(libc::ENOENT)),
            }
        }
        5 => {
            if let Some(Thing::File(content)) = there {
                let linked = volume.link(find(volume, &path).unwrap(), at(&other), &name(&other)).map_err(errno);
                match model.names.entry(other) {
                    Entry::Occupied(_) => assert_eq!(linked.unwrap_err(), libc::EEXIST),
                    Entry::Vacant(free) => {
                        linked.unwrap();
                        free.insert(Thing::File(content));
                    }
                }
            }
        }
        6..8 => rename(volume, model, dice, &path, &other),
        8 => {
            if let Some(Thing::File(content)) = there {
                let size = dice.roll(30_000);
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                volume.setattr(find(volume, &path).unwrap(), set).unwrap();
                model.contents[content].resize(size as usize, 0);
            }
        }
        _ => {
            if let Some(Thing::File(content)) = there {
                let (offset, len) = (dice.roll(20_000), dice.roll(9000));
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8).collect();
                write(volume, find(volume, &path).unwrap(), &data, offset);
                let bytes = &mut model.contents[content];
                if !data.is_empty() {
                    let end = (offset + len) as usize;
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[offset as usize..end].copy_from_slice(&data);
                }
            }
        }
    }
}

fn rename(volume: &Volume, model: &mut Model, dice: &mut Dice, from: &str, to: &str) {
    // The kernel refuses to move a folder into itself before a file system is asked.
    if format!("{to}/").starts_with(&format!("{from}/")) || format!("{from}/").starts_with(&format!("{to}/")) {
        return;
    }
    let how = [Rename::Over, Rename::NoReplace, Rename::Exchange][dice.roll(3) as usize];
    let (parent, new_parent) = (find(volume, split(from).0).unwrap(), find(volume, split(to).0).unwrap());
    let done = volume.rename(parent, split(from).1.as_bytes(), new_parent, split(to).1.as_bytes(), how);
    let done = done.map_err(|e| e.errno());
    let (source, target) = (model.names.get(from).cloned(), model.names.get(to).cloned());
    let is_empty = |model: &Model| model.children(to).next().is_none();
    match (source, target, how) {
        (None, ..) | (_, None, Rename::Exchange) => return assert_eq!(done, Err(libc::ENOENT)),
        (Some(_), Some(_), Rename::NoReplace) => return assert_eq!(done, Err(libc::EEXIST)),
        (Some(_), Some(_), Rename::Exchange) => {}
        (Some(a), Some(b), _) if a == b && a != Thing::Folder => return done.unwrap(),
        (Some(Thing::File(_)), Some(Thing::Folder), _) => return assert_eq!(done, Err(libc::EISDIR)),
        (Some(Thing::Folder), Some(Thing::File(_)), _) => return assert_eq!(done, Err(libc::ENOTDIR)),
        (_, Some(Thing::Folder), _) if !is_empty(model) => return assert_eq!(done, Err(libc::ENOTEMPTY)),
        _ => {}
    }
    done.unwrap();
    let names = std::mem::take(&mut model.names);
    for (name, thing) in names {
        let under = |dir: &str| name.strip_prefix(dir).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some(rest) = under(from) {
            model.names.insert(format!("{to}{rest}"), thing);
        } else if let Some(rest) = under(to) {
            if how == Rename::Exchange {
                model.names.insert(format!("{from}{rest}"), thing);
            }
        } else {
            model.names.insert(name, thing);
        }
    }
}

#[test]
fn random_operations_leave_what_a_model_says() {
    let _watchdog = Watchdog::new(110);
    for seed in 0..6 {
        let vault = Vault::new();
        let mut model = Model::default();
        let mut dice = Dice(seed);
        for _ in 0..4 {
            let volume = vault.open(true);
            for _ in 0..60 {
                step(&volume, &mut model, &mut dice);
                if dice.roll(15) == 0 {
                    vault.record(&volume);
                }
            }
            compare(&volume, &model);
            vault.close(&volume);
            drop(volume);
            let volume = vault.open(true);
            compare(&volume, &model);
            assert_eq!(volume.fsck(false, |_| ()).unwrap(), [], "seed {seed}");
            assert_eq!(volume.refusals(), [], "seed {seed}");
        }
    }
}

#[test]
fn what_a_killed_session_left_is_mended_and_recorded() {
    let _watchdog = Watchdog::new(110);
    for seed in 100..106 {
        let vault = Vault::new();
        let mut model = Model::default();
        let mut dice = Dice(seed);
        let mut clean = true;
        for round in 0..4 {
            let volume = vault.open(clean);
            if !clean {
                compare(&volume, &model);
                volume.mend().unwrap();
                vault.record(&volume);
                assert!(!volume.is_unmended());
            }
            for _ in 0..50 {
                step(&volume, &mut model, &mut dice);
                if dice.roll(20) == 0 {
                    vault.record(&volume);
                }
            }
            assert_eq!(volume.refusals(), [], "seed {seed}, round {round}");
            // Killed here: nothing of this session's end happens.
            clean = false;
        }
        let volume = vault.open(false);
        volume.mend().unwrap();
        vault.close(&volume);
        drop(volume);
        let volume = vault.open(true);
        assert_eq!(volume.fsck(false, |_| ()).unwrap(), [], "seed {seed}");
        compare(&volume, &model);
    }
}

#[test]
fn attributes_of_all_kinds_come_back_and_are_recorded() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let disk = Device { major: 259, minor: 70_000 };
    volume.mknod(ROOT, b"disk", Kind::Block, 0o660, disk, Who::me()).unwrap();
    let ino = volume.mknod(ROOT, b"pipe", Kind::Fifo, 0o620, Device::default(), Who::me()).unwrap().ino;
    volume.setxattr(ino, b"user.a", b"1", libc::XATTR_CREATE).unwrap();
    assert_eq!(volume.setxattr(ino, b"user.a", b"2", libc::XATTR_CREATE).unwrap_err().errno(), libc::EEXIST);
    assert_eq!(volume.setxattr(ino, b"user.b", b"2", libc::XATTR_REPLACE).unwrap_err().errno(), libc::ENODATA);
    assert_eq!(volume.setxattr(ino, b"system.other", b"", 0).unwrap_err().errno(), libc::EOPNOTSUPP);
    volume.setxattr(ino, b"user.b", b"2", 0).unwrap();
    volume.removexattr(ino, b"user.a").unwrap();
    volume.setattr(ino, SetAttr { mode: Some(0o111), mtime: Some(-5), ..SetAttr::default() }).unwrap();
    let seen = vault.record(&volume);
    assert_eq!((seen.files.len(), seen.folders.len()), (2, 1));
    assert!(vault.record(&volume).is_empty(), "nothing changed since");
    volume.setattr(ino, SetAttr { mode: Some(0o711), ..SetAttr::default() }).unwrap();
    let again = vault.record(&volume);
    assert_eq!((again.files.len(), again.folders.len()), (1, 0));
    let before = seen.files.iter().find(|f| f.file == again.files[0].file).unwrap();
    assert_eq!(again.files[0].root, before.root, "a chmod changes no content");
    assert_ne!(again.files[0].attrs, before.attrs);
    vault.close(&volume);
    let volume = vault.open(true);
    let attr = volume.lookup(ROOT, b"disk").unwrap();
    assert_eq!((attr.kind, attr.device, attr.size), (Shown::Block, disk, 0));
    let attr = volume.lookup(ROOT, b"pipe").unwrap();
    assert_eq!((attr.mode, attr.mtime), (0o711, -5));
    assert_eq!(volume.listxattr(attr.ino).unwrap(), [b"user.b"]);
    assert_eq!(volume.getxattr(attr.ino, b"user.b").unwrap(), b"2");
}

#[test]
fn a_path_that_is_too_long_for_one_call_when_it_is_sealed_is_walked() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let name = [b'n'; 120];
    let mut at = ROOT;
    for _ in 0..33 {
        at = volume.mkdir(at, &name, 0o700, Who::me()).unwrap().ino;
    }
    let ino = volume.create(at, b"deep", 0o600, Who::me()).unwrap().ino;
    volume.write(ino, b"deep down", 0, false).unwrap();
    volume.fsync(ino, false).unwrap();
    volume.release(ino, true).unwrap();
    volume.rename(at, b"deep", at, b"down", fs::store::Rename::NoReplace).unwrap();
    assert_eq!(vault.record(&volume).folders.len(), 34);
    vault.close(&volume);
    let volume = vault.open(true);
    let mut at = ROOT;
    for _ in 0..33 {
        at = volume.lookup(at, &name).unwrap().ino;
    }
    let mut read = [0; 9];
    let ino = volume.lookup(at, b"down").unwrap().ino;
    assert_eq!(volume.read(ino, &mut read, 0).unwrap(), 9);
    assert_eq!(&read, b"deep down");
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
}

#[test]
fn an_observation_tells_of_changes_once_and_only_of_changed_groups() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let ino = volume.create(ROOT, b"big", 0o600, Who::me()).unwrap().ino;
    volume.write(ino, &vec![1; 1 << 20], 0, false).unwrap();
    let early = volume.observe().unwrap();
    assert!(early.files.is_empty(), "it is being written still");
    assert!(early.folders.iter().all(|f| f.entries.is_empty()), "nor is its name told");
    volume.release(ino, true).unwrap();
    let first = vault.record(&volume);
    assert_eq!((first.files.len(), first.folders.len()), (1, 1));
    assert_eq!(first.files[0].changed.len(), first.files[0].groups.len());
    write(&volume, ino, b"x", 500_000);
    let second = volume.observe().unwrap();
    assert_eq!((second.files.len(), second.folders.len()), (1, 0));
    assert_eq!(second.files[0].changed.len(), 1);
    // What changes between an observation and its record is in the next one.
    write(&volume, ino, b"y", 900_000);
    vault.book.take(&second);
    volume.recorded(&second);
    assert!(volume.is_dirty());
    let third = vault.record(&volume);
    assert_eq!(third.files[0].changed.len(), 1);
    // An observation that was never recorded comes again.
    write(&volume, ino, b"z", 100);
    let lost = volume.observe().unwrap();
    write(&volume, ino, b"z", 300_000);
    let both = vault.record(&volume);
    assert_eq!((lost.files[0].changed.len(), both.files[0].changed.len()), (1, 2));
    let bytes = std::fs::read(vault.store().join(find_cipher(&vault))).unwrap();
    assert_eq!(keymgr::root::Groups::of_bytes(&bytes).root(), both.files[0].root);
}

fn find_cipher(vault: &Vault) -> std::path::PathBuf {
    let tree = std::fs::read_dir(vault.store().join("tree")).unwrap();
    let mut names = tree.map(|e| e.unwrap().file_name()).filter(|n| !n.to_string_lossy().starts_with('.'));
    std::path::Path::new("tree").join(names.next().unwrap())
}

#[test]
fn saving_by_rename_is_one_observation() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let old = volume.create(ROOT, b"doc", 0o600, Who::me()).unwrap().ino;
    volume.write(old, b"old", 0, false).unwrap();
    volume.release(old, true).unwrap();
    vault.record(&volume);
    let new = volume.create(ROOT, b"doc.tmp", 0o600, Who::me()).unwrap().ino;
    volume.write(new, b"new", 0, false).unwrap();
    volume.rename(ROOT, b"doc.tmp", ROOT, b"doc", Rename::Over).unwrap();
    let early = volume.observe().unwrap();
    assert!(early.is_empty(), "a name that an unfinished file took over waits for it");
    volume.release(new, true).unwrap();
    let seen = vault.record(&volume);
    assert_eq!((seen.files.len(), seen.folders.len()), (1, 1));
    assert_eq!(seen.folders[0].entries.len(), 1);
    assert_eq!(read(&volume, new), b"new");
}

#[test]
fn a_read_only_volume_changes_nothing() {
    let vault = Vault::new();
    let volume = vault.open(true);
    let ino = volume.create(ROOT, b"a", 0o600, Who::me()).unwrap().ino;
    volume.release(ino, true).unwrap();
    vault.close(&volume);
    let o = fs::volume::OpenOptions { clean: true, read_only: true, ..Default::default() };
    let volume =
        Volume::open(&vault.store(), vault.id, vault.keys.clone(), vault.book.clone(), vault.ear.clone(), o).unwrap();
    let ino = volume.lookup(ROOT, b"a").unwrap().ino;
    let how = OpenHow { write: true, truncate: false };
    for result in [
        volume.open_file(ino, how),
        volume.unlink(ROOT, b"a"),
        volume.rename(ROOT, b"a", ROOT, b"b", Rename::Over),
        volume.create(ROOT, b"c", 0o600, Who::me()).map(drop),
        volume.setattr(ino, SetAttr::default()).map(drop),
    ] {
        assert_eq!(result.unwrap_err().errno(), libc::EROFS);
    }
    assert_eq!(read(&volume, ino), b"");
}

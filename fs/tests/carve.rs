//! A folder becomes a share of its own, on a real disk and under a real mount.

mod common;

use std::collections::HashMap;
use std::fs as disk;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Book, Ear, Vault, Watchdog, run};
use fs::content::Kind;
use fs::format::header::{FolderHeader, Header};
use fs::format::name::Names;
use fs::mount::Forest;
use fs::records::EntryId;
use fs::volume::carve::{Carving, settle_shares};
use fs::volume::{Error, OpenHow, OpenOptions as VolumeOptions, ROOT, Volume, Who};
use keymgr::ids::{Epoch, FileId, NodeId, Root, ShareId, StoreName};
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;

/// The share that a folder of a vault becomes.
struct Coming {
    keys: ShareKeys,
    book: Arc<Book>,
    ear: Arc<Ear>,
    shares: PathBuf,
}

impl Coming {
    fn of(vault: &Vault) -> Self {
        let shares = vault.store().join("shares");
        disk::create_dir(&shares).unwrap();
        Self { keys: ShareKeys::create(ShareId::random()), book: Arc::default(), ear: Arc::default(), shares }
    }

    fn store(&self) -> PathBuf {
        self.shares.join(self.keys.share().to_string())
    }

    fn carve(&self, volume: &Volume, folder: &[u8]) -> Carving {
        let folder = volume.lookup(ROOT, folder).unwrap().ino;
        volume.carve(folder, &self.store().with_extension("new"), &self.keys, |_| true).unwrap()
    }

    fn open(&self, vault: &Vault) -> Volume {
        let o = VolumeOptions { clean: true, ..VolumeOptions::default() };
        let (book, ear) = (self.book.clone(), self.ear.clone());
        let volume = Volume::open(&self.store(), vault.id, self.keys.clone(), book, ear, o).unwrap();
        volume.adopt().unwrap();
        volume
    }

    fn record(&self, volume: &Volume) -> fs::observe::Observation {
        let mut all = fs::observe::Observation::default();
        for _ in 0..5 {
            let seen = volume.observe().unwrap();
            self.book.take(&seen);
            volume.recorded(&seen);
            all.files.extend(seen.files);
            all.folders.extend(seen.folders);
        }
        assert!(!volume.is_dirty() && !volume.is_unmended());
        assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
        assert_eq!(self.ear.refusals.lock().unwrap().as_slice(), []);
        all
    }
}

fn sample(at: &Path) {
    disk::create_dir_all(at.join("a/b")).unwrap();
    disk::write(at.join("hello"), "hello").unwrap();
    disk::write(at.join("a/empty"), "").unwrap();
    disk::write(at.join("a/big"), (0..700_000u32).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>()).unwrap();
    disk::write(at.join("a/b").join("l".repeat(250)), "a long name").unwrap();
    disk::create_dir(at.join("x".repeat(255))).unwrap();
    disk::hard_link(at.join("hello"), at.join("a/b/link")).unwrap();
    std::os::unix::fs::symlink("../hello", at.join("a/b/symlink")).unwrap();
    run("mkfifo", &["a/fifo"], at);
    let sparse = File::create(at.join("a/sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    sparse.write_all_at(b"data", 30_000_000).unwrap();
    drop(sparse);
    run("chmod", &["4711", "a/big"], at);
    run("chmod", &["0400", "a/empty"], at);
    run("chmod", &["1777", "a/b"], at);
    run("setfattr", &["-n", "user.note", "-v", "something", "hello"], at);
    run("setfattr", &["-n", "user.folder", "-v", "else", "a"], at);
    run("setfattr", &["-n", "user.top", "-v", "share", "."], at);
    run("touch", &["-d", "2001-02-03 04:05:06.789", "hello", "a/b", "a"], at);
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let diff = run("rsync", &["-anciHAX", "--delete", &a, &b], Path::new("/"));
    assert_eq!(diff.trim(), "");
}

/// Headers of all ciphertext files and folders below, by path.
fn headers(at: &Path) -> HashMap<PathBuf, [u8; 256]> {
    let mut out = HashMap::new();
    for entry in disk::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            out.extend(headers(&entry.path()));
        } else if !entry.file_name().to_string_lossy().starts_with(".kith-name-") {
            let mut bytes = [0; 256];
            File::open(entry.path()).unwrap().read_exact(&mut bytes).unwrap();
            out.insert(entry.path(), bytes);
        }
    }
    out
}

#[test]
fn a_folder_becomes_a_share_while_programs_use_it() {
    let _watchdog = Watchdog::new(100);
    let vault = Vault::new();
    let plain = vault.dir.path().join("plain");
    disk::create_dir(&plain).unwrap();
    sample(&plain);
    let new = Coming::of(&vault);
    let volume = vault.open(true);
    let forest = Forest::new(volume.clone());
    let mount = vault.mount_forest(&forest);
    run("cp", &["-a", &plain.to_string_lossy(), "Photos"], &mount.at);
    disk::write(mount.path("beside"), "stays").unwrap();
    let before = vault.record(&volume);
    let nested = ShareId::random();
    let folder = forest.find(Path::new("Photos/a")).unwrap();
    volume.make_junction(folder.ino, b"nested", nested).unwrap();
    vault.record(&volume);

    // A program has a file open: later.
    let writer = OpenOptions::new().append(true).open(mount.path("Photos/hello")).unwrap();
    let why = new.carve(&volume, b"Photos").commit(|| ()).unwrap_err();
    assert!(matches!(&why, Error::Busy { path, .. } if path.starts_with("Photos")), "{why}");
    drop(writer);
    assert_eq!(disk::read_dir(&new.shares).unwrap().count(), 0, "what was made is gone");

    // What changes between the beginning and the end.
    let mut carving = new.carve(&volume, b"Photos");
    for at in [mount.path("Photos"), plain.clone()] {
        disk::rename(at.join("a/big"), at.join("a/b/bigger")).unwrap();
        disk::rename(at.join("a/b"), at.join("c")).unwrap();
        disk::remove_file(at.join("a/fifo")).unwrap();
        disk::write(at.join("a/fifo"), "another kind under the same name").unwrap();
        OpenOptions::new().write(true).open(at.join("a/sparse")).unwrap().write_all_at(b"more", 70_000).unwrap();
        run("setfattr", &["-n", "user.note", "-v", "changed", "hello"], &at);
        run("setfattr", &["-x", "user.folder", "a"], &at);
        run("touch", &["-d", "2011-02-03 04:05:06", "a", "a/sparse", "a/fifo", "c", "."], &at);
    }
    let mut reader = File::open(mount.path("Photos/hello")).unwrap();
    let (at, done) = (mount.path("Photos/c/link"), Arc::new(AtomicBool::new(false)));
    let stop = done.clone();
    let looker = std::thread::spawn(move || {
        let mut times = 0;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(disk::read_to_string(&at).unwrap(), "hello");
            let names: Vec<_> = disk::read_dir(at.parent().unwrap()).unwrap().collect();
            let inos: Vec<_> = names.iter().map(|e| std::os::unix::fs::DirEntryExt::ino(e.as_ref().unwrap())).collect();
            assert!(names.len() == 4 && names.iter().all(Result::is_ok), "{inos:x?} {times}");
            times += 1;
        }
        times
    });
    let mut share = None;
    let carved = loop {
        // The kernel closes what was open a moment after the program did.
        let shown = || {
            // What programs that read by path find at any time is the folder or the share.
            let volume = new.open(&vault);
            forest.add(vault.keys.share(), volume.clone()).unwrap();
            forest.reparent(nested, volume.share());
            share = Some(volume);
        };
        match carving.commit(shown) {
            Ok(carved) => break carved,
            Err(Error::Busy { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
            Err(e) => panic!("{e}"),
        }
    };
    drop(carving);
    for _ in 0..10 {
        assert_eq!(disk::read_to_string(mount.path("Photos/hello")).unwrap(), "hello");
    }
    done.store(true, Ordering::Relaxed);
    assert!(looker.join().unwrap() > 0);
    assert_eq!(carved.share, new.keys.share());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello", "who has it open reads on");
    drop(reader);
    assert!(vault.store().join("versions/trash").join(carved.share.to_string()).is_dir());

    // The parent tells of a junction where the folder was, in one observation.
    let seen = volume.observe().unwrap();
    let junction = FileId::from_bytes(*carved.share.as_bytes());
    assert_eq!(seen.files.iter().map(|f| (f.file, f.kind)).collect::<Vec<_>>(), [(junction, Kind::Share)]);
    assert_eq!(seen.folders.len(), 1);
    assert!(seen.folders[0].entries.iter().any(|e| e.2 == EntryId::File(junction)));
    vault.book.take(&seen);
    volume.recorded(&seen);
    assert!(!volume.is_dirty());

    let share = share.unwrap();
    let photos = mount.path("Photos");
    same(&plain, &photos);
    let seen = new.record(&share);
    assert!(share.junction(nested).is_some());

    // Files and folders are those of before, and of those that did not change only the first group has.
    let roots: HashMap<FileId, Root> = before.files.iter().map(|f| (f.file, f.root)).collect();
    let mut kept = 0;
    for file in &carved.files {
        let observed = seen.files.iter().find(|f| f.file == file.file).unwrap();
        assert_eq!((observed.root, observed.length), (file.root, file.length));
        if file.before.is_some() && file.before == roots.get(&file.file).copied() {
            assert_eq!(file.changed.first(), Some(&0));
            kept += usize::from(file.changed == [0]);
        }
    }
    assert!(kept >= 5, "{kept}");
    let nodes = |folders: &[fs::observe::ObservedFolder]| folders.iter().map(|f| f.node).collect::<Vec<_>>();
    let old = nodes(&before.folders);
    for node in nodes(&seen.folders) {
        assert!(node == NodeId::root_of(carved.share) || old.contains(&node));
    }

    // No name or header opens with the old keys, all do with the new ones alone.
    for (path, bytes) in headers(&new.store().join("tree")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_folder = name.starts_with(".kith-");
        let opens = |keys: &ShareKeys| match is_folder {
            true => FolderHeader::open(keys, &bytes).is_ok(),
            false => Header::open(keys, &bytes).is_ok(),
        };
        assert!(opens(&new.keys) && !opens(&vault.keys), "{name}");
        if let Ok(name) = StoreName::parse(name)
            && !is_folder
        {
            let opened = old.iter().any(|node| Names::new(&vault.keys, node).open(&name, None).is_ok());
            assert!(!opened, "{name}");
        }
    }

    // What is written now is under the new key: a holder of the former page keys cannot open it.
    disk::write(photos.join("new"), "only for members").unwrap();
    let file = OpenOptions::new().write(true).open(photos.join("hello")).unwrap();
    file.write_all_at(b"HELLO", 0).unwrap();
    drop(file);
    assert_eq!(disk::read_to_string(photos.join("hello")).unwrap(), "HELLO");
    mount.unmount();
    new.record(&share);
    let tag = fs::format::tag::EpochTag::current(&new.keys).0;
    let hello = share.lookup(ROOT, b"hello").unwrap().ino;
    let changed = headers(&new.store().join("tree"));
    let sealed: Vec<_> =
        changed.keys().filter(|path| disk::read(path).unwrap().get(256 + 28..256 + 32) == Some(&tag)).collect();
    assert!(sealed.len() >= 2, "{sealed:?}");
    assert_eq!(share.getattr(hello).unwrap().size, 5);
    vault.close(&volume);
    assert_eq!(vault.ear.refusals.lock().unwrap().as_slice(), []);
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);

    // What was kept of the folder goes after a while.
    volume.empty_trash(std::time::Duration::from_secs(3600)).unwrap();
    assert_eq!(disk::read_dir(vault.store().join("versions/trash")).unwrap().count(), 1);
    volume.empty_trash(std::time::Duration::ZERO).unwrap();
    assert_eq!(disk::read_dir(vault.store().join("versions/trash")).unwrap().count(), 0);
    settle_shares(&new.shares, |_| None).unwrap();
    assert!(new.store().exists());
}

#[test]
fn a_file_with_a_name_outside_becomes_another_and_pages_under_many_keys_are_sealed_anew() {
    let mut vault = Vault::new();
    let new = Coming::of(&vault);
    let volume = vault.open(true);
    let folder = volume.mkdir(ROOT, b"d", 0o755, Who::me()).unwrap().ino;
    let put = |parent: u64, name: &[u8], data: &[u8]| {
        let ino = volume.create(parent, name, 0o600, Who::me()).unwrap().ino;
        volume.write(ino, data, 0, false).unwrap();
        volume.release(ino, true).unwrap();
        ino
    };
    let linked = put(folder, b"linked", &[1; 5000]);
    volume.link(linked, ROOT, b"outside").unwrap();
    volume.link(linked, folder, b"twice").unwrap();
    let aged = put(folder, b"aged", &[2; 40_000]);
    put(folder, b"young", &[3; 9000]);
    // Five keys in one file: more than a header holds.
    for epoch in 2..=5u32 {
        vault.keys.insert(Epoch(epoch), Secret32::random());
        volume.rekey(vault.keys.clone());
        volume.open_file(aged, OpenHow { write: true, truncate: false }).unwrap();
        volume.write(aged, &[epoch as u8; 10], u64::from(epoch) * 5000, false).unwrap();
        volume.release(aged, true).unwrap();
    }
    let before = vault.record(&volume);
    let id = |ino: u64, volume: &Volume| {
        let seen = volume.getattr(ino).unwrap().size;
        before.files.iter().rev().find(|f| fs::format::length::to_size(f.length) == seen).unwrap().file
    };
    let (linked, aged) = (id(linked, &volume), id(aged, &volume));
    let carved = new.carve(&volume, b"d").commit(|| ()).unwrap();
    vault.record(&volume);
    assert!(carved.files.iter().all(|f| f.file != linked));
    let of = |file: FileId| carved.files.iter().find(|f| f.file == file).unwrap();
    assert_eq!(of(aged).changed, [0, 1, 2]);
    let share = new.open(&vault);
    new.record(&share);
    let read = |volume: &Volume, name: &[u8]| {
        let ino = volume.lookup(ROOT, name).unwrap().ino;
        volume.open_file(ino, OpenHow::default()).unwrap();
        let mut out = vec![0; 50_000];
        let len = volume.read(ino, &mut out, 0).unwrap();
        volume.release(ino, false).unwrap();
        out.truncate(len);
        out
    };
    let mut want = vec![2; 40_000];
    (2..=5usize).for_each(|epoch| want[epoch * 5000..epoch * 5000 + 10].fill(epoch as u8));
    assert!(read(&share, b"aged") == want);
    assert_eq!(read(&share, b"young"), [3; 9000]);
    assert_eq!((read(&share, b"linked"), read(&volume, b"outside")), (vec![1; 5000], vec![1; 5000]));
    let links = |volume: &Volume, name: &[u8]| volume.lookup(ROOT, name).unwrap();
    assert_eq!(links(&share, b"linked").ino, links(&share, b"twice").ino);
    assert_eq!(links(&share, b"linked").links, 2);
    // The one outside is still its parent's, to be changed there.
    let outside = links(&volume, b"outside").ino;
    volume.open_file(outside, OpenHow { write: true, truncate: true }).unwrap();
    volume.write(outside, b"changed", 0, false).unwrap();
    volume.release(outside, true).unwrap();
    let seen = vault.record(&volume);
    assert_eq!(seen.files.last().unwrap().file, linked);
    assert_eq!(read(&share, b"linked"), [1; 5000]);
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
}

#[test]
fn what_cannot_become_a_share_says_so() {
    let vault = Vault::new();
    let new = Coming::of(&vault);
    let volume = vault.open(true);
    let folder = volume.mkdir(ROOT, b"d", 0o755, Who::me()).unwrap().ino;
    for name in ["1", "2", "3"] {
        volume
            .create(folder, name.as_bytes(), 0o600, Who::me())
            .map(|of| volume.release(of.ino, true))
            .unwrap()
            .unwrap();
    }
    volume.make_junction(folder, b"nested", ShareId::random()).unwrap();
    vault.record(&volume);
    let at = new.store().with_extension("new");
    let carve = |ino: u64, each: &mut dyn FnMut(usize) -> bool| {
        volume.carve(ino, &at, &new.keys, each).map(drop).unwrap_err().errno()
    };
    let file = volume.lookup(folder, b"1").unwrap().ino;
    let junction = volume.lookup(folder, b"nested").unwrap().ino;
    assert_eq!(carve(ROOT, &mut |_| true), libc::EINVAL);
    assert_eq!(carve(file, &mut |_| true), libc::ENOTDIR);
    assert_eq!(carve(junction, &mut |_| true), libc::EROFS);
    // Interrupted, in the middle; what it left is nobody's at the next start.
    let mut heard = 0;
    let stopped = carve(folder, &mut |done| {
        heard = done;
        done < 2
    });
    assert_eq!((stopped, heard), (libc::EINTR, 2));
    assert!(!at.exists());
    disk::create_dir_all(at.join("tree/left")).unwrap();
    settle_shares(&new.shares, |_| None).unwrap();
    assert_eq!(disk::read_dir(&new.shares).unwrap().count(), 0);
    // One at a time.
    let first = volume.carve(folder, &at, &new.keys, |_| true).unwrap();
    assert_eq!(carve(folder, &mut |_| true), libc::EBUSY);
    drop(first);
    // Two ways at once: the second finds the name of the share taken.
    let mut twice = volume.carve(folder, &at, &new.keys, |_| true).unwrap();
    disk::create_dir(new.store()).unwrap();
    assert_eq!(twice.commit(|| panic!()).unwrap_err().errno(), libc::EEXIST);
    disk::remove_dir(new.store()).unwrap();
    twice.commit(|| ()).unwrap();
    drop(twice);
    assert_eq!(carve(folder, &mut |_| true), libc::ESTALE);
    // Damage is not made another share's.
    let folder = volume.mkdir(ROOT, b"e", 0o755, Who::me()).unwrap().ino;
    let ino = volume.create(folder, b"f", 0o600, Who::me()).unwrap().ino;
    volume.write(ino, &[1; 9000], 0, false).unwrap();
    volume.release(ino, true).unwrap();
    vault.close(&volume);
    drop(volume);
    let volume = vault.open(true);
    let big =
        headers(&vault.store().join("tree")).into_keys().find(|p| disk::metadata(p).unwrap().len() > 9000).unwrap();
    File::options().write(true).open(big).unwrap().write_all_at(b"damage", 6000).unwrap();
    let folder = volume.lookup(ROOT, b"e").unwrap().ino;
    let keys = ShareKeys::create(ShareId::random());
    let why = volume.carve(folder, &new.shares.join("x.new"), &keys, |_| true).map(drop).unwrap_err();
    assert!(why.is_damage(), "{why}");
}

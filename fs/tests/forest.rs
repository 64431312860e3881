//! Several volumes in one mount, used by real programs: what lies behind a junction is another share.

mod common;

use std::collections::HashSet;
use std::fs as disk;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::{Mount, Vault, Watchdog, run};
use fs::mount::Forest;
use fs::volume::{OpenOptions as VolumeOptions, ROOT, Shown, Volume, Who};

fn errno<T>(result: io::Result<T>) -> i32 {
    result.map(drop).unwrap_err().raw_os_error().unwrap()
}

/// A root share, and two others: `outer`, whose junction is `d/outer` of the root, and `inner`, within it.
struct Shares {
    root: Vault,
    outer: Vault,
    inner: Vault,
    volumes: [Volume; 3],
    forest: Forest,
    _watchdog: Watchdog,
}

impl Shares {
    fn new() -> Self {
        let watchdog = Watchdog::new(100);
        let (root, outer, inner) = (Vault::new(), Vault::new(), Vault::new());
        let volumes = [root.open(true), outer.open(true), inner.open(true)];
        let folder = volumes[0].mkdir(ROOT, b"d", 0o755, Who::me()).unwrap().ino;
        volumes[0].make_junction(folder, b"outer", volumes[1].share()).unwrap();
        volumes[1].make_junction(ROOT, b"inner", volumes[2].share()).unwrap();
        let forest = Forest::new(volumes[0].clone());
        Self { root, outer, inner, volumes, forest, _watchdog: watchdog }
    }

    fn mount(&self) -> Mount {
        self.forest.add(self.volumes[0].share(), self.volumes[1].clone()).unwrap();
        self.forest.add(self.volumes[1].share(), self.volumes[2].clone()).unwrap();
        self.root.mount_forest(&self.forest)
    }

    fn close(&self) {
        for (vault, volume) in [&self.root, &self.outer, &self.inner].into_iter().zip(&self.volumes) {
            vault.close(volume);
            assert_eq!(vault.ear.refusals.lock().unwrap().as_slice(), []);
            assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
        }
    }
}

#[test]
fn what_lies_behind_a_junction_is_the_other_shares() {
    let shares = Shares::new();
    let mount = shares.mount();
    disk::write(mount.path("here"), "root").unwrap();
    disk::write(mount.path("d/outer/there"), "outer").unwrap();
    disk::create_dir_all(mount.path("d/outer/inner/a/b")).unwrap();
    disk::write(mount.path("d/outer/inner/a/b/deep"), "inner").unwrap();
    assert_eq!(disk::read_to_string(mount.path("d/outer/inner/a/b/deep")).unwrap(), "inner");
    assert_eq!(run("find", &[".", "-type", "f"], &mount.at).lines().count(), 3);
    assert_eq!(disk::canonicalize(mount.path("d/outer/inner/a/../../..")).unwrap(), mount.path("d"));

    // Name and place are the junction's, attributes the share's own.
    disk::set_permissions(mount.path("d/outer"), Permissions::from_mode(0o711)).unwrap();
    run("setfattr", &["-n", "user.note", "-v", "something", "d/outer"], &mount.at);
    assert_eq!(shares.volumes[1].getattr(ROOT).unwrap().mode, 0o711);
    assert_eq!(shares.volumes[1].getxattr(ROOT, b"user.note").unwrap(), b"something");

    // Each inode number stands for one file, with and without looking names up first.
    let mut inodes = HashSet::new();
    for line in run("find", &[".", "-printf", "%i %D %p\n"], &mount.at).lines() {
        assert!(inodes.insert(line.split(' ').next().unwrap().to_owned()), "{line}");
    }
    assert_eq!(inodes.len(), 9);
    for entry in disk::read_dir(mount.path("d")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), disk::metadata(entry.path()).unwrap().ino());
        assert!(entry.file_type().unwrap().is_dir());
    }

    // A junction cannot be removed; it is renamed, and what is open behind it stays so.
    assert_eq!(errno(disk::remove_dir(mount.path("d/outer/inner"))), libc::EBUSY);
    assert_eq!(errno(disk::remove_dir(mount.path("d/outer"))), libc::EBUSY);
    disk::create_dir(mount.path("empty")).unwrap();
    assert_eq!(errno(disk::rename(mount.path("empty"), mount.path("d/outer"))), libc::EBUSY);
    assert_eq!(errno(disk::remove_dir(mount.path("d"))), libc::ENOTEMPTY);
    let mut open = OpenOptions::new().append(true).open(mount.path("d/outer/there")).unwrap();
    disk::rename(mount.path("d/outer"), mount.path("empty/Pictures")).unwrap();
    open.write_all(b", still").unwrap();
    drop(open);
    assert_eq!(disk::read_to_string(mount.path("empty/Pictures/there")).unwrap(), "outer, still");
    assert_eq!(errno(disk::metadata(mount.path("d/outer"))), libc::ENOENT);
    assert_eq!(errno(disk::rename(mount.path("empty"), mount.path("empty/Pictures/loop"))), libc::EINVAL);

    // Where a path leads, for whoever must know the share.
    let at = shares.forest.find(Path::new("empty/Pictures/inner/a")).unwrap();
    assert_eq!((at.volume.share(), at.kind), (shares.volumes[2].share(), Shown::Folder));
    let at = shares.forest.find(Path::new("empty/Pictures")).unwrap();
    assert_eq!((at.volume.share(), at.ino), (shares.volumes[1].share(), ROOT));
    mount.unmount();
    shares.close();
}

#[test]
fn between_shares_files_are_copied() {
    let shares = Shares::new();
    let mount = shares.mount();
    disk::write(mount.path("a"), "a").unwrap();
    disk::create_dir(mount.path("folder")).unwrap();
    disk::write(mount.path("folder/b"), vec![7; 100_000]).unwrap();
    assert_eq!(errno(disk::rename(mount.path("a"), mount.path("d/outer/a"))), libc::EXDEV);
    assert_eq!(errno(disk::rename(mount.path("folder"), mount.path("d/outer/inner/folder"))), libc::EXDEV);
    assert_eq!(errno(disk::hard_link(mount.path("a"), mount.path("d/outer/a"))), libc::EXDEV);
    disk::write(mount.path("d/outer/x"), "x").unwrap();
    let (a, x) = (mount.path("a"), mount.path("d/outer/x"));
    let cwd = nix::fcntl::AT_FDCWD;
    let exchange = nix::fcntl::renameat2(cwd, &a, cwd, &x, nix::fcntl::RenameFlags::RENAME_EXCHANGE);
    assert_eq!(exchange, Err(nix::Error::EXDEV));

    // What people use does the rest.
    run("mv", &["a", "d/outer/moved"], &mount.at);
    assert_eq!(disk::read_to_string(mount.path("d/outer/moved")).unwrap(), "a");
    assert!(!mount.path("a").exists());
    run("setfattr", &["-n", "user.note", "-v", "kept", "folder/b"], &mount.at);
    run("touch", &["-d", "2001-02-03 04:05:06", "folder/b", "folder"], &mount.at);
    disk::hard_link(mount.path("folder/b"), mount.path("folder/link")).unwrap();
    run("touch", &["-d", "2001-02-03 04:05:06", "folder"], &mount.at);
    run("cp", &["-a", "folder", "d/outer/inner/copy"], &mount.at);
    let (from, to) = (mount.path("folder/"), mount.path("d/outer/inner/copy/"));
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    assert_eq!(run("rsync", &["-anciHAX", "--delete", &from, &to], Path::new("/")).trim(), "");
    run("mv", &["folder", "d/outer/folder"], &mount.at);
    assert_eq!(disk::read(mount.path("d/outer/folder/b")).unwrap(), vec![7; 100_000]);
    assert_eq!(disk::metadata(mount.path("d/outer/folder/link")).unwrap().nlink(), 2);
    assert!(!mount.path("folder").exists());
    let (from, to) =
        (File::open(mount.path("d/outer/folder/b")).unwrap(), File::create(mount.path("by range")).unwrap());
    assert_eq!(io::copy(&mut &from, &mut &to).unwrap(), 100_000);
    assert_eq!(disk::read(mount.path("by range")).unwrap(), vec![7; 100_000]);
    drop((from, to));
    mount.unmount();
    shares.close();
}

#[test]
fn a_share_that_may_only_be_read_refuses_every_change() {
    let shares = Shares::new();
    let outer = &shares.volumes[1];
    let file = outer.create(ROOT, b"f", 0o644, Who::me()).unwrap().ino;
    outer.write(file, b"as it is", 0, false).unwrap();
    outer.release(file, true).unwrap();
    shares.outer.close(outer);
    let o = VolumeOptions { clean: true, reader: true, ..VolumeOptions::default() };
    let (vault, keys) = (&shares.outer, shares.outer.keys.clone());
    let volume = Volume::open(&vault.store(), vault.id, keys, vault.book.clone(), vault.ear.clone(), o).unwrap();
    shares.forest.add(shares.volumes[0].share(), volume).unwrap();
    shares.forest.add(shares.volumes[1].share(), shares.volumes[2].clone()).unwrap();
    let mount = shares.root.mount_forest(&shares.forest);
    let at = |name: &str| mount.path("d/outer").join(name);
    assert_eq!(disk::read_to_string(at("f")).unwrap(), "as it is");
    assert_eq!(errno(disk::write(at("new"), "")), libc::EROFS);
    assert_eq!(errno(OpenOptions::new().append(true).open(at("f"))), libc::EROFS);
    assert_eq!(errno(disk::write(at("f"), "")), libc::EROFS);
    assert_eq!(errno(disk::create_dir(at("new"))), libc::EROFS);
    assert_eq!(errno(disk::remove_file(at("f"))), libc::EROFS);
    assert_eq!(errno(disk::rename(at("f"), at("g"))), libc::EROFS);
    assert_eq!(errno(disk::hard_link(at("f"), at("g"))), libc::EROFS);
    assert_eq!(errno(disk::rename(at("inner"), at("g"))), libc::EROFS);
    assert_eq!(errno(disk::set_permissions(at("f"), Permissions::from_mode(0o600))), libc::EROFS);
    assert_eq!(errno(std::os::unix::fs::symlink("x", at("l"))), libc::EROFS);
    // A share within is what it is by itself, and so is the rest.
    disk::write(at("inner/new"), "writable").unwrap();
    disk::write(mount.path("d/new"), "writable").unwrap();
    mount.unmount();
}

#[test]
fn a_share_comes_and_goes_while_mounted() {
    let shares = Shares::new();
    let [root, outer, inner] = &shares.volumes;
    let mount = shares.root.mount_forest(&shares.forest);
    let at = mount.path("d/outer");
    // No share of this account's: not listed, and the kernel may remember that.
    assert_eq!(errno(disk::metadata(&at)), libc::ENOENT);
    assert_eq!(disk::read_dir(mount.path("d")).unwrap().count(), 0);

    // Not here yet.
    shares.forest.await_share(root.share(), outer.share());
    assert_eq!(disk::read_dir(mount.path("d")).unwrap().count(), 1);
    assert_eq!(disk::read_dir(&at).unwrap().count(), 0);
    assert_eq!(errno(disk::write(at.join("f"), "")), libc::EROFS);
    assert_eq!(errno(disk::create_dir(at.join("f"))), libc::EROFS);
    assert_eq!(errno(disk::metadata(at.join("f"))), libc::ENOENT);
    assert_eq!(errno(disk::set_permissions(&at, Permissions::from_mode(0o700))), libc::EROFS);
    assert_eq!(errno(disk::remove_dir(&at)), libc::EBUSY);
    let before = File::open(&at).unwrap();

    // Here.
    shares.forest.add(root.share(), outer.clone()).unwrap();
    assert!(shares.forest.add(root.share(), outer.clone()).is_err());
    until(|| disk::write(at.join("f"), "here").is_ok());
    assert!(disk::metadata(&at).unwrap().ino() != before.metadata().unwrap().ino());
    drop(before);
    assert!(!at.join("inner").exists(), "a share within that nobody added is not listed");
    // Its junction counts only where it is said to lie: here somebody drew it into another share.
    shares.forest.add(root.share(), inner.clone()).unwrap();
    assert!(!at.join("inner").exists());
    assert!(disk::read_dir(&at).unwrap().all(|e| e.unwrap().file_name() != "inner"));

    // Gone, with files open: what was written before is in it, what comes after fails.
    let open = OpenOptions::new().read(true).write(true).open(at.join("f")).unwrap();
    open.write_all_at(b"HERE, and more", 0).unwrap();
    let gone = shares.forest.remove(outer.share()).unwrap();
    until(|| !at.exists());
    assert_eq!(disk::read_dir(mount.path("d")).unwrap().count(), 0);
    assert_eq!(gone.getattr(gone.lookup(ROOT, b"f").unwrap().ino).unwrap().size, 14);
    let mut byte = [0];
    assert_eq!(errno(open.read_exact_at(&mut byte, 0)), libc::ESTALE);
    assert_eq!(errno((&open).read(&mut byte)), libc::ESTALE);
    drop(open);
    shares.outer.record(&gone);
    assert!(shares.forest.remove(outer.share()).is_none());

    // And back.
    shares.forest.add(root.share(), outer.clone()).unwrap();
    until(|| disk::read_to_string(at.join("f")).is_ok_and(|text| text == "HERE, and more"));
    // The junction goes, and the kernel is told of that too.
    root.remove_junction(outer.share()).unwrap();
    until(|| !at.exists());
    disk::write(mount.path("d/outer"), "a name like any other").unwrap();
    mount.unmount();
    shares.close();
}

/// What the kernel is told, it is told by another thread.
fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it never comes");
}

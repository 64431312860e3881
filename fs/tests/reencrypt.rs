//! What was sealed under former keys is sealed under the newest, and nothing else of it changes.

mod common;

use std::path::PathBuf;

use common::{Vault, Watchdog};
use fs::content::Kind;
use fs::volume::{Device, DirEntry, OpenHow, ROOT, SetAttr, Shown, Volume, Who};
use keymgr::ids::{Epoch, ShareId};
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;

fn put(volume: &Volume, parent: u64, name: &[u8], offset: u64, data: &[u8]) -> u64 {
    let ino = match volume.lookup(parent, name) {
        Ok(attr) => {
            volume.open_file(attr.ino, OpenHow { write: true, truncate: false }).unwrap();
            attr.ino
        }
        Err(_) => volume.create(parent, name, 0o640, Who::me()).unwrap().ino,
    };
    volume.write(ino, data, offset, false).unwrap();
    volume.release(ino, true).unwrap();
    ino
}

/// All that programs see, by path.
fn show(volume: &Volume) -> Vec<String> {
    let mut out = Vec::new();
    let mut next = vec![(ROOT, String::new())];
    while let Some((ino, at)) = next.pop() {
        let attr = volume.getattr(ino).unwrap();
        let names = volume.listxattr(ino).unwrap();
        let xattrs: Vec<_> = names.iter().map(|name| volume.getxattr(ino, name).unwrap()).collect();
        let mut data = vec![0; 300_000];
        match attr.kind {
            Shown::Folder => {
                let handle = volume.opendir(ino).unwrap();
                let mut names = Vec::new();
                let add = |_, e: &DirEntry| {
                    names.push(e.name.clone());
                    false
                };
                volume.readdir(ino, handle, 0, add).unwrap();
                volume.releasedir(handle);
                for name in names.into_iter().filter(|n| n != b"." && n != b"..") {
                    let child = volume.lookup(ino, &name).unwrap().ino;
                    next.push((child, format!("{at}/{}", String::from_utf8_lossy(&name))));
                }
                data.clear();
            }
            Shown::File => {
                volume.open_file(ino, OpenHow::default()).unwrap();
                let len = volume.read(ino, &mut data, 0).unwrap();
                volume.release(ino, false).unwrap();
                data.truncate(len);
            }
            Shown::Symlink => data = volume.readlink(ino).unwrap(),
            _ => data.clear(),
        }
        out.push(format!(
            "{at} {:?} {:o} {} {} {} {xattrs:?} {}",
            attr.kind,
            attr.mode,
            attr.size,
            attr.links,
            attr.mtime,
            blake3::hash(&data)
        ));
    }
    out.sort_unstable();
    out
}

#[test]
fn all_is_under_the_newest_key_after_it_and_shows_the_same() {
    let _watchdog = Watchdog::new(60);
    let mut vault = Vault::new();
    let volume = vault.open(true);
    let d = volume.mkdir(ROOT, b"d", 0o750, Who::me()).unwrap().ino;
    let a = put(&volume, d, b"a", 0, &[1; 200_000]);
    put(&volume, d, b"sparse", 250_000, b"end");
    put(&volume, ROOT, &[b'l'; 230], 0, &[3; 20]);
    put(&volume, ROOT, b"empty", 0, b"");
    volume.link(a, ROOT, b"link").unwrap();
    volume.symlink(d, b"symlink", b"../x", Who::me()).unwrap();
    volume.mknod(d, b"fifo", Kind::Fifo, 0o400, Device::default(), Who::me()).unwrap();
    volume.make_junction(d, b"share", ShareId::random()).unwrap();
    volume.setxattr(a, b"user.a", b"1", 0).unwrap();
    volume.setxattr(d, b"user.d", b"2", 0).unwrap();
    volume.setattr(a, SetAttr { mode: Some(0o4711), mtime: Some(777), ..SetAttr::default() }).unwrap();
    vault.record(&volume);
    let second = Secret32::random();
    vault.keys.insert(Epoch(2), second.clone());
    volume.rekey(vault.keys.clone());
    // Some of it is already.
    put(&volume, d, b"a", 100_000, &[9; 10]);
    put(&volume, d, b"new", 0, &[5; 5000]);
    volume.setattr(a, SetAttr { mtime: Some(777), ..SetAttr::default() }).unwrap();
    vault.record(&volume);
    volume.setattr(d, SetAttr { mtime: Some(-1), ..SetAttr::default() }).unwrap();
    volume.setattr(ROOT, SetAttr { mtime: Some(-2), ..SetAttr::default() }).unwrap();
    vault.record(&volume);
    let before = show(&volume);
    assert!(!volume.reencrypt(d, b"new").unwrap());

    // Stopped, and begun again, with a file open meanwhile.
    volume.open_file(a, OpenHow::default()).unwrap();
    let mut left = 3;
    let failed = volume.reencrypt_all(|_| {
        left -= 1;
        left > 0
    });
    assert!(failed.unwrap().is_empty());
    assert!(volume.reencrypt_all(|_| true).unwrap().is_empty());
    let mut byte = [0];
    volume.read(a, &mut byte, 100_005).unwrap();
    assert_eq!(byte, [9]);
    volume.release(a, false).unwrap();
    let again: Vec<_> = [(d, &b"a"[..]), (d, b"sparse"), (ROOT, b"link"), (ROOT, b"d"), (d, b"share")].into();
    assert!(again.into_iter().all(|(parent, name)| !volume.reencrypt(parent, name).unwrap()));
    assert_eq!(show(&volume), before);
    vault.close(&volume);
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
    drop(volume);

    // The newest key alone reads all of it.
    let mut newest = ShareKeys::empty(vault.keys.share());
    newest.insert(Epoch(2), second);
    vault.keys = newest;
    let volume = vault.open(true);
    assert_eq!(show(&volume), before);
    assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
    assert_eq!(vault.ear.refusals.lock().unwrap().as_slice(), []);
    let left: Vec<PathBuf> =
        std::fs::read_dir(vault.store().join("tree")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.iter().filter(|p| p.to_string_lossy().contains("kith-name")).count(), 1);
}

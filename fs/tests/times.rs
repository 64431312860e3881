//! Modification times: what a program sees through the mount is what the ciphertext has and what is recorded.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::fs::format::attrs::Attrs;
use ::fs::volume::SetAttr;
use common::{Vault, Watchdog, run};

/// Saves of all kinds.
fn save(dir: &Path, rounds: usize) {
    fs::create_dir(dir).unwrap();
    for i in 0..rounds {
        let plain = dir.join(format!("plain {i}"));
        fs::write(&plain, vec![1; 100 + i * 997 % 200_000]).unwrap();
        let aside = dir.join(format!(".aside {i}"));
        let mut f = File::create(&aside).unwrap();
        f.write_all(&[2; 30_000]).unwrap();
        if i % 2 == 0 {
            f.sync_all().unwrap();
        }
        drop(f);
        fs::rename(&aside, dir.join(format!("saved {}", i / 2))).unwrap();
        let mut f = File::options().append(true).create(true).open(dir.join(format!("log {}", i % 5))).unwrap();
        f.write_all(&[3; 5000]).unwrap();
        drop(f);
        fs::write(dir.join(format!("again {}", i % 7)), vec![4; 8000 * (i % 3)]).unwrap();
        match i % 6 {
            0 => fs::rename(&plain, dir.join(format!("moved {i}"))).unwrap(),
            1 => fs::set_permissions(&plain, fs::Permissions::from_mode(0o600)).unwrap(),
            2 => File::options().write(true).open(&plain).unwrap().set_len(50).unwrap(),
            3 => drop(run("touch", &[&plain.to_string_lossy()], dir)),
            _ => {}
        }
    }
}

type Times = BTreeSet<(i64, bool, String)>;

/// The modification times (in nanoseconds) of files and folders, with their names where those are wanted.
fn times(at: &Path, names: bool) -> Times {
    let mut all = Times::new();
    for entry in fs::read_dir(at).unwrap() {
        let (entry, stat) = entry.map(|e| (e.path(), e.path().symlink_metadata().unwrap())).unwrap();
        if stat.is_dir() {
            all.extend(times(&entry, names));
        }
        let ours = entry.file_name().unwrap().to_string_lossy().starts_with(".kith-");
        if (stat.is_file() || stat.is_dir()) && !ours {
            let time = stat.mtime() * 1_000_000_000 + stat.mtime_nsec();
            all.insert((time, stat.is_dir(), if names { entry.display().to_string() } else { String::new() }));
        }
    }
    all
}

fn recorded(vault: &Vault) -> BTreeSet<i64> {
    let attrs = vault.book.attrs.lock().unwrap();
    let open = |(id, sealed): (&Vec<u8>, &Vec<u8>)| {
        Attrs::open(&vault.keys, id.as_slice().try_into().unwrap(), sealed).unwrap().mtime as i64
    };
    attrs.iter().map(open).collect()
}

#[test]
fn what_is_shown_is_what_the_ciphertext_has_and_what_is_recorded() {
    let _watchdog = Watchdog::new(100);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let savers: Vec<_> = (0..3).map(|n| mount.path(&n.to_string())).collect();
        let savers: Vec<_> = savers.into_iter().map(|dir| scope.spawn(move || save(&dir, 60))).collect();
        let copy = scope.spawn(|| run("cp", &["-a", concat!(env!("CARGO_MANIFEST_DIR"), "/src"), "copy"], &mount.at));
        let recorder = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                vault.record_once(&volume);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let ended: Vec<_> = savers.into_iter().map(|s| s.join()).collect();
        let copied = copy.join();
        stop.store(true, Ordering::Relaxed);
        recorder.join().unwrap();
        copied.unwrap();
        ended.into_iter().for_each(|e| e.unwrap());
    });
    vault.record(&volume);
    let (shown, disk, recorded) = (times(&mount.at, true), times(&vault.store().join("tree"), false), recorded(&vault));
    assert!(shown.len() > 300);
    for (time, folder, name) in &shown {
        assert!(disk.contains(&(*time, *folder, String::new())), "{name} shows {time}, which no ciphertext has");
        assert!(recorded.contains(time), "{name} shows {time}, which no record has");
    }
    mount.unmount();
    vault.close(&volume);
}

#[test]
fn pages_that_come_after_the_kernel_told_the_time_do_not_change_it() {
    let _watchdog = Watchdog::new(60);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    let file = File::create(mount.path("a")).unwrap();
    let ino = file.metadata().unwrap().ino();
    // As a kernel of Debian 12 does it: the pages' writes are under way, and overtaken.
    let time = 1_000_000_000_123_456_789;
    volume.setattr(ino, SetAttr { mtime: Some(time), ..SetAttr::default() }).unwrap();
    volume.write(ino, b"late", 0, false).unwrap();
    assert_eq!(volume.getattr(ino).unwrap().mtime, time);
    volume.fsync(ino, false).unwrap();
    vault.record(&volume);
    assert!(recorded(&vault).contains(&(time as i64)));
    assert!(times(&vault.store().join("tree"), false).contains(&(time as i64, false, String::new())));
    // Told once more, after a rename or a chmod, it is no change.
    volume.setattr(ino, SetAttr { mtime: Some(time), ..SetAttr::default() }).unwrap();
    assert!(!volume.is_dirty());
    drop(file);
    mount.unmount();
    vault.close(&volume);
}

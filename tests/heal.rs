//! Damage below a mounted device (S1, S3, S8, S12 of the attack list): refused, fetched again while it is mounted, and
//! never signed or spread.

mod common;

use std::path::{Path, PathBuf};

use common::prosody::Prosody;
use common::{Device, account, ciphertext, differences, join, until};

/// The ciphertext of a file, by its content's length: all that are used here differ in it.
fn cipher_of(d: &Device, size: usize) -> PathBuf {
    // Each page holds 4060 bytes; the first gives 256 to the header.
    let all = ciphertext(&d.store()).into_iter().filter(|(name, _)| !name.contains(".kith-"));
    let pages = |length: usize| length / 4096;
    let wanted = (size + 256).div_ceil(4060);
    let found: Vec<_> = all.filter(|(_, bytes)| !bytes.is_empty() && pages(bytes.len()) == wanted).collect();
    assert_eq!(found.len(), 1, "{size}: {:?}", found.iter().map(|(n, b)| (n, b.len())).collect::<Vec<_>>());
    d.store().join("tree").join(&found[0].0)
}

/// Changes bytes and keeps the times, as a careful attacker does.
fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let times = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    how(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(times).unwrap();
}

/// The header of the folder that a ciphertext file lies in.
fn header_beside(file: &Path) -> PathBuf {
    let is_header = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(".kith-");
    std::fs::read_dir(file.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).find(is_header).unwrap()
}

/// How many bytes of signed records a device holds.
fn records(d: &Device) -> u64 {
    let mut total = 0;
    let mut todo = vec![d.store().join("records")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => todo.push(entry.path()),
                false if entry.path().extension().is_some_and(|e| e == "log") => {
                    total += entry.metadata().unwrap().len();
                }
                false => {}
            }
        }
    }
    total
}

fn notices(d: &Device) -> Vec<String> {
    d.status()["notices"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect()
}

#[test]
fn s12_what_is_damaged_below_a_mounted_device_is_fetched_again_and_never_spread() {
    let mut broker = Prosody::start();
    let (a, b, home) = (Device::new("a"), Device::new("b"), Device::new("home"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    join(&broker, &a, &home, "home@localhost/pi", true, true);
    home.kith(&["sync"]);
    let files = [
        ("page", 90_000),
        ("header", 30_000),
        ("gone", 50_000),
        ("old", 70_000),
        ("folder/in", 20_000),
        ("whole/in", 10_000),
    ];
    let at = a.mountpoint();
    for folder in ["folder", "whole"] {
        std::fs::create_dir(at.join(folder)).unwrap();
    }
    std::fs::write(at.join("old"), vec![1; 70_000]).unwrap();
    let content = |name: &str, size| vec![name.as_bytes()[0]; size];
    let there =
        |d: &Device| files.iter().all(|(n, s)| d.mountpoint().join(n).metadata().is_ok_and(|m| m.len() == *s as u64));
    until("b has the first version", 60, || b.mountpoint().join("old").exists());
    let older = std::fs::read(cipher_of(&b, 70_000)).unwrap();
    for (name, size) in files {
        std::fs::write(at.join(name), content(name, size)).unwrap();
    }
    until("b has all", 60, || there(&b));
    let all = |d: &Device| ciphertext(&d.store());
    until("all hold the same ciphertext", 60, || all(&home) == all(&a) && all(&b) == all(&a));

    // Mounted anew, so that nothing of it is in memory; then somebody has the disk for a moment.
    b.umount();
    broker.kill();
    b.mount();
    change(&cipher_of(&b, 90_000), |bytes| bytes[50_000] ^= 1);
    change(&cipher_of(&b, 30_000), |bytes| bytes[20] ^= 1);
    change(&cipher_of(&b, 70_000), |bytes| *bytes = older);
    let folder = header_beside(&cipher_of(&b, 20_000));
    change(&folder, |bytes| bytes[40] ^= 1);
    std::fs::remove_file(cipher_of(&b, 50_000)).unwrap();
    std::fs::remove_dir_all(cipher_of(&b, 10_000).parent().unwrap()).unwrap();
    let (signed, safe) = (records(&a), all(&a));
    for (name, size) in files {
        let given = std::fs::read(b.mountpoint().join(name));
        // A folder's header is in its record, and may be back by now.
        let back = name == "folder/in" && given.as_ref().is_ok_and(|c| *c == content(name, size));
        assert!(given.is_err() || back, "{name} was given out");
    }
    for name in ["page", "header", "old", "gone", "whole/in"] {
        let told = |n: &String| n.contains(&format!("{name} is damaged and refused until another device"));
        until(&format!("status tells of {name}"), 20, || {
            std::fs::read(b.mountpoint().join(name)).is_err() && notices(&b).iter().any(told)
        });
    }

    broker.up();
    for (name, size) in files {
        let path = b.mountpoint().join(name);
        until(&format!("{name} is whole again"), 60, || std::fs::read(&path).is_ok_and(|c| c == content(name, size)));
    }
    until("status tells that all is whole", 20, || !notices(&b).iter().any(|n| n.contains("is damaged")));
    assert_eq!(differences(&a.mountpoint(), &b.mountpoint()), "");
    let kept = std::fs::read_dir(b.store().join("quarantine")).unwrap().count();
    assert!(kept >= 4, "the damaged ciphertext is kept: {kept}");
    assert_eq!((all(&a), all(&home)), (safe.clone(), safe.clone()), "other devices are untouched");
    assert_eq!([records(&a), records(&b), records(&home)], [signed; 3], "nothing was signed of it");
    for d in [&a, &b] {
        d.umount();
        d.kith(&["fsck"]);
    }
    assert_eq!(all(&b), safe);
    home.kith(&["sync", "--stop"]);
}

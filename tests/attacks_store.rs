//! The store in the hands of someone with the disk and no key (S1, S7, S12 of the attack list), after a clean end.

mod common;

use std::path::{Path, PathBuf};

use common::Device;

/// A vault with two files and a folder, closed cleanly; the ciphertext files by size, largest first.
fn vault(name: &str) -> (Device, Vec<PathBuf>) {
    let d = Device::new(name);
    d.init();
    d.mount();
    let at = d.mountpoint();
    std::fs::write(at.join("first"), vec![1; 90_000]).unwrap();
    std::fs::write(at.join("second"), vec![2; 30_000]).unwrap();
    std::fs::create_dir(at.join("folder")).unwrap();
    std::fs::write(at.join("folder/third"), vec![3; 10_000]).unwrap();
    d.umount();
    let mut files = ciphertexts(&d.store().join("tree"));
    files.sort_by_key(|f| std::cmp::Reverse(std::fs::metadata(f).unwrap().len()));
    assert_eq!(files.len(), 3);
    (d, files)
}

fn ciphertexts(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            out.extend(ciphertexts(&entry.path()));
        } else if !entry.file_name().to_string_lossy().starts_with('.') {
            out.push(entry.path());
        }
    }
    out
}

/// Keeps the times, as a careful attacker does.
fn change(file: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let times = std::fs::metadata(file).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    how(&mut bytes);
    std::fs::write(file, bytes).unwrap();
    std::fs::File::options().write(true).open(file).unwrap().set_modified(times).unwrap();
}

/// fsck finds it, the file is not given out, the others are.
fn refused(d: &Device, refused: &str, others: &[&str]) {
    let found = d.run(&["fsck"]);
    assert_eq!(found.code, 70, "{found:?}");
    d.mount();
    assert!(std::fs::read(d.mountpoint().join(refused)).is_err(), "{refused} was given out");
    for other in others {
        assert!(std::fs::read(d.mountpoint().join(other)).is_ok(), "{other} was refused too");
    }
    d.umount();
}

#[test]
fn s1_a_flipped_bit_in_a_page_a_tag_or_a_header_is_refused_and_fsck_names_the_file() {
    for at in [9_000, 4_100, 20] {
        let (d, files) = vault("s1");
        change(&files[0], |bytes| bytes[at] ^= 1);
        let found = d.run(&["fsck"]);
        assert_eq!(found.code, 70, "{at}: {found:?}");
        assert!((found.out.clone() + &found.err).contains("first"), "{at}: the path is not told: {found:?}");
        refused(&d, "first", &["second", "folder/third"]);
    }
}

#[test]
fn s2_a_page_made_a_hole_is_refused() {
    let (d, files) = vault("s2");
    change(&files[0], |bytes| bytes[8192..12288].fill(0));
    refused(&d, "first", &["second"]);
}

#[test]
fn s3_s4_an_older_version_of_a_page_or_a_header_is_refused() {
    let (d, files) = vault("s3");
    let old = std::fs::read(&files[0]).unwrap();
    d.mount();
    let mut f = std::fs::File::options().write(true).open(d.mountpoint().join("first")).unwrap();
    std::io::Write::write_all(&mut f, &[9; 20_000]).unwrap();
    drop(f);
    d.umount();
    change(&files[0], |bytes| bytes[4096..8192].copy_from_slice(&old[4096..8192]));
    refused(&d, "first", &["second"]);
}

#[test]
fn s5_a_tail_cut_off_or_appended_is_refused() {
    let (d, files) = vault("s5");
    change(&files[0], |bytes| bytes.truncate(8192));
    refused(&d, "first", &["second"]);
    let (d, files) = vault("s5b");
    change(&files[1], |bytes| bytes.extend_from_slice(&[0; 4096]));
    refused(&d, "second", &["first"]);
}

#[test]
fn s7_swapped_and_moved_files_are_refused() {
    let (d, files) = vault("s7");
    let aside = d.path("aside");
    std::fs::rename(&files[0], &aside).unwrap();
    std::fs::rename(&files[1], &files[0]).unwrap();
    std::fs::rename(&aside, &files[1]).unwrap();
    let found = d.run(&["fsck"]);
    assert_eq!(found.code, 70, "{found:?}");
    d.mount();
    // Refused, or put back where its record says it belongs: never another file's content.
    for (name, own) in [("first", vec![1; 90_000]), ("second", vec![2; 30_000])] {
        let given = std::fs::read(d.mountpoint().join(name));
        assert!(given.as_ref().map_or(true, |g| *g == own), "{name}: another file's content was given out");
    }
    assert!(std::fs::read(d.mountpoint().join("folder/third")).is_ok());
    d.umount();
}

#[test]
fn s6_an_older_store_put_back_is_noticed_and_nothing_old_is_signed_anew() {
    let (d, _) = vault("s6");
    let old = d.path("old");
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&d.store(), &old);
    d.mount();
    std::fs::write(d.mountpoint().join("first"), "newer").unwrap();
    d.umount();
    std::fs::remove_dir_all(d.store()).unwrap();
    copy(&old, &d.store());
    d.mount();
    let status = d.status();
    let told = status["notices"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("put back"));
    assert!(told, "{status}");
    d.umount();
}

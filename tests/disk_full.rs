//! A store on a disk that is full: the writer hears of it, what was there stays, deleting works, and with room again
//! everything goes on.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::prosody::Prosody;
use common::{Device, account, join, until};

/// A small disk under a device's store, with something on it that can go.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn under(d: &Device, megabytes: u32) -> Self {
        let at = d.store().parent().unwrap().to_owned();
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={megabytes}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "kith-test"]).arg(&at).status().unwrap();
        assert!(done.success(), "the test mounts a tmpfs: it needs root");
        std::fs::write(at.join("ballast"), vec![1; 3 << 20]).unwrap();
        Self(at)
    }

    fn drop_ballast(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }

    fn grow(&self, megabytes: u32) {
        let how = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &how]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Saves until the disk is full; what was saved whole.
fn fill(at: &Path, name: &str) -> Vec<PathBuf> {
    let mut whole = Vec::new();
    for size in [2 << 20, 200_000, 5_000] {
        for n in 0.. {
            assert!(n < 200, "the disk is never full");
            let path = at.join(format!("{name} {size} {n}"));
            match save(&path, &vec![n as u8; size]) {
                Ok(()) => whole.push(path),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{}: {e}", path.display());
                    break;
                }
            }
        }
    }
    whole
}

fn is_whole(path: &Path) -> bool {
    let words: Vec<String> = path.to_string_lossy().split(' ').map(str::to_owned).collect();
    let (size, n): (usize, usize) = (words[words.len() - 2].parse().unwrap(), words[words.len() - 1].parse().unwrap());
    std::fs::read(path).is_ok_and(|got| got == vec![n as u8; size])
}

#[test]
fn the_writer_hears_of_it_what_was_there_stays_and_with_room_all_goes_on() {
    let d = Device::new("full");
    let disk = SmallDisk::under(&d, 24);
    d.init();
    d.mount();
    let at = d.mountpoint();
    save(&at.join("old"), &[7; 300_000]).unwrap();
    let whole = fill(&at, "first");
    assert!(whole.len() > 3);
    assert_eq!(std::fs::read(at.join("old")).unwrap(), [7; 300_000]);

    // Deleting makes room, and what is saved then is saved.
    std::fs::remove_file(&whole[0]).unwrap();
    save(&at.join("after"), &[9; 100_000]).unwrap();
    std::fs::rename(at.join("after"), at.join("after all")).unwrap();

    // Full at the end: what could not be recorded is recorded by the next mount.
    let more = fill(&at, "second");
    let ended = d.run(&["umount", at.to_str().unwrap()]);
    assert!(ended.code == 0 || ended.code == 50, "{ended:?}\n{}", d.log());
    assert!(!d.log().contains("panicked"), "{}", d.log());
    disk.drop_ballast();
    d.mount();
    until("mending ends", 60, || d.status()["mending"] == false);
    assert_eq!(std::fs::read(at.join("old")).unwrap(), [7; 300_000]);
    assert_eq!(std::fs::read(at.join("after all")).unwrap(), [9; 100_000]);
    for path in whole[1..].iter().chain(&more) {
        assert!(is_whole(path), "{} was fsynced\n{}", path.display(), d.log());
    }
    save(&at.join("at last"), b"there is room").unwrap();
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn what_comes_from_another_device_waits_for_room() {
    let broker = Prosody::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    let disk = SmallDisk::under(&b, 16);
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    save(&a.mountpoint().join("first"), &[1; 50_000]).unwrap();
    until("b has the first", 60, || std::fs::read(b.mountpoint().join("first")).is_ok_and(|c| c == [1; 50_000]));
    let big: Vec<u8> = (0..20_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    save(&a.mountpoint().join("big"), &big).unwrap();
    until("status tells of the full disk", 60, || b.status().to_string().contains("full"));
    assert_eq!(std::fs::read(b.mountpoint().join("first")).unwrap(), [1; 50_000]);
    disk.grow(64);
    until("b has it", 90, || std::fs::read(b.mountpoint().join("big")).is_ok_and(|c| c == big));
    for d in [&a, &b] {
        assert!(!d.log().contains("panicked"), "{}", d.log());
        d.umount();
        d.kith(&["fsck"]);
    }
}

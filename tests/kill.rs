//! The daemon is killed (SIGKILL) at random moments: of a copy, of renames, of an incoming sync. Each time the vault mounts
//! again, what was fsynced is there, fsck finds nothing, and sync goes on. `KITH_KILLS=50` for the long run.

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::prosody::Prosody;
use common::{Device, account, join, same, until};

fn rounds(few: usize) -> usize {
    std::env::var("KITH_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// A number that differs from run to run; a failure prints it.
fn seed() -> u64 {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into();
    eprintln!("seed {seed}");
    seed
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

fn sync_write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut f = std::fs::File::create(path)?;
    f.write_all(bytes)?;
    f.sync_all()
}

#[test]
fn killed_while_files_are_written_and_renamed() {
    let d = Device::new("killed");
    d.init();
    let mut random = seed();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..rounds(4) {
        d.mount();
        // A folder of the vault: when the mount is gone nothing is written under it.
        let at = d.mountpoint().join("inside");
        std::fs::create_dir_all(&at).unwrap();
        let stop = AtomicBool::new(false);
        let delay = Duration::from_millis(next(&mut random) % 400);
        let done = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut done = Vec::new();
                for i in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let bytes = vec![i as u8; 1000 + i * 731 % 60_000];
                    let (tmp, name) = (format!("tmp-{round}-{i}"), format!("file-{round}-{i}"));
                    if sync_write(&at.join(&tmp), &bytes).is_err()
                        || std::fs::rename(at.join(&tmp), at.join(&name)).is_err()
                    {
                        break;
                    }
                    // The name is promised by the fsync of the folder.
                    if std::fs::File::open(&at).and_then(|d| d.sync_all()).is_ok() {
                        done.push((name, bytes));
                    }
                }
                done
            });
            std::thread::sleep(delay);
            d.kill9();
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        kept.extend(done);
        d.mount();
        for (name, bytes) in &kept {
            let got = std::fs::read(at.join(name));
            assert!(got.as_ref().is_ok_and(|g| g == bytes), "round {round}: {name}: {:?}", got.map(|g| g.len()));
        }
        until("mending ends", 60, || d.status()["mending"] == false);
        d.umount();
        d.kith(&["fsck"]);
    }
}

#[test]
fn while_a_sync_comes_in_it_goes_on_and_nothing_damaged_is_signed() {
    let broker = Prosody::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    let mut random = seed();
    for round in 0..rounds(3) {
        let folder = a.mountpoint().join(format!("round {round}"));
        std::fs::create_dir(&folder).unwrap();
        for i in 0..40 {
            std::fs::write(folder.join(format!("file {i}")), vec![i as u8; 500 + i * 3000]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(next(&mut random) % 600));
        b.kill9();
        b.mount();
        same(&a.mountpoint(), &b.mountpoint(), 90);
    }
    until("mending ends", 60, || b.status()["mending"] == false);
    a.umount();
    b.umount();
    b.kith(&["fsck"]);
    a.kith(&["fsck"]);
}

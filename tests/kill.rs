//! The daemon is killed (SIGKILL) at random moments: of a copy, of renames, of an incoming sync. Each time the vault mounts
//! again, what was fsynced is there, fsck finds nothing, sync goes on, and what the others then hold was signed undamaged,
//! as the independent reader sees it. `KITH_KILLS=50` kills so often instead of a few times.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::prosody::Prosody;
use common::{Device, account, differences, join, same, until};

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

/// Saves by rename, each file and its name fsynced, until it is stopped or the mount is gone: what was promised.
fn save_by_rename(at: &Path, of: &str, stop: &AtomicBool) -> Vec<(String, Vec<u8>)> {
    let mut done = Vec::new();
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let bytes = vec![i as u8; 1000 + i * 731 % 60_000];
        let (tmp, name) = (at.join(format!("tmp-{of}-{i}")), format!("file-{of}-{i}"));
        if sync_write(&tmp, &bytes).and_then(|()| std::fs::rename(&tmp, at.join(&name))).is_err() {
            break;
        }
        // The name is promised by the fsync of the folder.
        if std::fs::File::open(at).and_then(|d| d.sync_all()).is_ok() {
            done.push((name, bytes));
        }
    }
    done
}

fn all_there(at: &Path, promised: &[(String, Vec<u8>)], about: &str) {
    for (name, bytes) in promised {
        let got = std::fs::read(at.join(name));
        assert!(got.as_ref().is_ok_and(|g| g == bytes), "{about}: {name}: {:?}", got.map(|g| g.len()));
    }
}

/// After a kill: it mounts, mends, and fsck finds nothing.
fn mounts_again(d: &Device) {
    d.mount();
    until("mending ends", 60, || d.status()["mending"] == false);
    d.kith(&["fsck"]);
}

/// The independent reader finds every file as its record says, and opens it.
fn reader_verifies(d: &Device) -> bool {
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader/kith_read.py");
    let mut command = Command::new("python3");
    command.args(["-B", reader, "--passfile"]).arg(d.path("pass")).arg(d.store()).arg("verify");
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(text.contains(" records, "), "the reader does not run: {text}");
    // Signed, and not to be opened: that does not come right by waiting.
    assert!(!text.contains("signed, and does not open"), "{}: {text}", d.name);
    if !out.status.success() {
        eprintln!("{}: {text}", d.name);
    }
    out.status.success()
}

#[test]
fn killed_while_files_are_written_and_renamed() {
    let d = Device::new("killed");
    d.init();
    let mut random = seed();
    let mut kept = Vec::new();
    for round in 0..rounds(4) {
        d.mount();
        // A folder of the vault: when the mount is gone nothing is written under it.
        let at = d.mountpoint().join("inside");
        std::fs::create_dir_all(&at).unwrap();
        let stop = AtomicBool::new(false);
        let delay = Duration::from_millis(next(&mut random) % 400);
        let done = std::thread::scope(|scope| {
            let writer = scope.spawn(|| save_by_rename(&at, &format!("{round}"), &stop));
            std::thread::sleep(delay);
            d.kill9();
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        kept.extend(done);
        mounts_again(&d);
        all_there(&at, &kept, &format!("round {round}"));
        d.umount();
        d.kith(&["fsck"]);
    }
    assert!(reader_verifies(&d));
}

#[test]
fn killed_while_it_syncs_it_goes_on_and_nothing_damaged_is_signed() {
    let broker = Prosody::start();
    let (a, b, home) = (Device::new("a"), Device::new("b"), Device::new("home"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    join(&broker, &a, &home, "home@localhost/home", true, true);
    home.kith(&["sync"]);
    let source = a.path("source");
    std::fs::create_dir(&source).unwrap();
    for i in 0..60_usize {
        let folder = source.join(format!("folder {}", i % 5));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("file {i}")), vec![i as u8; 100 + i * i * 100]).unwrap();
    }

    let mut random = seed();
    for round in 0..rounds(3) {
        // Which moment it is, and who is killed then.
        let (what, victim) = [("a copy", &a), ("an incoming sync", &b), ("renames", &a)][round % 3];
        let about = format!("round {round}, {what}");
        eprintln!("{about}");
        let at = a.mountpoint().join(format!("round {round}"));
        std::fs::create_dir(&at).unwrap();
        let copy = || {
            let mut cp = Command::new("cp");
            cp.arg("-a").arg(source.join(".")).arg(&at).stderr(Stdio::null());
            cp
        };
        let stop = AtomicBool::new(false);
        let promised = std::thread::scope(|scope| {
            let work = scope.spawn(|| match what {
                "renames" => save_by_rename(&at, "r", &stop),
                _ => {
                    let _ = copy().status();
                    Vec::new()
                }
            });
            std::thread::sleep(Duration::from_millis(next(&mut random) % 1500));
            victim.kill9();
            stop.store(true, Ordering::Relaxed);
            work.join().unwrap()
        });
        mounts_again(victim);
        all_there(&at, &promised, &about);
        if what != "renames" {
            // The copy, made again, completes it.
            assert!(copy().status().unwrap().success());
            assert_eq!(differences(&source, &at), "", "{about}");
        }
        same(&a.mountpoint(), &b.mountpoint(), 90);
        std::fs::write(b.mountpoint().join("back"), &about).unwrap();
        until("sync goes on", 60, || std::fs::read_to_string(a.mountpoint().join("back")).is_ok_and(|t| t == about));
        until("the reader verifies both", 60, || reader_verifies(&a) && reader_verifies(&b));
        home.kith(&["fsck"]);
        std::fs::remove_dir_all(&at).unwrap();
    }
    same(&a.mountpoint(), &b.mountpoint(), 90);
    assert_eq!(a.kith(&["conflicts"]).trim(), "No conflicts.");
    a.umount();
    b.umount();
    home.kith(&["sync", "--stop"]);
    for d in [&a, &b, &home] {
        d.kith(&["fsck"]);
    }
}

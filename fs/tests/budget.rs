//! How many requests the kernel may make of a mount for what programs do most: ARCHITECTURE.md, "Budget". Counts, unlike
//! times, do not depend on the machine.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use common::{Mount, Vault, Watchdog};

const FILES: u64 = 50;

/// What the kernel asked while `f` ran. Closes and what it forgets come later by themselves: nobody waits for them.
fn requests(mount: &Mount, f: impl FnOnce(&Path)) -> BTreeMap<&'static str, u64> {
    let before = mount.requests();
    f(&mount.at.join("d"));
    let mut now = mount.requests();
    for (what, count) in &mut now {
        *count -= before.get(what).copied().unwrap_or(0);
    }
    now.retain(|what, count| *count > 0 && !matches!(*what, "release" | "releasedir" | "forget"));
    now
}

/// Each kind at most so many times, no other kind at all.
fn within(what: &str, counted: &BTreeMap<&'static str, u64>, budget: &[(&str, u64)]) {
    for (kind, count) in counted {
        let most = budget.iter().find(|(k, _)| k == kind).map_or(0, |(_, most)| *most);
        assert!(*count <= most, "{what}: {count} {kind}, not more than {most}: {counted:?}");
    }
}

fn name(i: u64) -> String {
    format!("file {i}")
}

#[test]
fn requests_stay_within_their_budget() {
    let _watchdog = Watchdog::new(100);
    let vault = Vault::new();
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    fs::create_dir(mount.path("d")).unwrap();
    let n = FILES;

    let create = requests(&mount, |d| {
        for i in 0..n {
            File::create(d.join(name(i))).unwrap().write_all(&[1; 4096]).unwrap();
        }
    });
    // The kernel asks each new inode once for its capabilities, and flushes times.
    within(
        "create",
        &create,
        &[
            ("lookup", n + 1),
            ("create", n),
            ("write", n),
            ("getxattr", n),
            ("setattr", n),
            ("getattr", 1),
            ("flush", 1),
        ],
    );

    mount.unmount();
    vault.close(&volume);
    let volume = vault.open(true);
    let mount = vault.mount(&volume);
    let list = requests(&mount, |d| {
        for entry in fs::read_dir(d).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().len(), 4096);
        }
    });
    within(
        "list and stat",
        &list,
        &[("lookup", 1), ("opendir", 1), ("readdirplus", 3), ("readdir", 3), ("getattr", 1)],
    );

    let read = requests(&mount, |d| {
        for i in 0..n {
            assert_eq!(fs::read(d.join(name(i))).unwrap().len(), 4096);
        }
    });
    within("read", &read, &[("open", n), ("read", n), ("flush", 1)]);
    let again = requests(&mount, |d| {
        for i in 0..n {
            fs::read(d.join(name(i))).unwrap();
        }
    });
    // A read moves the time of access, so the kernel asks for it where a program asks for the size.
    within("read again", &again, &[("open", n), ("getattr", n)]);

    let rename = requests(&mount, |d| {
        for i in 0..n {
            fs::rename(d.join(name(i)), d.join(format!("new {i}"))).unwrap();
        }
    });
    within("rename", &rename, &[("lookup", n), ("rename", n), ("setattr", n)]);

    let delete = requests(&mount, |d| {
        for i in 0..n {
            fs::remove_file(d.join(format!("new {i}"))).unwrap();
        }
    });
    within("delete", &delete, &[("unlink", n), ("setattr", n)]);

    let big = requests(&mount, |d| {
        let mut file = File::create(d.join("big")).unwrap();
        for _ in 0..16 {
            file.write_all(&[7; 1 << 20]).unwrap();
        }
        file.sync_all().unwrap();
    });
    // The kernel writes back when it likes: mostly 1 MiB at once.
    within(
        "16 MiB",
        &big,
        &[("lookup", 1), ("create", 1), ("getxattr", 1), ("write", 32), ("setattr", 4), ("fsync", 1), ("getattr", 1)],
    );
    mount.unmount();
}

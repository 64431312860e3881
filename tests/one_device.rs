//! One device: what is saved is there after unmount, mount, kill; nothing of it is readable in the store.

mod common;

use std::process::Command;

use common::{Device, differences, until};

/// The checkout's own tree without what is not of it.
fn copy_checkout(to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    let top = env!("CARGO_MANIFEST_DIR");
    for sub in ["Cargo.toml", "README.md", "ARCHITECTURE.md", "fs", "sync", "keymgr", "src", "tests", "scripts", "man"]
    {
        let ok = Command::new("cp").args(["-a", "--"]).arg(format!("{top}/{sub}")).arg(to).status().unwrap();
        assert!(ok.success(), "{sub}");
    }
}

#[test]
fn trees_copied_in_compare_equal_also_after_unmount_and_mount() {
    let d = Device::new("trees");
    let plain = d.path("plain");
    copy_checkout(&plain.join("checkout"));
    assert!(Command::new("cp").args(["-a", "/usr/share/doc/fuse3"]).arg(&plain).status().unwrap().success());
    std::fs::write(
        plain.join("big"),
        (0..20_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    d.init();
    d.mount();
    let inside = d.mountpoint().join("all");
    assert!(Command::new("cp").arg("-a").arg(&plain).arg(&inside).status().unwrap().success());
    assert_eq!(differences(&plain, &inside), "");
    d.umount();
    d.mount();
    assert_eq!(differences(&plain, &inside), "");
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn nothing_readable_lies_in_the_store() {
    let d = Device::new("store");
    d.init();
    d.mount();
    let folder = d.mountpoint().join("Letters to Grandmother");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("about the garden.txt"), "the tomatoes are ripe this week").unwrap();
    std::os::unix::fs::symlink("about the garden.txt", folder.join("the latest one")).unwrap();
    d.umount();
    for word in ["Grandmother", "about the garden", "tomatoes", "the latest one"] {
        let grep = Command::new("grep").args(["-raF", word]).arg(d.store()).output().unwrap();
        assert!(grep.stdout.is_empty(), "{word} is found in the store");
        let find = Command::new("find").arg(d.store()).args(["-name", &format!("*{word}*")]).output().unwrap();
        assert!(find.stdout.is_empty(), "a name in the store has {word}");
    }
}

#[test]
fn after_a_kill_everything_fsynced_is_there_and_fsck_finds_nothing() {
    let d = Device::new("killed");
    d.init();
    d.mount();
    let file = d.mountpoint().join("kept");
    let mut f = std::fs::File::create(&file).unwrap();
    std::io::Write::write_all(&mut f, &[7; 100_000]).unwrap();
    f.sync_all().unwrap();
    drop(f);
    std::fs::write(d.mountpoint().join("not synced"), "perhaps").unwrap();
    d.kill9();
    d.mount();
    assert_eq!(std::fs::read(&file).unwrap(), vec![7; 100_000]);
    assert_eq!(std::fs::read_to_string(d.mountpoint().join("not synced")).unwrap(), "perhaps");
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn fusermount_ends_a_vault_as_umount_does_and_a_mount_right_after_it_waits() {
    let d = Device::new("fusermount");
    d.init();
    for round in 0..3 {
        d.mount();
        let file = d.mountpoint().join("counted");
        if round > 0 {
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{}", round - 1));
        }
        std::fs::write(&file, format!("{round}")).unwrap();
        let out = Command::new("fusermount3").arg("-u").arg(d.mountpoint()).status().unwrap();
        assert!(out.success());
    }
    d.mount();
    assert_eq!(d.status()["mending"], false);
    assert_eq!(d.status()["mended"], 0, "the ends were not clean");
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn what_a_killed_daemon_leaves_mounted_is_in_nobodys_way() {
    let d = Device::new("dead");
    d.init();
    let kill = || {
        let pid = d.pid().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        until("the mount is dead", 10, || std::fs::metadata(d.mountpoint()).is_err());
    };
    d.mount();
    std::fs::write(d.mountpoint().join("kept"), "kept").unwrap();
    kill();
    d.mount();
    assert_eq!(std::fs::read_to_string(d.mountpoint().join("kept")).unwrap(), "kept");
    kill();
    d.umount();
    assert_eq!(std::fs::read_dir(d.mountpoint()).unwrap().count(), 0);
    d.mount();
    d.umount();
    d.kith(&["fsck"]);
}

//! Three devices over a real Prosody: a laptop, a full desktop on the same account, a blind home on another one.

mod common;

use std::process::Command;

use common::prosody::Prosody;
use common::{Device, account, ciphertext, differences, join, same, until};

fn idle(d: &Device) -> bool {
    let s = d.status();
    s["pending"]["files"] == 0
        && s["peers"].as_array().is_some_and(|p| !p.is_empty() && p.iter().all(|p| p["up"] == true))
}

/// Waits until a blind device holds the same ciphertext, byte for byte.
fn same_ciphertext(blind: &Device, full: &Device) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let (a, b) = (ciphertext(&blind.store()), ciphertext(&full.store()));
        if a == b {
            return;
        }
        if std::time::Instant::now() > end {
            let short = |all: &[(String, Vec<u8>)], others: &[(String, Vec<u8>)]| -> Vec<String> {
                all.iter().filter(|e| !others.contains(e)).map(|(n, bytes)| format!("{n} {}", bytes.len())).collect()
            };
            panic!("blind only: {:#?}\nfull only: {:#?}", short(&a, &b), short(&b, &a));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn what_is_saved_is_on_the_other_devices_and_a_blind_one_holds_ciphertext_only() {
    let broker = Prosody::start();
    let laptop = Device::new("laptop");
    laptop.init();
    laptop.mount();
    // Before there is an account, records are made all the same.
    let early = laptop.mountpoint().join("before the account");
    std::fs::write(&early, "early").unwrap();
    account(&broker, &laptop, "me@localhost/laptop");

    let home = Device::new("home");
    join(&broker, &laptop, &home, "home@localhost/home", true, true);
    home.kith(&["sync"]);
    let docs = laptop.mountpoint().join("docs");
    assert!(Command::new("cp").args(["-a", "/usr/share/doc/fuse3"]).arg(&docs).status().unwrap().success());
    std::fs::write(laptop.mountpoint().join("large"), vec![42; 3_000_000]).unwrap();
    same_ciphertext(&home, &laptop);
    assert!(ciphertext(&home.store()).len() > 3);

    let desk = Device::new("desk");
    join(&broker, &laptop, &desk, "me@localhost/desk", false, false);
    desk.mount();
    same(&laptop.mountpoint(), &desk.mountpoint(), 60);

    // Back the other way, and a rename, an edit, a delete.
    std::fs::write(desk.mountpoint().join("from the desk"), "hello").unwrap();
    std::fs::rename(desk.mountpoint().join("docs"), desk.mountpoint().join("papers")).unwrap();
    std::fs::remove_file(desk.mountpoint().join("before the account")).unwrap();
    until("the laptop shows what the desk did", 60, || {
        laptop.mountpoint().join("papers").exists()
            && !early.exists()
            && std::fs::read_to_string(laptop.mountpoint().join("from the desk")).is_ok_and(|t| t == "hello")
    });
    same(&laptop.mountpoint(), &desk.mountpoint(), 60);
    same_ciphertext(&home, &laptop);

    // No plaintext in the blind one's folder, records or state.
    for word in ["before the account", "from the desk", "papers", "copyright"] {
        let grep = Command::new("grep").args(["-raFl", word]).arg(home.store()).output().unwrap();
        assert!(grep.stdout.is_empty(), "{word}: {}", String::from_utf8_lossy(&grep.stdout));
    }

    // Unmounted and mounted again: nothing new, nothing gone.
    until("idle", 30, || idle(&laptop) && idle(&desk));
    laptop.umount();
    desk.umount();
    for d in [&laptop, &desk] {
        d.kith(&["fsck"]);
        d.mount();
    }
    assert_eq!(differences(&laptop.mountpoint(), &desk.mountpoint()), "");
    assert_eq!(laptop.kith(&["conflicts"]).lines().filter(|l| l.contains("conflict,")).count(), 0);
    laptop.umount();
    desk.umount();
    home.kith(&["sync", "--stop"]);
}

#[test]
fn edits_made_apart_are_both_kept() {
    let mut broker = Prosody::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    let (at_a, at_b) = (a.mountpoint().join("text.txt"), b.mountpoint().join("text.txt"));
    std::fs::write(&at_a, "first").unwrap();
    until("b has it", 30, || std::fs::read_to_string(&at_b).is_ok_and(|t| t == "first"));
    broker.kill();
    std::fs::write(&at_a, "from a").unwrap();
    std::fs::write(&at_b, "from b").unwrap();
    for d in [&a, &b] {
        d.umount();
        d.mount();
    }
    broker.up();
    let contents = |d: &Device| {
        let mut all: Vec<String> = std::fs::read_dir(d.mountpoint())
            .unwrap()
            .flatten()
            .filter_map(|e| std::fs::read_to_string(e.path()).ok())
            .collect();
        all.sort();
        all
    };
    until("both versions are on both", 60, || {
        contents(&a) == ["from a", "from b"] && contents(&b) == ["from a", "from b"]
    });
    same(&a.mountpoint(), &b.mountpoint(), 60);
    a.umount();
    b.umount();
}

//! A folder shared between accounts, over real brokers: whoever is in it sees it, each change reaches the others, and
//! who may not, does not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::prosody::Prosody;
use common::{Broker, Device, account, same, until};

/// An account with one device, mounted.
fn user(broker: &impl Broker, name: &str, jid: &str) -> Device {
    let d = Device::new(name);
    d.init();
    d.mount();
    account(broker, &d, jid);
    d
}

/// Waits for an invitation that says what it is, and takes it. Where the share is then.
fn accept(d: &Device, from: &str, more: &[&str]) -> PathBuf {
    invited(d, from);
    let args: Vec<&str> = ["--json", "accept", from].into_iter().chain(more.iter().copied()).collect();
    let out: serde_json::Value = serde_json::from_str(&d.kith(&args)).unwrap();
    PathBuf::from(out["path"].as_str().unwrap())
}

/// Waits until an invitation of this account's says what it is.
fn invited(d: &Device, from: &str) -> serde_json::Value {
    let mut found = serde_json::Value::Null;
    until("the invitation came", 60, || {
        let all: serde_json::Value = serde_json::from_str(&d.kith(&["--json", "invites"])).unwrap();
        let mut all = all["invitations"].as_array().unwrap().iter();
        match all.find(|i| i["from"] == from && i["title"].is_string()) {
            Some(one) => {
                found = one.clone();
                true
            }
            None => false,
        }
    });
    found
}

fn reads(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|t| t == text)
}

#[test]
fn a_folder_is_shared_with_another_account_and_changes_go_both_ways() {
    let broker = Prosody::start();
    let (me, alice) = (user(&broker, "me", "me@localhost/a"), user(&broker, "alice", "alice@localhost/b"));
    let photos = me.mountpoint().join("Photos");
    fs::create_dir(&photos).unwrap();
    fs::create_dir(photos.join("2026")).unwrap();
    fs::write(photos.join("2026/sea"), "blue").unwrap();
    fs::write(me.mountpoint().join("private"), "mine").unwrap();
    me.kith(&["share", photos.to_str().unwrap(), "alice@localhost"]);
    assert!(reads(&photos.join("2026/sea"), "blue"), "it is where it was");

    let theirs = accept(&alice, "me@localhost", &[]);
    assert_eq!(theirs, alice.mountpoint().join("Shared/me@localhost/Photos"));
    until("alice has it", 60, || reads(&theirs.join("2026/sea"), "blue"));
    fs::write(theirs.join("2026/sea"), "green").unwrap();
    fs::write(photos.join("new"), "of mine").unwrap();
    until("both have both", 60, || reads(&photos.join("2026/sea"), "green") && reads(&theirs.join("new"), "of mine"));
    same(&photos, &theirs, 60);
    assert!(!alice.mountpoint().join("private").exists());
    for d in [&me, &alice] {
        d.umount();
        d.mount();
    }
    same(&photos, &theirs, 60);
    fs::write(theirs.join("later"), "again").unwrap();
    until("it goes on after a new start", 60, || reads(&photos.join("later"), "again"));
    me.umount();
    alice.umount();
}

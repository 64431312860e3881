//! A folder shared between accounts, over real brokers: whoever is in it sees it, each change reaches the others, and
//! who may not, does not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::federation::Federation;
use common::prosody::Prosody;
use common::{Broker, Device, account, at, join, same, until};

/// An account with one device, mounted.
fn user(broker: &impl Broker, name: &str, jid: &str) -> Device {
    let d = Device::new(name);
    d.init();
    d.mount();
    account(broker, &d, jid);
    d
}

/// An account that is there already.
fn existing(broker: &impl Broker, d: &Device, jid: &str) {
    let args: Vec<String> = ["account", "add", jid].map(str::to_owned).into_iter().chain(at(broker, d)).collect();
    d.kith(&args);
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

#[test]
fn over_two_servers_a_reader_only_reads_and_who_is_removed_gets_nothing_more() {
    let brokers = Federation::start();
    let me = user(&brokers.a, "me", "me@a.test/a");
    let (alice, bob) = (user(&brokers.b, "alice", "alice@b.test/a"), user(&brokers.b, "bob", "bob@b.test/a"));
    let trip = me.mountpoint().join("trip");
    fs::create_dir(&trip).unwrap();
    fs::write(trip.join("map"), "old").unwrap();
    let at = trip.to_str().unwrap();
    me.kith(&["share", at, "alice@b.test"]);
    me.kith(&["share", at, "bob@b.test", "--role", "reader"]);
    me.fails(&["share", at, "bob@b.test", "--role", "reader"], 43);
    me.fails(&["share", at, "x@nowhere.invalid"], 33);
    let here = alice.mountpoint().join("from me");
    let at_alice = accept(&alice, "me@a.test", &["--at", here.to_str().unwrap()]);
    assert_eq!(at_alice, here);
    let at_bob = accept(&bob, "me@a.test", &[]);
    until("both have it", 60, || reads(&at_alice.join("map"), "old") && reads(&at_bob.join("map"), "old"));

    let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(0);
    assert_eq!(fs::write(at_bob.join("map"), "mine").map_err(errno), Err(30), "EROFS");
    assert_eq!(fs::create_dir(at_bob.join("sub")).map_err(errno), Err(30));
    assert_eq!(fs::rename(at_bob.join("map"), bob.mountpoint().join("map")).map_err(errno), Err(18), "EXDEV");
    bob.fails(&["share", at_bob.to_str().unwrap(), "alice@b.test"], 46);
    // Two members that are no account of each other's: alice's edit is at bob's too.
    fs::write(at_alice.join("map"), "new").unwrap();
    until("all have alice's", 60, || reads(&trip.join("map"), "new") && reads(&at_bob.join("map"), "new"));
    // Each has a name of its own for it.
    fs::rename(&at_alice, alice.mountpoint().join("ours")).unwrap();
    let at_alice = alice.mountpoint().join("ours");
    fs::write(at_alice.join("after"), "the rename").unwrap();
    until("the name is alice's own", 60, || reads(&trip.join("after"), "the rename"));

    let told = me.kith(&["unshare", at, "alice@b.test"]);
    assert!(told.contains("may still hold"), "{told}");
    fs::write(trip.join("secret"), "not for alice").unwrap();
    until("bob has it", 60, || reads(&at_bob.join("secret"), "not for alice"));
    assert!(!at_alice.join("secret").exists(), "alice does not");
    me.fails(&["unshare", at, "alice@b.test"], 45);
    bob.kith(&["leave", at_bob.to_str().unwrap()]);
    assert!(!at_bob.exists());
    for d in [&me, &alice, &bob] {
        d.umount();
    }
}

#[test]
fn mistakes_about_shares_say_what_to_do() {
    let broker = Prosody::start();
    let me = user(&broker, "me", "me@localhost/a");
    broker.add_user("plain", common::PASSWORD);
    let dir = me.mountpoint().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(me.mountpoint().join("file"), "").unwrap();
    let at = dir.to_str().unwrap();
    me.fails(&["share", at, "nobody@localhost"], 42);
    me.fails(&["share", at, "plain@localhost"], 42);
    me.fails(&["share", at, "me@localhost"], 2);
    me.fails(&["share", me.mountpoint().to_str().unwrap(), "plain@localhost"], 2);
    me.fails(&["share", me.mountpoint().join("file").to_str().unwrap(), "plain@localhost"], 2);
    me.fails(&["share", me.path("home").to_str().unwrap(), "plain@localhost"], 2);
    me.fails(&["unshare", at, "plain@localhost"], 45);
    me.fails(&["leave", at], 45);
    me.fails(&["accept"], 45);
    me.fails(&["verify", "nobody@localhost", "--yes"], 42);
    me.fails(&["peers", "remove", "nothing"], 45);
    assert!(dir.is_dir(), "it is no share");
    me.umount();
}

#[test]
fn two_people_compare_numbers_once() {
    let broker = Prosody::start();
    let (me, alice) = (user(&broker, "me", "me@localhost/a"), user(&broker, "alice", "alice@localhost/b"));
    let numbers = |d: &Device, jid: &str| -> serde_json::Value {
        serde_json::from_str(&d.kith(&["--json", "verify", jid])).unwrap()
    };
    let (mine, theirs) = (numbers(&me, "alice@localhost"), numbers(&alice, "me@localhost"));
    assert_eq!((&mine["own"], &mine["theirs"]), (&theirs["theirs"], &theirs["own"]));
    assert_ne!(mine["own"], mine["theirs"]);
    assert_eq!(mine["verified"], false);
    me.kith(&["verify", "alice@localhost", "--yes"]);
    assert_eq!(numbers(&me, "alice@localhost")["verified"], true);
    // Alice begins anew, or somebody sits at her address: another account.
    alice.umount();
    let other = Device::new("other");
    other.init();
    other.mount();
    existing(&broker, &other, "alice@localhost/c");
    let dir = me.mountpoint().join("dir");
    fs::create_dir(&dir).unwrap();
    until("the other account shows its list", 30, || numbers(&me, "alice@localhost")["changed"] == true);
    me.fails(&["share", dir.to_str().unwrap(), "alice@localhost"], 47);
    me.kith(&["verify", "alice@localhost", "--yes"]);
    me.kith(&["share", dir.to_str().unwrap(), "alice@localhost"]);
    accept(&other, "me@localhost", &[]);
    me.umount();
    other.umount();
}

#[test]
fn from_the_words_and_a_blind_store_everything_is_read_again() {
    let broker = Prosody::start();
    let (me, alice) = (user(&broker, "me", "me@localhost/a"), user(&broker, "alice", "alice@localhost/b"));
    let home = Device::new("home");
    join(&broker, &me, &home, "home@localhost/home", true, true);
    home.kith(&["sync"]);
    fs::write(me.mountpoint().join("private"), "mine").unwrap();
    let shared = me.mountpoint().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("ours"), "both").unwrap();
    me.kith(&["share", shared.to_str().unwrap(), "alice@localhost"]);
    let at_alice = accept(&alice, "me@localhost", &[]);
    until("alice has it", 60, || reads(&at_alice.join("ours"), "both"));

    assert_eq!(me.status()["sheet_due"], true);
    let page = me.path("page");
    me.kith(&["key", "recovery", "--page", page.to_str().unwrap()]);
    let text = fs::read_to_string(&page).unwrap();
    let words: Vec<&str> = text
        .lines()
        .filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()) && l.contains(". "))
        .flat_map(|l| l.split_whitespace().filter(|w| w.chars().all(|c| c.is_ascii_lowercase())))
        .collect();
    assert_eq!(words.len(), 24, "{text}");
    let file = me.path("words");
    let wrong: Vec<&str> = words.iter().enumerate().map(|(i, w)| if i == 4 { "kith" } else { *w }).collect();
    fs::write(&file, wrong.join(" ")).unwrap();
    let error = me.fails(&["key", "recovery", "--words-file", file.to_str().unwrap()], 48);
    assert!(error.contains("word 5"), "{error}");
    fs::write(&file, words.join("\n")).unwrap();
    me.kith(&["key", "recovery", "--words-file", file.to_str().unwrap()]);
    assert_eq!(me.status()["sheet_due"], false);
    me.fails(&["key", "recovery"], 46);

    // Once the blind device has what the sheet can open, the others burn.
    let new = Device::new("new");
    until("the blind device has all", 60, || {
        let s = home.status();
        s["pending"]["files"] == 0 && home.store().join("shares").read_dir().is_ok_and(|mut d| d.next().is_some())
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    home.kith(&["sync", "--stop"]);
    me.umount();
    let from = home.store();
    let args = ["init", "--recover", from.to_str().unwrap(), "--words-file", file.to_str().unwrap()];
    new.kith(&args);
    new.mount();
    assert!(reads(&new.mountpoint().join("private"), "mine"));
    until("the share is there too", 30, || reads(&new.mountpoint().join("shared/ours"), "both"));
    // It goes on from there: with an account, alice's edits come.
    existing(&broker, &new, "me@localhost/new");
    fs::write(at_alice.join("ours"), "newer").unwrap();
    until("alice's edit is here", 60, || reads(&new.mountpoint().join("shared/ours"), "newer"));
    new.kith(&["peers", "remove", "me", "--lost"]);
    assert!(!new.kith(&["peers"]).lines().any(|l| l.starts_with("me ")));
    fs::write(new.mountpoint().join("shared/mine"), "of the new one").unwrap();
    until("alice has the new device's", 60, || reads(&at_alice.join("mine"), "of the new one"));
    new.umount();
    alice.umount();
}

#[test]
fn shares_within_shares_are_on_all_devices_of_whoever_is_in_them() {
    let broker = Prosody::start();
    let (me, alice) = (user(&broker, "me", "me@localhost/a"), user(&broker, "alice", "alice@localhost/b"));
    let desk = Device::new("desk");
    join(&broker, &me, &desk, "me@localhost/desk", false, false);
    desk.mount();
    let outer = me.mountpoint().join("outer");
    let inner = outer.join("inner");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("deep"), "1").unwrap();
    fs::write(outer.join("top"), "1").unwrap();
    me.kith(&["share", inner.to_str().unwrap(), "alice@localhost"]);
    me.kith(&["share", outer.to_str().unwrap(), "alice@localhost", "--role", "reader"]);
    let invited = |title: &str| {
        let mut share = String::new();
        until("the invitation came", 60, || {
            let all: serde_json::Value = serde_json::from_str(&alice.kith(&["--json", "invites"])).unwrap();
            let mut all = all["invitations"].as_array().unwrap().iter();
            let found = all.find(|i| i["title"] == title).map(|i| i["share"].as_str().unwrap().to_owned());
            share = found.unwrap_or_default();
            !share.is_empty()
        });
        share
    };
    for title in ["inner", "outer"] {
        alice.kith(&["accept", &invited(title)]);
    }
    let at = alice.mountpoint().join("Shared/me@localhost");
    until("alice has both", 60, || reads(&at.join("inner/deep"), "1") && reads(&at.join("outer/top"), "1"));
    until("so has the desk", 60, || {
        reads(&desk.mountpoint().join("outer/inner/deep"), "1") && reads(&desk.mountpoint().join("outer/top"), "1")
    });
    fs::write(at.join("inner/deep"), "2").unwrap();
    fs::write(desk.mountpoint().join("outer/top"), "2").unwrap();
    until("edits go everywhere", 60, || {
        [&me, &desk].iter().all(|d| {
            reads(&d.mountpoint().join("outer/inner/deep"), "2") && reads(&d.mountpoint().join("outer/top"), "2")
        }) && reads(&at.join("outer/top"), "2")
    });
    assert!(fs::write(at.join("outer/top"), "3").is_err(), "read-only, but not what is within");
    for d in [&me, &desk, &alice] {
        d.umount();
    }
}

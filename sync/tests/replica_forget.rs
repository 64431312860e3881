//! Forgetting, with several devices in one process: logs shrink, who comes late or back gets a snapshot, nothing deleted
//! comes back, nothing unsent is lost, and nobody can make others forget by lying.

mod replica_support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keymgr::device::DeviceKeys;
use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::{NodeId, RecordHash, ShareId};
use replica_support::{Device, FeedOf, Lab, until, until_same, write_folder};
use sync::engine::{Head, Heads};
use sync::record::Signed;
use sync::replica::{Opened, Wrong};
use sync::statement::{self, Snapshot};
use sync::wire::{Frame, encode};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Many versions of a file, and files that are deleted.
fn history(lab: &Lab, device: &Device) {
    for seed in 1..=20 {
        device.save(lab, "Note", seed, 3_000);
    }
    for name in ["One", "Two", "Three"] {
        device.save(lab, name, 1, 2_000);
        std::fs::remove_file(device.tree().join(name)).unwrap();
        device.record(lab);
    }
    write_folder(&device.tree().join("Folder"), NodeId::random());
    device.save(lab, "Folder/Film", 1, 200_000);
}

/// Housekeeping at each, until each has forgotten nearly all of its history.
fn until_forgotten(lab: &Lab, devices: &[&Device], now: SystemTime) {
    let most = |d: &&Device| d.logged(lab) < 4_000;
    until("all have forgotten", || {
        devices.iter().for_each(|d| d.replica().tidy(now));
        devices.iter().all(most)
    });
}

fn records(lab: &Lab, device: &Device) -> Vec<Arc<Signed>> {
    sync::log::Logs::open(device.store(), lab.share, &device.id()).unwrap().records().cloned().collect()
}

#[test]
fn logs_shrink_once_everybody_has_seen_what_they_say_and_restarts_change_nothing() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    history(&lab, laptop);
    let before = laptop.logged(&lab);
    laptop.replica().tidy(SystemTime::now());
    assert_eq!(laptop.logged(&lab), before, "the other has not seen it");
    lab.link(laptop, pi);
    until_same(pi, laptop);
    until_forgotten(&lab, &[laptop, pi], SystemTime::now());
    let shown = laptop.shows();
    for well in [true, false] {
        for device in [&mut *laptop, &mut *pi] {
            let marked = device.replica().mark_heads();
            device.stop(&lab, well);
            let opened = Opened::open(device.store(), lab.share, device.id()).unwrap();
            assert!(marked.iter().all(|head| opened.holds(head)), "the mark's heads are in the logs");
            drop(opened);
            device.start(&lab);
        }
        assert_eq!((laptop.shows() == shown, pi.shows() == shown), (true, true));
        assert_eq!(laptop.record(&lab), 0);
        lab.link(laptop, pi);
        laptop.save(&lab, "Note", 100 + u64::from(well), 3_000);
        laptop.save(&lab, "Note", 1, 3_000);
        until_same(pi, laptop);
        laptop.save(&lab, "Note", 20, 3_000);
        until_same(pi, laptop);
        assert_eq!(laptop.shows(), shown);
    }
    assert!(laptop.faults().is_empty() && pi.faults().is_empty());
}

#[test]
fn who_joins_late_gets_what_is_there_and_not_the_history() {
    let (mut lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    history(&lab, laptop);
    until_same(pi, laptop);
    until_forgotten(&lab, &[laptop, pi], SystemTime::now());
    // From a full device.
    let mut desktop = lab.join("desktop", Full, &[laptop, pi]);
    desktop.start(&lab);
    lab.link(laptop, &desktop);
    until_same(&desktop, laptop);
    assert!(desktop.logged(&lab) < 4_000, "{}", desktop.logged(&lab));
    assert!(!desktop.replica().status().unconfirmed);
    desktop.save(&lab, "Note", 77, 4_000);
    until_same(laptop, &desktop);
    until_same(pi, laptop);
    // From the blind one alone, until a full one says that it is all.
    let mut tablet = lab.join("tablet", Full, &[laptop, pi, &desktop]);
    tablet.start(&lab);
    lab.link(pi, &tablet);
    until_same(&tablet, laptop);
    assert!(tablet.replica().status().unconfirmed);
    tablet.save(&lab, "Mine", 5, 4_000);
    until_same(laptop, &tablet);
    lab.link(laptop, &tablet);
    until("it is confirmed", || !tablet.replica().status().unconfirmed);
    until_forgotten(&lab, &[laptop, pi, &desktop, &tablet], SystemTime::now());
    for device in [&*laptop, &*pi, &desktop, &tablet] {
        until_same(device, laptop);
        assert!(device.faults().is_empty(), "{:?}", device.faults());
        assert_eq!(device.quarantined(), 0);
    }
}

#[test]
fn who_was_silent_for_long_is_not_waited_for_and_brings_nothing_back() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("old", Full)]);
    let [laptop, pi, old] = &mut devices[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *pi, &mut *old] {
        device.start(&lab);
    }
    lab.link(laptop, pi);
    lab.link(laptop, old);
    laptop.save(&lab, "Deleted", 1, 5_000);
    laptop.save(&lab, "Edited", 1, 5_000);
    laptop.save(&lab, "Note", 1, 5_000);
    until_same(old, laptop);
    let deleted = std::fs::read(old.tree().join("Deleted")).unwrap();
    lab.unlink(laptop, old);
    // Away, it writes something of its own, and edits what is deleted meanwhile.
    old.save(&lab, "Own", 1, 5_000);
    old.save(&lab, "Edited", 2, 5_000);
    history(&lab, laptop);
    for name in ["Deleted", "Edited"] {
        std::fs::remove_file(laptop.tree().join(name)).unwrap();
    }
    laptop.record(&lab);
    until_same(pi, laptop);
    let soon = SystemTime::now() + 80 * DAY;
    (0..3).for_each(|_| [&*laptop, &*pi].iter().for_each(|d| d.replica().tidy(soon)));
    assert!(laptop.logged(&lab) > 4_000, "it is waited for");
    until_forgotten(&lab, &[laptop, pi], SystemTime::now() + 91 * DAY);
    lab.link(laptop, old);
    until("what it had deleted is gone there too", || !old.tree().join("Deleted").exists());
    until("its own is there", || laptop.tree().join("Own").exists() && laptop.tree().join("Edited").exists());
    until_same(old, laptop);
    until_same(pi, laptop);
    assert!(!laptop.tree().join("Deleted").exists());
    assert!(old.keeps(&deleted), "what it alone still had is in versions/");
    for device in [&*laptop, &*pi, &*old] {
        assert!(device.faults().is_empty(), "{:?}", device.faults());
        assert_eq!(device.replica().status().conflicts, 0);
    }
}

/// A snapshot of these records by a device, as frames; `change` makes it a lie.
fn snapshot(
    lab: &Lab,
    keys: &DeviceKeys,
    records: &[Arc<Signed>],
    whole: bool,
    number: u64,
    change: impl Fn(&mut Snapshot),
) -> Vec<u8> {
    let mut sorted = records.to_vec();
    sorted.sort_by_key(|r| (r.entry().author, r.entry().number, r.hash()));
    let mut heads = Heads::default();
    sorted.iter().for_each(|r| {
        heads.raise(r.entry().author, Head { number: r.entry().number, hash: r.hash() });
    });
    let hashes: Vec<RecordHash> = sorted.iter().map(|r| r.hash()).collect();
    let mut says = Snapshot::new((lab.share, keys.id(), number), heads.clone(), heads, &hashes, whole);
    change(&mut says);
    let signed = statement::Signed::sign(keys, says).unwrap();
    let held = sorted.iter().map(|r| Frame::Held { signed: r.bytes().to_vec(), body: None });
    [Frame::Snapshot(signed.bytes().to_vec())].into_iter().chain(held).flat_map(|f| encode(&f).unwrap()).collect()
}

/// The device's feed from now on says this, once.
fn feed(lab: &Lab, from: &Device, to: &Device, bytes: Vec<u8>) {
    lab.hub.forget(from.id());
    lab.hub.serve(from.id(), Arc::new(FeedOf(bytes)));
    to.replica().peer_up(from.id());
}

#[test]
fn n7_a_snapshot_that_is_not_what_was_signed_is_refused_and_shown() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Full)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *pi, &mut *evil] {
        device.start(&lab);
    }
    lab.link(laptop, evil);
    laptop.save(&lab, "Kept", 1, 5_000);
    laptop.save(&lab, "Note", 1, 5_000);
    until_same(evil, laptop);
    let all = records(&lab, laptop);
    evil.stop(&lab, true);
    let (keys, stranger) = (evil.keys.clone(), DeviceKeys::generate());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let plain = |_: &mut Snapshot| {};
    let short = &all[..1];
    let mut bad_signature = snapshot(&lab, &keys, short, true, now, plain);
    bad_signature[40] ^= 1;
    let author = *Heads::from_iter(all.iter().map(|r| (r.entry().author, head(r)))).iter().next().unwrap().0;
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("forged", bad_signature),
        ("of a stranger", snapshot(&lab, &stranger, short, true, now, plain)),
        ("for another share", snapshot(&lab, &keys, short, true, now, |s| s.share = ShareId::from_bytes([8; 16]))),
        ("other records", snapshot(&lab, &keys, short, true, now, |s| s.records = [0; 32])),
        ("a floor over what it has seen", {
            let far = Head { number: u64::MAX, hash: RecordHash::from_bytes([1; 32]) };
            snapshot(&lab, &keys, short, true, now, move |s| s.floor.raise(author, far))
        }),
        (
            "a record over its heads",
            snapshot(&lab, &keys, short, true, now, |s| {
                (s.heads, s.floor) = (Heads::default(), Heads::default());
            }),
        ),
    ];
    let shown = laptop.shows();
    for (what, lie) in lies {
        let notices = laptop.replica().status().notices.len();
        feed(&lab, evil, laptop, lie);
        until(what, || laptop.replica().status().notices.len() > notices);
        assert_eq!(laptop.shows(), shown, "{what}");
    }
    until("it is shown", || laptop.faults() == [(evil.id(), Wrong::Snapshot)]);
    // A blind device ends nothing, whatever it signs; and it may not sign as if it could.
    feed(&lab, pi, laptop, snapshot(&lab, &pi.keys, short, true, now, plain));
    until("a blind device vouches", || laptop.faults().contains(&(pi.id(), Wrong::Snapshot)));
    assert_eq!(records(&lab, laptop).len(), all.len(), "nothing was dropped");
}

fn head(record: &Signed) -> Head {
    Head { number: record.entry().number, hash: record.hash() }
}

#[test]
fn n7_an_old_snapshot_played_again_is_refused() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("desktop", Full)]);
    let [laptop, desktop] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    desktop.start(&lab);
    lab.link(laptop, desktop);
    laptop.save(&lab, "Note", 1, 5_000);
    until_same(desktop, laptop);
    let old = records(&lab, desktop);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let replayed = snapshot(&lab, &desktop.keys, &old, true, now - 100, |_| {});
    laptop.save(&lab, "More", 1, 5_000);
    until_same(desktop, laptop);
    until("its signed heads are known", || {
        desktop.replica().tidy(SystemTime::now());
        laptop.replica().tidy(SystemTime::now());
        let seen = laptop.store().join("records").join(lab.share.to_string()).join("seen");
        let id = desktop.id();
        std::fs::read(seen).is_ok_and(|b| b.windows(32).any(|w| w == id.as_bytes()) && b.len() > 400)
    });
    feed(&lab, desktop, laptop, replayed);
    until("it is shown", || laptop.faults() == [(desktop.id(), Wrong::Snapshot)]);
    assert!(laptop.tree().join("More").exists());
}

#[test]
fn n4_what_a_blind_device_leaves_out_of_a_snapshot_is_not_ended_and_comes_from_a_full_one() {
    let (mut lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    laptop.save(&lab, "LeftOut", 1, 5_000);
    laptop.save(&lab, "Note", 1, 5_000);
    until_same(pi, laptop);
    until("everybody has seen all", || {
        [&*laptop, &*pi].iter().for_each(|d| d.replica().tidy(SystemTime::now()));
        laptop.save(&lab, "Note", 2, 5_000);
        laptop.logged(&lab) < 2_000
    });
    until_same(pi, laptop);
    let all = records(&lab, laptop);
    let root = NodeId::root_of(lab.share);
    let left_out = all.iter().position(|r| r.entry().number == 2).expect("the first file");
    let mut fewer = all.clone();
    fewer.remove(left_out);
    assert!(fewer.iter().any(|r| r.entry().record.node == root));
    // One that has it all keeps it; one that is new shows less, says so, and has it all from a full device.
    let mut desktop = lab.join("desktop", Full, &[laptop, pi]);
    desktop.start(&lab);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 60;
    let lie = snapshot(&lab, &pi.keys, &fewer, false, now, |_| {});
    let shown = laptop.shows();
    feed(&lab, pi, laptop, lie.clone());
    feed(&lab, pi, &desktop, lie);
    until("it was taken", || desktop.replica().status().unconfirmed);
    assert_eq!(laptop.shows(), shown);
    assert!(!desktop.tree().join("LeftOut").exists());
    lab.hub.serve(laptop.id(), Arc::new(laptop.replica().clone()));
    lab.link(laptop, &desktop);
    until_same(&desktop, laptop);
    until("it is confirmed", || !desktop.replica().status().unconfirmed);
}

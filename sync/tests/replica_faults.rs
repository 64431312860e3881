//! A modified device among honest ones: what it signs, says and sends is laid side by side, and it is found out. Each test
//! is named after its line in the list of attacks.

mod replica_support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::{Incarnation, RecordHash, Root};
use replica_support::{Device, FeedOf, Lab, Line, until, until_same};
use sync::engine::{Head, Heads};
use sync::record::Signed;
use sync::replica::{Peers, Wrong};
use sync::statement::{self, Seen};
use sync::wire::{Frame, Hello, encode};

const LIFE: [u8; 8] = [4; 8];

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn seen(lab: &Lab, by: &Device, number: u64, heads: &Heads) -> Vec<u8> {
    let says = Seen::new(lab.share, by.id(), Incarnation::from_bytes(LIFE), number, heads.clone());
    encode(&Frame::Seen(statement::Signed::sign(&by.keys, says).unwrap().bytes().to_vec())).unwrap()
}

fn feed(lab: &Lab, from: &Device, to: &Device, bytes: Vec<u8>) {
    lab.hub.forget(from.id());
    lab.hub.serve(from.id(), Arc::new(FeedOf(bytes)));
    to.replica().peer_up(from.id());
}

fn records(lab: &Lab, device: &Device) -> Vec<Arc<Signed>> {
    sync::log::Logs::open(device.store(), lab.share, &device.id()).unwrap().records().cloned().collect()
}

/// The heads of the first `n` of these records.
fn heads_of(records: &[Arc<Signed>], n: usize) -> Heads {
    records.iter().take(n).map(|r| (r.entry().author, Head { number: r.entry().number, hash: r.hash() })).collect()
}

/// Housekeeping now, and again when there was time for what is on its way.
fn tidy_twice(device: &Device) {
    device.replica().tidy(SystemTime::now());
    device.replica().tidy(SystemTime::now() + Duration::from_secs(11 * 60));
}

#[test]
fn n4_a_device_that_tells_two_others_different_things_is_found_out_when_they_meet() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Note", 1, 3_000);
    laptop.save(&lab, "More", 1, 3_000);
    let all = records(&lab, laptop);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    lab.unlink(laptop, pi);
    let number = now();
    let known = |d: &Device| {
        d.replica().tidy(SystemTime::now());
        let path = d.store().join("records").join(lab.share.to_string()).join("seen");
        std::fs::read(path).is_ok_and(|b| b.windows(40).any(|w| w[..32] == *evil.id().as_bytes() && w[32..] == LIFE))
    };
    feed(&lab, evil, laptop, seen(&lab, evil, number, &heads_of(&all, 1)));
    until("it has heard it", || known(laptop));
    laptop.replica().peer_down(evil.id());
    feed(&lab, evil, pi, seen(&lab, evil, number, &heads_of(&all, 2)));
    until("it has heard it", || known(pi));
    assert!(laptop.faults().is_empty() && pi.faults().is_empty());
    lab.hub.serve(laptop.id(), Arc::new(laptop.replica().clone()));
    lab.hub.serve(pi.id(), Arc::new(pi.replica().clone()));
    lab.link(laptop, pi);
    let both = |d: &Device| d.faults() == [(evil.id(), Wrong::Forks)];
    until("both find it out", || both(laptop) && both(pi));
    // It is not forgotten with a restart.
    pi.stop(&lab, true);
    pi.start(&lab);
    assert_eq!(pi.faults(), [(evil.id(), Wrong::Forks)]);
    let fault = &pi.replica().status().faults[0];
    assert!(fault.to_string().starts_with("evil signed two different accounts"), "{fault}");
}

#[test]
fn n4_a_device_that_goes_back_to_an_old_state_is_found_out() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Note", 1, 3_000);
    laptop.save(&lab, "More", 1, 3_000);
    let all = records(&lab, laptop);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    // What it signs later says less; or it signs nothing new, and what it says here is less than it had signed.
    let (old, new) = (heads_of(&all, 1), heads_of(&all, 3));
    feed(&lab, evil, laptop, [seen(&lab, evil, now(), &new), seen(&lab, evil, now() + 9, &old)].concat());
    until("it is found out", || laptop.faults() == [(evil.id(), Wrong::Back)]);
    let frames = [seen(&lab, evil, now(), &new), encode(&Frame::Heads(old)).unwrap()].concat();
    feed(&lab, evil, pi, frames);
    until("it was read", || {
        tidy_twice(pi);
        pi.faults().contains(&(evil.id(), Wrong::Older))
    });
}

#[test]
fn n4_a_device_that_withholds_what_signed_heads_show_to_exist_is_found_out() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind), ("other", Blind)]);
    let [laptop, pi, evil, other] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Note", 1, 3_000);
    let all = records(&lab, laptop);
    let heads = heads_of(&all, all.len());
    // By its own word, and by the laptop's, which it passes on.
    feed(&lab, evil, pi, seen(&lab, evil, now(), &heads));
    until("it is found out", || pi.faults() == [(evil.id(), Wrong::Withholds)]);
    feed(&lab, other, pi, seen(&lab, laptop, now(), &heads));
    until("it is found out", || pi.faults().contains(&(other.id(), Wrong::Withholds)));
    // What it does not give comes from somebody else.
    lab.link(laptop, pi);
    until_same(pi, laptop);
    assert_eq!(laptop.faults(), []);
}

#[test]
fn n4_a_device_that_does_not_give_a_body_which_it_said_it_has_is_found_out() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Film", 1, 300_000);
    let all = records(&lab, laptop);
    let root: Root = all.iter().find_map(|r| Some(r.entry().record.content()?.root)).unwrap();
    let mut bytes: Vec<u8> = Vec::new();
    for record in &all {
        bytes.extend(encode(&Frame::Record { signed: record.bytes().to_vec(), body: None }).unwrap());
    }
    // Of a body that it never claimed it is no fault.
    feed(&lab, evil, pi, bytes.clone());
    until("it is wanted", || pi.replica().status().files == 1);
    tidy_twice(pi);
    assert_eq!(pi.faults(), []);
    bytes.extend(encode(&Frame::Have(vec![root])).unwrap());
    feed(&lab, evil, pi, bytes);
    until("it is found out", || {
        tidy_twice(pi);
        pi.faults() == [(evil.id(), Wrong::Dropped)]
    });
    lab.link(laptop, pi);
    until_same(pi, laptop);
}

#[test]
fn n5_a_claim_to_have_seen_what_does_not_exist_holds_nobody_up() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    for seed in 1..=20 {
        laptop.save(&lab, "Note", seed, 3_000);
    }
    until_same(pi, laptop);
    let all = records(&lab, laptop);
    let heads = heads_of(&all, all.len());
    let mut claimed = heads.clone();
    let far = Head { number: u64::MAX, hash: RecordHash::from_bytes([1; 32]) };
    claimed.raise(*heads.iter().next().unwrap().0, far);
    feed(&lab, evil, laptop, seen(&lab, evil, now(), &heads));
    let hello = Hello { version: 1, heads: claimed, snapshot: false };
    let request = hyper::Request::post(format!("/v1/shares/{}/feed", lab.share))
        .body(postcard::to_stdvec(&hello).unwrap().into())
        .unwrap();
    let line = Line { hub: lab.hub.clone(), me: evil.id() };
    let answer = lab.runtime.block_on(line.request(laptop.id(), request)).unwrap();
    assert_eq!(answer.status(), 200);
    until("everybody forgets all the same", || {
        pi.replica().tidy(SystemTime::now());
        tidy_twice(laptop);
        laptop.logged(&lab) < 3_000
    });
    assert_eq!(laptop.faults(), [(evil.id(), Wrong::Withholds)]);
}

#[test]
fn n7_old_records_and_tombstones_played_again_change_nothing() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    laptop.save(&lab, "Note", 1, 3_000);
    laptop.save(&lab, "Deleted", 1, 3_000);
    std::fs::remove_file(laptop.tree().join("Deleted")).unwrap();
    laptop.record(&lab);
    let old = records(&lab, laptop);
    for seed in 2..=20 {
        laptop.save(&lab, "Note", seed, 3_000);
    }
    until_same(pi, laptop);
    feed(&lab, evil, laptop, seen(&lab, evil, now(), &heads_of(&records(&lab, laptop), 99)));
    lab.hub.serve(evil.id(), Arc::new(FeedOf(Vec::new())));
    feed(&lab, evil, pi, seen(&lab, evil, now(), &heads_of(&records(&lab, pi), 99)));
    lab.hub.serve(laptop.id(), Arc::new(laptop.replica().clone()));
    until("all is forgotten", || {
        [&*laptop, &*pi].iter().for_each(|d| d.replica().tidy(SystemTime::now()));
        laptop.logged(&lab) < 3_000 && pi.logged(&lab) < 3_000
    });
    let (shown, logged) = (pi.shows(), pi.logged(&lab));
    let mut replay: Vec<u8> = Vec::new();
    for record in old.iter().chain(&old) {
        replay.extend(encode(&Frame::Record { signed: record.bytes().to_vec(), body: None }).unwrap());
    }
    // After it, something that shows that it was read.
    replay.extend(seen(&lab, evil, now() + 5, &Heads::default()));
    feed(&lab, evil, pi, replay);
    until("it was read", || pi.faults() == [(evil.id(), Wrong::Back)]);
    assert_eq!((pi.shows() == shown, pi.logged(&lab)), (true, logged));
    assert_eq!(pi.replica().status().files, 0, "nothing of it is wanted");
}

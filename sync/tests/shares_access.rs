//! A share of several accounts: who may what, who is let in, who goes. Attackers are modified clients; their tests are
//! named after the lines of the list of attacks.

mod replica_support;

use std::sync::Arc;

use keymgr::circle::{Access, Circle};
use keymgr::device::DeviceKeys;
use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::{Epoch, FileId, Incarnation, LineageId, Locator, NodeId, ShareId, StoreName};
use keymgr::root::Groups;
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use replica_support::{Device, FeedOf, Lab, header, until, until_same};
use sync::record::{Content, Kind, Live, Place, Record, Signed, State};
use sync::shares::InvitationError;
use sync::wire::{Frame, encode, pack};

/// laptop and pi of the owner, alice who writes, rita who reads, bert who is blind: each with the share.
fn five(lab: &Lab, devices: &[Device]) -> (Lab, Vec<Device>) {
    let [laptop, pi, alice, rita, bert] = devices else { unreachable!() };
    lab.shared(&[
        ("me@a", &[laptop, pi], Access::Owner),
        ("alice@b", &[alice], Access::Writer),
        ("rita@c", &[rita], Access::Reader),
        ("bert@d", &[bert], Access::Blind),
    ])
}

fn devices() -> (Lab, Vec<Device>) {
    Lab::new(&[("laptop", Full), ("pi", Blind), ("alice", Full), ("rita", Full), ("bert", Full)])
}

fn body() -> Vec<u8> {
    [header(1, &[5; 16]), vec![0x42; 500]].concat()
}

fn record(share: ShareId, name: &str, n: u8) -> Record {
    let bytes = body();
    let parent = NodeId::root_of(share);
    let live = Live {
        places: vec![Place { parent, name: StoreName::parse(name).unwrap(), locator: Locator::from_bytes([0; 16]) }],
        places_from: None,
        content: Some(Content {
            file: FileId::from_bytes([n; 16]),
            epoch: Epoch::FIRST,
            lineage: LineageId::from_bytes([5; 16]),
            length: bytes.len() as u64,
            root: Groups::of_bytes(&bytes).root(),
        }),
        content_from: None,
        attrs: vec![1],
        attrs_from: None,
    };
    let node = NodeId::from_bytes([n; 16]);
    Record { share, node, kind: Kind::File, replaces: vec![], state: State::Live(live), together: None }
}

fn signed(keys: &DeviceKeys, list: u64, record: Record) -> Vec<u8> {
    Signed::sign(keys, Incarnation::from_bytes([4; 8]), 1, None, list, record).unwrap().bytes().to_vec()
}

fn frame(signed: Vec<u8>) -> Vec<u8> {
    encode(&Frame::Record { signed, body: Some(pack(&body())) }).unwrap()
}

fn feed(lab: &Lab, from: &Device, to: &Device, bytes: Vec<u8>) {
    lab.hub.forget(from.id());
    lab.hub.serve(from.id(), Arc::new(FeedOf(bytes)));
    to.replica().peer_up(from.id());
}

#[test]
fn all_who_belong_to_a_share_hold_it_and_pass_it_on() {
    let (lab, all) = devices();
    let (share, mut again) = five(&lab, &all);
    again.iter_mut().for_each(|d| d.start(&share));
    let [laptop, pi, alice, rita, bert] = &again[..] else { unreachable!() };
    laptop.save(&share, "Note", 1, 9_000);
    laptop.save(&share, "Film", 2, 300_000);
    // The pi is never linked with anybody but a blind contact, who has it of a reader, who has it of alice.
    for (a, b) in [(laptop, alice), (alice, rita), (rita, bert), (bert, pi)] {
        share.link(a, b);
    }
    again.iter().for_each(|d| until_same(d, laptop));
    alice.save(&share, "Note", 3, 8_000);
    again.iter().for_each(|d| until_same(d, alice));
    // A reader's own changes are no records.
    rita.save(&share, "Note", 4, 8_000);
    rita.save(&share, "Mine", 5, 8_000);
    laptop.save(&share, "Last", 6, 5_000);
    until_same(pi, laptop);
    assert_eq!(rita.logs(&share), laptop.logs(&share), "two authors, the same records");
    assert_eq!(rita.replica().access(), Access::Reader);
    assert_eq!(pi.replica().access(), Access::Blind);
}

#[test]
fn n3_records_of_readers_and_blind_members_count_nowhere() {
    let (lab, all) = devices();
    let (share, mut again) = five(&lab, &all);
    let (rest, members) = again.split_at_mut(2);
    rest.iter_mut().for_each(|d| d.start(&share));
    let [laptop, pi] = &*rest else { unreachable!() };
    let [alice, rita, bert] = &*members else { unreachable!() };
    let evil = [rita, bert].map(|d| frame(signed(&d.keys, u64::MAX, record(share.share, "Evil", 7)))).concat();
    let stranger = frame(signed(&DeviceKeys::generate(), 1, record(share.share, "Evil2", 8)));
    let good = frame(signed(&alice.keys, 1, record(share.share, "Good", 5)));
    // Relayed by a writer, it is left out and what follows counts.
    for to in [laptop, pi] {
        feed(&share, alice, to, [evil.clone(), stranger.clone(), good.clone()].concat());
        until("what counts is there", || to.tree().join("Good").exists());
        assert_eq!(to.shows().len(), 1);
        assert_eq!(to.replica().status().refused.len(), 3);
    }
    // Of themselves it ends their feed.
    for from in [rita, bert] {
        feed(&share, from, laptop, frame(signed(&from.keys, 1, record(share.share, "Evil", 7))));
        let name = if from.id() == rita.id() { "rita@c0" } else { "bert@d0" };
        until("it is told", || laptop.replica().status().notices.iter().any(|n| n.starts_with(name)));
    }
    assert_eq!(laptop.shows().len(), 1);
    assert_eq!(laptop.replica().mark_heads().len(), 1);
}

#[test]
fn n3_n7_who_was_removed_writes_no_more_and_old_lists_let_nobody_back_in() {
    let (lab, all) = devices();
    let (share, mut again) = five(&lab, &all);
    let (rest, members) = again.split_at_mut(2);
    rest.iter_mut().for_each(|d| d.start(&share));
    let [laptop, pi] = &*rest else { unreachable!() };
    let [alice, rita, _] = &*members else { unreachable!() };
    share.link(laptop, pi);
    let before = share.circle();
    let alices = before.get(&alice.id()).unwrap().account;
    let after = before.with_removed(&laptop.keys, alices).unwrap();
    laptop.replica().take_circle(&after);
    until("the pi knows", || !pi.replica().has_seat(&alice.id()));
    // By a member who stays: the old lists, then what alice writes now and dates back.
    let mut bytes = encode(&Frame::Members(before.members().unwrap().to_bytes())).unwrap();
    before.lists().for_each(|list| bytes.extend(encode(&Frame::List(list.to_bytes())).unwrap()));
    bytes.extend(frame(signed(&alice.keys, 1, record(share.share, "Late", 9))));
    for to in [laptop, pi] {
        feed(&share, rita, to, bytes.clone());
        until("it is refused", || to.replica().status().refused == [alice.id()]);
        assert!(!to.replica().has_seat(&alice.id()));
        assert!(to.shows().is_empty());
    }
    // It is kept so over a restart that begins with the old circle.
    let [laptop, _] = rest else { unreachable!() };
    laptop.stop(&share, true);
    laptop.start(&share);
    assert!(!laptop.replica().has_seat(&alice.id()), "what was learned is durable");
    // Who knocks then is told that it is gone; it says so.
    let [alice, ..] = members else { unreachable!() };
    alice.start(&share);
    share.link(alice, laptop);
    until("alice is told", || alice.replica().status().notices.iter().any(|n| n.contains("does not belong")));
}

#[test]
fn what_a_removed_writer_had_done_stays_for_all_who_stay() {
    let (lab, all) = devices();
    let (share, mut again) = five(&lab, &all);
    again.iter_mut().for_each(|d| d.start(&share));
    let [laptop, _, alice, rita, bert] = &again[..] else { unreachable!() };
    laptop.save(&share, "Note", 1, 9_000);
    for device in [alice, rita, bert] {
        share.link(laptop, device);
    }
    again.iter().filter(|d| d.role == Full).for_each(|d| until_same(d, laptop));
    // bert is away when alice edits, and learns of her removal before he hears of the edit.
    share.unlink(laptop, bert);
    alice.save(&share, "Note", 2, 9_000);
    alice.save(&share, "New", 3, 90_000);
    until_same(laptop, alice);
    until_same(rita, alice);
    let circle = laptop.replica().circle().borrow().clone();
    let without = circle.with_removed(&laptop.keys, circle.get(&alice.id()).unwrap().account).unwrap();
    bert.replica().take_circle(&without);
    laptop.replica().take_circle(&without);
    share.link(laptop, bert);
    until_same(bert, laptop);
    assert_eq!(laptop.shows().len(), 2);
    until_same(rita, laptop);
    // Once, and by one: nothing is said again after a restart.
    let logs = laptop.logs(&share);
    assert_eq!(laptop.record(&share), 0);
    assert_eq!(laptop.logs(&share), logs);
}

#[test]
fn an_invitation_is_all_that_is_needed_and_its_keys_open() {
    let (lab, mut all) = devices();
    all.iter_mut().for_each(|d| d.start(&lab));
    let (share, mut again) = five(&lab, &all);
    let (mine, others) = again.split_at_mut(1);
    mine[0].start(&share);
    let keys = ShareKeys::create(share.share);
    let shelf = Shelf::first(&keys, &mine[0].keys, &share.circle()).unwrap();
    mine[0].replica().take_shelf(&shelf);
    mine[0].replica().set_title("Photos");
    let ask = |device: &Device, id: ShareId| {
        device.shares.set_net(Some(device.line(&lab)));
        lab.runtime.block_on(device.shares.invitation(mine[0].id(), id))
    };
    for device in &*others {
        let invitation = ask(device, share.share).unwrap();
        assert_eq!(invitation.title, "Photos");
        assert_eq!(invitation.circle, share.circle());
        let mut opened = ShareKeys::empty(share.share);
        let has_keys = invitation.circle.get(&device.id()).unwrap().access.has_keys();
        assert_eq!(invitation.shelf.open(&device.keys, &invitation.circle, &mut opened), has_keys);
    }
    let named = |device: &Device| lab.runtime.block_on(device.shares.shares_at(mine[0].id())).unwrap();
    let both: std::collections::BTreeSet<ShareId> = named(&others[1]).into_iter().collect();
    assert_eq!(both, [lab.share, share.share].into());
    assert!(matches!(ask(&others[0], ShareId::from_bytes([3; 16])), Err(InvitationError::None)));
    let gone = share.circle().get(&others[1].id()).unwrap().account;
    mine[0].replica().take_circle(&share.circle().with_removed(&mine[0].keys, gone).unwrap());
    assert!(matches!(ask(&others[1], share.share), Err(InvitationError::Gone)));

    // A blind device that knows no more than the share's id keeps the shelf, and gives it to one that comes later.
    let circle = Circle::of_share(share.circle().members().unwrap().clone(), share.circle().lists().cloned());
    assert_eq!(circle, share.circle());
    let [pi, _, rita, _] = others else { unreachable!() };
    pi.start(&share);
    share.link(&mine[0], pi);
    until("the pi has the shelf", || !pi.replica().shelf().borrow().is_empty());
    share.unlink(&mine[0], pi);
    pi.stop(&share, true);
    pi.start(&share);
    rita.start(&share);
    share.link(pi, rita);
    until("rita has the keys", || {
        let circle = rita.replica().circle().borrow().clone();
        rita.replica().shelf().borrow().open(&rita.keys, &circle, &mut ShareKeys::empty(share.share))
    });
}

/// ATTACKS.md N2, N7: what claims to be of this share and is not.
#[test]
fn n7_another_shares_lists_and_shelves_end_the_feed() {
    let (lab, all) = devices();
    let (share, mut again) = five(&lab, &all);
    let (other, _) = five(&lab, &all);
    again[0].start(&share);
    let [laptop, _, alice, ..] = &again[..] else { unreachable!() };
    let members = other.circle().members().unwrap().to_bytes();
    let foreign = Shelf::first(&ShareKeys::create(other.share), &all[0].keys, &other.circle()).unwrap();
    let mut forged = share.circle().lists().next().unwrap().to_bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for hostile in [Frame::Members(members), Frame::Shelf(foreign.to_bytes()), Frame::List(forged)] {
        laptop.replica().peer_down(alice.id());
        let before = laptop.replica().status().notices.len();
        feed(&share, alice, laptop, encode(&hostile).unwrap());
        until("it is refused", || laptop.replica().status().notices.len() > before);
    }
    // The list of an account that nobody named is no error: the peer may know more. It is not taken.
    let stranger = other.circle().lists().next().unwrap().clone();
    laptop.replica().peer_down(alice.id());
    let good = frame(signed(&alice.keys, 1, record(share.share, "Good", 5)));
    feed(&share, alice, laptop, [encode(&Frame::List(stranger.to_bytes())).unwrap(), good].concat());
    until("what follows counts", || laptop.tree().join("Good").exists());
    assert_eq!(*laptop.replica().circle().borrow(), share.circle());
}

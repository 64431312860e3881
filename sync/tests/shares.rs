//! Several shares of one device on one network: each goes to those who have a seat in it, and to nobody else.

mod replica_support;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use keymgr::devices::Cut;
use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::ShareId;
use replica_support::{Device, Lab, Liar, until, until_same};

/// What a device is answered: the status and the body's length.
fn asks(lab: &Lab, device: &Device, of: &Device, method: &str, path: String) -> (u16, usize) {
    let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
    lab.runtime.block_on(async {
        let answer = device.line(lab).request(of.id(), request).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes().len())
    })
}

#[test]
fn two_shares_go_over_one_link_and_who_has_no_seat_learns_nothing() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("alice", Full)]);
    let [laptop, pi, alice] = &mut devices[..] else { unreachable!() };
    let (photos, mut again) = lab.another(ShareId::from_bytes([8; 16]), &[laptop, alice]);
    let [at_laptop, at_alice] = &mut again[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *pi, &mut *alice] {
        device.start(&lab);
    }
    at_laptop.start(&photos);
    lab.link(laptop, pi);
    lab.link(laptop, alice);
    laptop.save(&lab, "Note", 1, 9_000);
    at_laptop.save(&photos, "Picture", 2, 200_000);
    until_same(pi, laptop);
    until_same(alice, laptop);
    // It begins at alice's later, on the link that is there.
    at_alice.start(&photos);
    until_same(at_alice, at_laptop);
    at_alice.save(&photos, "Picture", 3, 100_000);
    until_same(at_laptop, at_alice);
    assert_eq!(laptop.shows().len(), 1);
    let body = at_laptop.replica().mark_heads().len();
    assert_eq!(body, 2, "two authors");

    let picture = std::fs::read(at_laptop.tree().join("Picture")).unwrap();
    let root = keymgr::root::Groups::of_bytes(&picture).root();
    let (is, is_not) = (photos.share, ShareId::from_bytes([9; 16]));
    for resource in [format!("objects/{root}"), format!("objects/{root}/groups"), "feed".into(), "invitation".into()] {
        for method in ["GET", "POST"] {
            let at = |share: ShareId| asks(&lab, pi, laptop, method, format!("/v1/shares/{share}/{resource}"));
            assert_eq!(at(is), (404, 0), "{method} {resource}");
            assert_eq!(at(is), at(is_not));
        }
    }
    let of = asks(&lab, alice, laptop, "GET", format!("/v1/shares/{is}/objects/{root}"));
    assert_eq!(of, (200, picture.len()));
    let elsewhere = asks(&lab, alice, laptop, "GET", format!("/v1/shares/{}/objects/{root}", lab.share));
    assert_eq!(elsewhere, (404, 0), "a body is asked for in its share");
}

#[test]
fn who_leaves_one_share_is_still_a_peer_in_the_other() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("alice", Full)]);
    let [laptop, alice] = &mut devices[..] else { unreachable!() };
    let (photos, mut again) = lab.another(ShareId::from_bytes([8; 16]), &[laptop, alice]);
    let [at_laptop, at_alice] = &mut again[..] else { unreachable!() };
    laptop.start(&lab);
    alice.start(&lab);
    at_laptop.start(&photos);
    at_alice.start(&photos);
    lab.link(laptop, alice);
    at_laptop.save(&photos, "Picture", 1, 5_000);
    until_same(at_alice, at_laptop);
    let without = photos.list.with_removed(&*photos.admin, alice.id(), Cut::Keep).unwrap();
    at_laptop.replica().take_list(&without);
    at_laptop.save(&photos, "Picture", 2, 5_000);
    laptop.save(&lab, "Note", 3, 5_000);
    until_same(alice, laptop);
    until("no peer there any more", || at_laptop.replica().status().peers.is_empty());
    assert_ne!(at_alice.shows(), at_laptop.shows());
    assert_eq!(laptop.shares.peers().borrow().len(), 0, "none has a JID here");
}

/// Another header, the same pages: what a folder's files are in the share that it became.
fn carve(from: &Device, to: &Device, name: &str, number: u8) {
    let mut bytes = std::fs::read(from.tree().join(name)).unwrap();
    bytes[100..200].fill(number);
    std::fs::write(to.tree().join(name), bytes).unwrap();
}

#[test]
fn a_folder_that_becomes_a_share_costs_its_headers_where_its_files_are_held() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("alice", Full)]);
    let [laptop, pi, alice] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    alice.start(&lab);
    let large = 8 << 20;
    laptop.save(&lab, "Film", 1, large);
    for n in 0..20 {
        laptop.save(&lab, &format!("Note{n}"), 10 + n, 30_000);
    }
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let (photos, mut again) = lab.another(ShareId::from_bytes([8; 16]), &[laptop, pi]);
    let [at_laptop, at_pi] = &mut again[..] else { unreachable!() };
    at_laptop.start(&photos);
    carve(laptop, at_laptop, "Film", 1);
    (0..20).for_each(|n| carve(laptop, at_laptop, &format!("Note{n}"), 2));
    // Half of it is gone from the tree of the first share when it is asked for, and lies with the old versions.
    std::fs::remove_file(laptop.tree().join("Film")).unwrap();
    (0..10).for_each(|n| std::fs::remove_file(laptop.tree().join(format!("Note{n}"))).unwrap());
    laptop.record(&lab);
    until_same(pi, laptop);
    at_laptop.record(&photos);
    let meter = lab.hub.meter(pi, laptop);
    let before = meter.read.load(std::sync::atomic::Ordering::SeqCst);
    at_pi.start(&photos);
    until_same(at_pi, at_laptop);
    let read = meter.read.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert!(read < 40_000, "21 records and headers: {read}");
    assert_eq!(at_pi.quarantined() + pi.quarantined(), 0);

    // Who is new to it gets all.
    let (with_alice, mut again) = lab.another(ShareId::from_bytes([9; 16]), &[laptop, alice]);
    let [at_laptop, at_alice] = &mut again[..] else { unreachable!() };
    at_laptop.start(&with_alice);
    at_alice.start(&with_alice);
    (10..20).for_each(|n| carve(laptop, at_laptop, &format!("Note{n}"), 3));
    at_laptop.record(&with_alice);
    lab.link(laptop, alice);
    until_same(at_alice, at_laptop);
}

#[test]
fn pages_that_only_look_alike_are_fetched() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Film", 1, 400_000);
    laptop.save(&lab, "Note", 2, 9_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let (photos, mut again) = lab.another(ShareId::from_bytes([8; 16]), &[laptop, pi]);
    let [at_laptop, at_pi] = &mut again[..] else { unreachable!() };
    at_laptop.start(&photos);
    at_pi.start(&photos);
    for (name, at) in [("Film", 300_000), ("Note", 5_000)] {
        carve(laptop, at_laptop, name, 1);
        let path = at_laptop.tree().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    at_laptop.record(&photos);
    until_same(at_pi, at_laptop);
}

/// ATTACKS.md N6: a peer gives a header that does not go with the pages that are held, or other pages under the right
/// names of groups. It is found out against the signed root, and the body is fetched whole, once.
#[test]
fn n6_a_forged_header_is_found_out_and_the_body_is_fetched_whole_once() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let length = 400_000;
    laptop.save(&lab, "Film", 1, length);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let (photos, mut again) = lab.another(ShareId::from_bytes([8; 16]), &[laptop, pi]);
    let [at_laptop, at_pi] = &mut again[..] else { unreachable!() };
    at_laptop.start(&photos);
    carve(laptop, at_laptop, "Film", 1);
    at_laptop.record(&photos);
    // The first answer to anything about the body is a forged header.
    let lied = std::sync::atomic::AtomicBool::new(false);
    let lie = move |path: &str| {
        let first = path.contains("/objects/") && !lied.swap(true, std::sync::atomic::Ordering::SeqCst);
        first.then(|| {
            let mut forged = hyper::Response::new(sync::link::full(vec![7; 256]));
            *forged.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
            forged
        })
    };
    lab.hub.serve(laptop.id(), std::sync::Arc::new(Liar { truth: std::sync::Arc::new(laptop.shares.clone()), lie }));
    lab.link(laptop, pi);
    let meter = lab.hub.meter(pi, laptop);
    let before = meter.read.load(std::sync::atomic::Ordering::SeqCst);
    at_pi.start(&photos);
    until_same(at_pi, at_laptop);
    let read = meter.read.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert!(read > length as u64 && read < length as u64 + 60_000, "whole, once: {read}");
    assert_eq!(at_pi.quarantined() + pi.quarantined(), 0);
}

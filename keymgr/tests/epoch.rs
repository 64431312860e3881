//! Epoch keys: who may make them, who opens them (ATTACKS.md N7).

use keymgr::circle::Circle;
use keymgr::device::DeviceKeys;
use keymgr::devices::{Cut, DeviceList, Listed, Role};
use keymgr::epoch::{EpochRecord, Error, Wrapped, accepted, unwrap, wrap};
use keymgr::ids::{Epoch, ShareId};
use keymgr::keyring::Keyring;
use keymgr::share::ShareKeys;

struct World {
    admin: DeviceKeys,
    other: DeviceKeys,
    list: Circle,
    keys: ShareKeys,
    first: EpochRecord,
    account: keymgr::account::AccountKey,
}

fn listed(keys: &DeviceKeys, role: Role) -> Listed {
    Listed::new(keys.public(), role, "device", "", 1)
}

/// The circle after a change to its one list.
fn with(circle: &Circle, change: impl Fn(&DeviceList) -> DeviceList) -> Circle {
    Circle::of_account(change(circle.lists().next().unwrap()))
}

fn world() -> World {
    let ring = Keyring::first("first", "", 1).unwrap();
    let other = DeviceKeys::generate();
    let list = ring.list.unwrap().with_added(&ring.device, listed(&other, Role::Full)).unwrap();
    let list = Circle::of_account(list);
    let keys = ring.shares[0].clone();
    let first = EpochRecord::first(&keys, &ring.device, &list).unwrap();
    World { admin: ring.device, other, list, keys, first, account: ring.account.unwrap() }
}

#[test]
fn the_newest_key_opens_every_older_one() {
    let mut w = world();
    let second = w.first.next(&mut w.keys, &w.admin, &w.list).unwrap();
    let third = second.next(&mut w.keys, &w.admin, &w.list).unwrap();
    assert_eq!(w.keys.current(), third.epoch());
    assert_eq!(w.first.epoch(), Epoch::FIRST);
    let wrapped = wrap(&w.keys, &third, &listed(&w.other, Role::Full)).unwrap();
    let mut theirs = ShareKeys::empty(w.keys.share());
    theirs.insert(third.epoch(), unwrap(&w.other, &third, &wrapped).unwrap());
    assert_eq!(third.open_previous(&w.first, &mut theirs), Err(Error::Damaged), "not the one before");
    third.open_previous(&second, &mut theirs).unwrap();
    second.open_previous(&w.first, &mut theirs).unwrap();
    for e in [w.first.epoch(), second.epoch(), third.epoch()] {
        assert!(theirs.header_key(e).unwrap() == w.keys.header_key(e).unwrap());
    }
    assert_eq!(EpochRecord::parse(&third.to_bytes()), Ok(third));
}

#[test]
fn a_wrap_opens_for_its_device_epoch_and_share_only() {
    let mut w = world();
    let to = listed(&w.other, Role::Full);
    let wrapped = wrap(&w.keys, &w.first, &to).unwrap();
    assert!(unwrap(&w.other, &w.first, &wrapped).is_ok());
    assert_eq!(unwrap(&w.admin, &w.first, &wrapped).err(), Some(Error::Damaged));
    let second = w.first.next(&mut w.keys, &w.admin, &w.list).unwrap();
    assert_eq!(unwrap(&w.other, &second, &wrapped).err(), Some(Error::Damaged));
    let bytes = postcard::to_allocvec(&wrapped).unwrap();
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        if let Ok(bad) = postcard::from_bytes::<Wrapped>(&bad) {
            assert!(unwrap(&w.other, &w.first, &bad).is_err(), "byte {i}");
        }
    }
    assert_eq!(wrap(&w.keys, &w.first, &listed(&w.other, Role::Blind)).err(), Some(Error::Blind));
    let empty = ShareKeys::empty(w.keys.share());
    assert_eq!(wrap(&empty, &w.first, &to).err(), Some(Error::NoKey));
}

#[test]
fn a_key_that_the_record_does_not_commit_to_is_never_wrapped_nor_taken() {
    let w = world();
    let to = listed(&w.other, Role::Full);
    // A holder that lies: its own keys under the same share and number.
    let false_keys = ShareKeys::create(w.keys.share());
    assert_eq!(wrap(&false_keys, &w.first, &to).err(), Some(Error::WrongKey));
    let other_share = ShareKeys::create(ShareId::random());
    assert_eq!(wrap(&other_share, &w.first, &to).err(), Some(Error::OtherShare));
    assert_eq!(w.first.next(&mut false_keys.clone(), &w.admin, &w.list).err(), Some(Error::WrongKey));
    // Wrapped under a record of its own, shown beside the true one.
    let lie = EpochRecord::first(&false_keys, &w.admin, &w.list).unwrap();
    let wrapped = wrap(&false_keys, &lie, &to).unwrap();
    assert!(unwrap(&w.other, &w.first, &wrapped).is_err());
}

#[test]
fn n7_only_an_admins_record_counts_or_one_that_it_names() {
    let mut w = world();
    assert_eq!(EpochRecord::first(&w.keys, &w.other, &w.list).err(), Some(Error::NotAdmin));
    // The other device becomes an admin and makes an epoch, then it is removed.
    let both = with(&w.list, |l| l.with_admins(&w.account, &[w.admin.id(), w.other.id()]).unwrap());
    let second = w.first.next(&mut w.keys, &w.other, &both).unwrap();
    assert!(second.is_by_admin(&both) && !second.is_outdated(&both));
    let after = with(&both, |l| l.with_removed(&w.admin, w.other.id(), Cut::Keep).unwrap());
    assert!(second.is_outdated(&after), "an admin must make the next");
    let third = second.next(&mut w.keys, &w.admin, &after).unwrap();
    assert!(!third.is_outdated(&after));
    // The removed one makes one more, with the greatest number of all.
    let mut its = w.keys.clone();
    let false_fourth = third.next(&mut its, &w.other, &both).unwrap();
    assert!(false_fourth.epoch() > third.epoch());
    let all = [false_fourth, w.first.clone(), third.clone(), second.clone()];
    let counting: Vec<_> = accepted(&all, &after).into_iter().map(EpochRecord::epoch).collect();
    assert_eq!(counting, [third.epoch(), second.epoch(), w.first.epoch()]);
    let alone: Vec<_> = accepted(&all[3..], &after).into_iter().collect();
    assert!(alone.is_empty(), "a removed admin's counts only where a newer one names it");
}

#[test]
fn two_admins_that_make_an_epoch_at_once_make_two() {
    let w = world();
    let both = with(&w.list, |l| l.with_admins(&w.account, &[w.admin.id(), w.other.id()]).unwrap());
    let (mut mine, mut theirs) = (w.keys.clone(), w.keys.clone());
    let a = w.first.next(&mut mine, &w.admin, &both).unwrap();
    let b = w.first.next(&mut theirs, &w.other, &both).unwrap();
    assert_ne!(a.epoch(), b.epoch());
    let records = [w.first.clone(), a.clone(), b.clone()];
    assert_eq!(accepted(&records, &both).len(), 3);
    assert_eq!(accepted(&records, &both)[0].epoch(), a.epoch().max(b.epoch()));
}

#[test]
fn every_flipped_byte_of_a_record_is_refused() {
    let mut w = world();
    let bytes = w.first.next(&mut w.keys, &w.admin, &w.list).unwrap().to_bytes();
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        assert!(EpochRecord::parse(&bad).is_err(), "byte {i}");
        assert!(EpochRecord::parse(&bytes[..i]).is_err(), "cut at {i}");
    }
    let mut newer = bytes.clone();
    newer[64] = 2;
    assert_eq!(EpochRecord::parse(&newer), Err(Error::Newer(2)));
}

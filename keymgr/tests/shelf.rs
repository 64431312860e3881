//! A share's keys on their way to its devices (ATTACKS.md N7): who gets the next one, and who does not.

use keymgr::account::AccountKey;
use keymgr::circle::{Access, Circle, Member, MemberList};
use keymgr::device::DeviceKeys;
use keymgr::devices::{Cut, DeviceList, Listed, Role};
use keymgr::ids::{Epoch, ShareId};
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;

struct Party {
    devices: [DeviceKeys; 2],
    list: DeviceList,
}

fn party() -> Party {
    let key = AccountKey::generate();
    let devices = [DeviceKeys::generate(), DeviceKeys::generate()];
    let listed = |d: &DeviceKeys| Listed::new(d.public(), Role::Full, "device", "", 1);
    let list = DeviceList::create(&key, &devices[0], listed(&devices[0])).unwrap();
    let list = list.with_added(&devices[0], listed(&devices[1])).unwrap();
    let list = list.with_admins(&key, &[devices[0].id(), devices[1].id()]).unwrap();
    Party { devices, list }
}

struct World {
    parties: Vec<Party>,
    circle: Circle,
    keys: ShareKeys,
    shelf: Shelf,
}

impl World {
    fn member(&self, i: usize, access: Access) -> Member {
        Member { account: self.parties[i].list.account(), jid: String::new(), access, may_invite: false, added: 1 }
    }

    fn opened(&self, shelf: &Shelf, i: usize, d: usize) -> ShareKeys {
        let mut keys = ShareKeys::empty(self.keys.share());
        shelf.open(&self.parties[i].devices[d], &self.circle, &mut keys);
        keys
    }
}

/// Account 0 owns, 1 writes, 2 reads, 3 is blind.
fn world() -> World {
    let parties: Vec<_> = (0..4).map(|_| party()).collect();
    let admin = &parties[0].devices[0];
    let members = MemberList::found(&parties[0].list, admin, "", 1).unwrap();
    let circle = Circle::of_share(members, parties.iter().map(|p| p.list.clone()));
    let keys = ShareKeys::create(circle.members().unwrap().share());
    let mut w = World { shelf: Shelf::empty(keys.share()), parties, circle, keys };
    for (i, access) in [(1, Access::Writer), (2, Access::Reader), (3, Access::Blind)] {
        w.circle = w.circle.with_member(&w.parties[0].devices[0], w.member(i, access)).unwrap();
    }
    // Lists are left out that nobody was named for yet.
    for p in &w.parties {
        let _ = w.circle.learn(p.list.clone());
    }
    w.shelf = Shelf::first(&w.keys, &w.parties[0].devices[0], &w.circle).unwrap();
    w
}

#[test]
fn readers_writers_and_the_owner_open_it_and_a_blind_one_does_not() {
    let w = world();
    let read = Shelf::parse(&w.shelf.to_bytes(), &w.keys.share()).unwrap();
    assert_eq!(read, w.shelf);
    let mut kept = Shelf::empty(w.keys.share());
    assert!(kept.merge(&read, &w.circle) && !kept.merge(&read, &w.circle));
    for i in 0..3 {
        for d in 0..2 {
            let keys = w.opened(&kept, i, d);
            assert!(keys.header_key(Epoch::FIRST) == w.keys.header_key(Epoch::FIRST), "{i} {d}");
        }
    }
    assert!(!w.opened(&kept, 3, 0).has(Epoch::FIRST));
    assert!(kept.lacking(&w.parties[0].devices[0].id(), &w.keys, &w.circle).is_empty());
    assert!(!kept.is_outdated(&w.circle) && Shelf::empty(w.keys.share()).is_outdated(&w.circle));
    assert!(!Shelf::empty(ShareId::random()).merge(&read, &w.circle), "another share's");
    assert!(Shelf::parse(&w.shelf.to_bytes(), &ShareId::random()).is_err());
}

#[test]
fn who_is_removed_gets_no_new_key_and_who_comes_later_reads_everything() {
    let mut w = world();
    let admin = w.parties[0].devices[0].clone();
    w.circle = w.circle.with_removed(&admin, w.parties[1].list.account()).unwrap();
    assert!(w.shelf.is_outdated(&w.circle));
    let epoch = w.shelf.next(&mut w.keys, &admin, &w.circle).unwrap();
    assert!(!w.shelf.is_outdated(&w.circle));
    assert_eq!((w.keys.current(), w.shelf.current(&w.circle)), (epoch, Some(epoch)));
    assert!(!w.opened(&w.shelf, 1, 0).has(epoch));
    assert!(w.opened(&w.shelf, 2, 1).has(epoch) && w.opened(&w.shelf, 2, 1).has(Epoch::FIRST));
    // A device is added to the reader's account: any holder wraps for it.
    let new = DeviceKeys::generate();
    let listed = Listed::new(new.public(), Role::Full, "new", "", 1);
    w.circle.learn(w.parties[2].list.with_added(&w.parties[2].devices[0], listed.clone()).unwrap()).unwrap();
    let me = &w.parties[2].devices[1];
    let held = w.opened(&w.shelf, 2, 1);
    assert_eq!(w.shelf.lacking(&me.id(), &held, &w.circle), [new.id()]);
    w.shelf.wrap_for(&held, me, &listed).unwrap();
    assert!(w.shelf.lacking(&me.id(), &held, &w.circle).is_empty(), "by me: I wrap once");
    assert_eq!(w.shelf.lacking(&admin.id(), &w.keys, &w.circle), [new.id()], "the owner does not rely on a member");
    let mut keys = ShareKeys::empty(w.keys.share());
    assert!(w.shelf.open(&new, &w.circle, &mut keys) && !w.shelf.open(&new, &w.circle, &mut keys));
    assert!(keys.has(epoch) && keys.has(Epoch::FIRST));
    // A device that its account removes, or that becomes unknown, asks for the next epoch too.
    let list = w.circle.list(&w.parties[2].list.account()).unwrap().clone();
    w.circle.learn(list.with_removed(&w.parties[2].devices[0], new.id(), Cut::Keep).unwrap()).unwrap();
    assert!(w.shelf.is_outdated(&w.circle));
}

#[test]
fn n7_an_epoch_of_a_removed_admin_is_kept_to_read_but_nobody_writes_under_it() {
    let mut w = world();
    let (admin, thief) = (w.parties[0].devices[0].clone(), w.parties[0].devices[1].clone());
    let before = w.circle.clone();
    // The thief makes epochs without end, before the others know.
    let (mut its, mut its_keys) = (w.shelf.clone(), w.keys.clone());
    for _ in 0..20 {
        its.next(&mut its_keys, &thief, &before).unwrap();
    }
    let list = w.parties[0].list.with_removed(&admin, thief.id(), Cut::Keep).unwrap();
    w.circle.learn(list).unwrap();
    let epoch = w.shelf.next(&mut w.keys, &admin, &w.circle).unwrap();
    let size = w.shelf.to_bytes().len();
    assert!(w.shelf.merge(&its, &w.circle), "what a member wrote under it in good faith is read");
    assert!(w.shelf.to_bytes().len() < 2 * size, "but not without bound");
    assert_eq!(w.shelf.current(&w.circle), Some(epoch));
    let mut keys = w.opened(&w.shelf, 1, 0);
    assert_eq!(keys.current(), epoch);
    w.shelf.open(&w.parties[1].devices[0], &w.circle, &mut keys);
    assert_eq!(keys.current(), epoch);
    // Another account's device makes none at all.
    let mut false_shelf = w.shelf.clone();
    assert!(false_shelf.next(&mut w.keys.clone(), &w.parties[1].devices[0], &w.circle).is_err());
}

#[test]
fn two_epochs_made_at_once_are_both_opened_and_the_next_ends_that() {
    let mut w = world();
    let (a, b) = (w.parties[0].devices[0].clone(), w.parties[0].devices[1].clone());
    let (mut other, mut other_keys) = (w.shelf.clone(), w.opened(&w.shelf, 0, 1));
    let one = w.shelf.next(&mut w.keys, &a, &w.circle).unwrap();
    let two = other.next(&mut other_keys, &b, &w.circle).unwrap();
    assert_ne!(one, two);
    let mut swapped = other.clone();
    assert!(w.shelf.merge(&other, &w.circle));
    assert!(swapped.merge(&w.shelf, &w.circle));
    assert_eq!(swapped, w.shelf, "in whatever order");
    for i in 0..3 {
        let keys = w.opened(&w.shelf, i, 1);
        assert!(keys.has(one) && keys.has(two) && keys.current() == one.max(two));
    }
    w.shelf.open(&a, &w.circle, &mut w.keys);
    let three = w.shelf.next(&mut w.keys, &a, &w.circle).unwrap();
    let keys = w.opened(&w.shelf, 2, 0);
    assert!([one, two, three].iter().all(|e| keys.has(*e)));
}

#[test]
fn a_false_wrap_does_not_take_the_place_of_a_true_one() {
    let w = world();
    let reader = &w.parties[2].devices[0];
    let victim = Listed::new(w.parties[1].devices[0].public(), Role::Full, "", "", 1);
    // The reader wraps other keys for its victim, under a record of its own making.
    let lies = ShareKeys::create(w.keys.share());
    let mut false_shelf = Shelf::empty(w.keys.share());
    assert!(false_shelf.wrap_for(&lies, reader, &victim).is_ok() && false_shelf.is_empty());
    let mut kept = Shelf::empty(w.keys.share());
    kept.merge(&false_shelf, &w.circle);
    kept.merge(&w.shelf, &w.circle);
    assert!(w.opened(&kept, 1, 0).has(Epoch::FIRST));
    // A wrap in another's name is refused whole.
    let bytes = w.shelf.to_bytes();
    let at = bytes.len() - 10;
    for i in [at, at - 64, at - 200] {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        assert!(Shelf::parse(&bad, &w.keys.share()).is_err(), "byte {i}");
    }
}

//! The device list in hostile and in unlucky hands (ATTACKS.md N3, N7, N8), and the laws of its merge.

use std::sync::LazyLock;

use keymgr::account::AccountKey;
use keymgr::device::DeviceKeys;
use keymgr::devices::{Cut, DeviceList, Error, Listed, RecordCut, Role};
use keymgr::ids::{DeviceId, Incarnation, ShareId};
use proptest::prelude::*;

/// Making keys is the dear part.
static DEVICES: LazyLock<Vec<DeviceKeys>> = LazyLock::new(|| (0..6).map(|_| DeviceKeys::generate()).collect());
static ACCOUNT: LazyLock<AccountKey> = LazyLock::new(AccountKey::generate);

fn device(i: usize) -> &'static DeviceKeys {
    &DEVICES[i]
}

fn id(i: usize) -> DeviceId {
    DEVICES[i].id()
}

fn listed(i: usize) -> Listed {
    Listed::new(DEVICES[i].public(), Role::Full, &format!("device {i}"), "me@example.org", 1)
}

/// Devices 0, 1 and 2 are admins in this order, 3 is listed.
fn three_admins() -> DeviceList {
    let mut list = DeviceList::create(&ACCOUNT, device(0), listed(0)).unwrap();
    for i in 1..4 {
        list = list.with_added(device(0), listed(i)).unwrap();
    }
    list.with_admins(&ACCOUNT, &[id(0), id(1), id(2)]).unwrap()
}

fn on(list: &DeviceList) -> Vec<usize> {
    (0..6).filter(|i| list.get(&id(*i)).is_some()).collect()
}

#[test]
fn the_first_list_names_its_device_and_comes_back_from_its_bytes() {
    let list = DeviceList::create(&ACCOUNT, device(0), listed(0)).unwrap();
    assert!(list.is_admin(&id(0)));
    assert_eq!(list.account(), ACCOUNT.id());
    let again = DeviceList::parse_and_verify(&list.to_bytes(), &ACCOUNT.id()).unwrap();
    assert_eq!(again, list);
    assert_eq!((again.to_bytes(), again.hash(), again.version()), (list.to_bytes(), list.hash(), list.version()));
    assert_eq!(again.get(&id(0)), Some(&listed(0)));
    assert_eq!(DeviceList::create(&ACCOUNT, device(0), listed(1)).err(), Some(Error::BadDevice));
}

#[test]
fn an_admin_adds_changes_and_removes_and_nobody_else_does() {
    let list = three_admins();
    let mut blind = listed(4);
    blind.role = Role::Blind;
    let more = list.with_added(device(2), blind.clone()).unwrap();
    assert_eq!(on(&more), [0, 1, 2, 3, 4]);
    assert!(more.version() > list.version());
    assert_eq!(more.with_added(device(3), listed(5)).err(), Some(Error::NotAdmin));
    assert_eq!(more.with_removed(device(4), id(0), Cut::Keep).err(), Some(Error::NotAdmin));
    assert_eq!(more.with_added(device(5), listed(5)).err(), Some(Error::NotAdmin));
    blind.jid = "pi@example.org".into();
    let moved = more.with_added(device(0), blind).unwrap();
    assert_eq!(moved.get(&id(4)).unwrap().jid, "pi@example.org");
    let gone = moved.with_removed(device(1), id(4), Cut::Keep).unwrap();
    assert_eq!(on(&gone), [0, 1, 2, 3]);
    assert_eq!(gone.former(&id(4)).unwrap().jid, "pi@example.org");
    assert_ne!(gone.removals(), moved.removals());
    assert_eq!(gone.with_added(device(1), listed(4)).err(), Some(Error::Removed));
    assert_eq!(gone.with_removed(device(1), id(4), Cut::Keep).err(), Some(Error::NotListed));
    let back = gone.with_added(&*ACCOUNT, listed(4)).unwrap();
    assert_eq!(on(&back), [0, 1, 2, 3, 4], "the account key lists it again");
    let bad = Listed { name: "x".repeat(200), ..listed(5) };
    assert_eq!(list.with_added(device(0), bad).err(), Some(Error::BadDevice));
}

#[test]
fn n7_an_old_list_shown_again_changes_nothing() {
    let old = three_admins();
    let new = old.with_removed(device(0), id(3), Cut::Keep).unwrap();
    assert_eq!(new.merge(&old).unwrap(), new);
    assert_eq!(old.merge(&new).unwrap(), new);
    assert!(new.knows(&old) && !old.knows(&new));
}

#[test]
fn removals_made_apart_add_up() {
    let base = three_admins().with_added(device(0), listed(4)).unwrap();
    let a = base.with_removed(device(1), id(3), Cut::Keep).unwrap();
    let b = base.with_removed(device(2), id(4), Cut::Keep).unwrap();
    assert_eq!(on(&a.merge(&b).unwrap()), [0, 1, 2]);
    // Removed on one side and changed on the other: removed.
    let c = base.with_added(device(2), listed(3)).unwrap();
    assert_eq!(on(&a.merge(&c).unwrap()), [0, 1, 2, 4]);
}

#[test]
fn n3_what_a_removed_admin_adds_after_its_cut_falls() {
    let before = three_admins().with_added(device(1), listed(4)).unwrap();
    let removed = before.with_removed(device(0), id(1), Cut::Keep).unwrap();
    let thief = before.with_added(device(1), listed(5)).unwrap();
    let merged = removed.merge(&thief).unwrap();
    assert_eq!(on(&merged), [0, 2, 3, 4], "4 was added before the cut, 5 after it");
    assert_eq!(merged.with_added(device(1), listed(5)).err(), Some(Error::NotAdmin));
    // What the thief says of a device listed before the cut falls too.
    let renamed = before.with_added(device(1), Listed { jid: "thief@example.org".into(), ..listed(4) }).unwrap();
    assert_eq!(removed.merge(&renamed).unwrap().get(&id(4)).unwrap().jid, "me@example.org");
}

#[test]
fn where_two_admins_remove_each_other_the_earlier_named_stays() {
    let base = three_admins();
    let a = base.with_removed(device(1), id(2), Cut::Keep).unwrap();
    let b = base.with_removed(device(2), id(1), Cut::Keep).unwrap();
    let merged = a.merge(&b).unwrap();
    assert_eq!(on(&merged), [0, 1, 3]);
    assert_eq!(merged.admins(), [id(0), id(1)]);
    // A later named admin's removal of an earlier one counts where it is not answered.
    assert_eq!(on(&b), [0, 2, 3]);
    // The removed one removes everyone it can: of the admins only those that nothing earlier spoke for.
    let spree = b.with_removed(device(2), id(0), Cut::Keep).unwrap();
    assert_eq!(on(&a.merge(&spree).unwrap()), [0, 1, 3], "what it signed past its cut removes no admin");
    // And the account key decides otherwise: for the later one, whose removal of the earlier then counts, or for both.
    let otherwise = merged.with_added(&*ACCOUNT, listed(2)).unwrap();
    assert_eq!(on(&otherwise), [0, 2, 3]);
    assert_eq!(otherwise.admins(), [id(0), id(2)]);
    let both = otherwise.with_added(&*ACCOUNT, listed(1)).unwrap();
    assert_eq!(both.admins(), [id(0), id(1), id(2)]);
}

#[test]
fn a_device_may_remove_itself_and_adds_nothing_afterwards() {
    let base = three_admins();
    let before = base.with_added(device(2), listed(4)).unwrap();
    let gone = before.with_removed(device(2), id(2), Cut::Keep).unwrap();
    assert_eq!(on(&gone), [0, 1, 3, 4]);
    let branch = before.with_added(device(2), listed(5)).unwrap();
    assert_eq!(on(&gone.merge(&branch).unwrap()), [0, 1, 3, 4]);
}

#[test]
fn the_account_key_names_anew_and_a_stolen_admin_is_out() {
    let base = three_admins().with_added(device(2), listed(4)).unwrap();
    let without_3 = base.with_removed(device(2), id(3), Cut::Keep).unwrap();
    let decided = without_3.with_admins(&ACCOUNT, &[id(0)]).unwrap();
    assert_eq!(on(&decided), [0, 1, 2, 4], "what counted so far goes on counting");
    // The stolen one goes on signing, before and after it learns of it.
    let thief = without_3.with_added(device(2), listed(5)).unwrap();
    let thief = thief.with_removed(device(2), id(0), Cut::Keep).unwrap();
    let thief = thief.with_removed(device(2), id(4), Cut::Keep).unwrap();
    assert_eq!(decided.merge(&thief).unwrap().devices().count(), 4);
    assert_eq!(on(&decided.merge(&thief).unwrap()), [0, 1, 2, 4]);
    // A removal past its author's cut goes on counting through the next naming, what it added there does not.
    let cut = base.with_removed(device(0), id(2), Cut::Keep).unwrap();
    let late = base.with_added(device(2), listed(5)).unwrap().with_removed(device(2), id(4), Cut::Keep).unwrap();
    let merged = cut.merge(&late).unwrap();
    assert_eq!(on(&merged), [0, 1, 3]);
    let named = merged.with_admins(&ACCOUNT, &[id(0)]).unwrap();
    assert_eq!(on(&named), [0, 1, 3]);
    assert_eq!(on(&named.with_admins(&ACCOUNT, &[id(0), id(1)]).unwrap()), [0, 1, 3]);
}

#[test]
fn several_cuts_of_a_lost_device_leave_what_all_of_them_believe() {
    let base = three_admins();
    let share = ShareId::from_bytes([1; 16]);
    let at =
        |incarnation: u8, number| RecordCut { share, incarnation: Incarnation::from_bytes([incarnation; 8]), number };
    let a = base.with_removed(device(0), id(3), Cut::Lost(vec![at(1, 5), at(2, 9)])).unwrap();
    let b = base.with_removed(device(1), id(3), Cut::Lost(vec![at(1, 7), at(3, 1)])).unwrap();
    let c = base.with_removed(device(2), id(3), Cut::Keep).unwrap();
    let all = a.merge(&b).unwrap().merge(&c).unwrap();
    assert_eq!(all.cut(&id(3)), Some(&Cut::Lost(vec![at(1, 5)])));
    assert_eq!(c.cut(&id(3)), Some(&Cut::Keep));
}

#[test]
fn n8_another_accounts_list_and_every_flipped_byte_is_refused() {
    let list = DeviceList::create(&ACCOUNT, device(0), listed(0)).unwrap().with_added(device(0), listed(1)).unwrap();
    let bytes = list.to_bytes();
    let other = AccountKey::generate();
    assert_eq!(DeviceList::parse_and_verify(&bytes, &other.id()).err(), Some(Error::OtherAccount));
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        assert!(DeviceList::parse_and_verify(&bad, &ACCOUNT.id()).is_err(), "byte {i}");
    }
    for cut in (0..bytes.len()).step_by(7) {
        assert!(DeviceList::parse_and_verify(&bytes[..cut], &ACCOUNT.id()).is_err(), "cut at {cut}");
    }
    assert!(DeviceList::parse_and_verify(&[&bytes[..], &[0]].concat(), &ACCOUNT.id()).is_err());
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(DeviceList::parse_and_verify(&newer, &ACCOUNT.id()).err(), Some(Error::Newer(2)));
    let theirs = DeviceList::create(&other, device(1), listed(1)).unwrap();
    assert_eq!(list.merge(&theirs).err(), Some(Error::OtherAccount));
    assert_eq!(list.with_admins(&other, &[id(1)]).err(), Some(Error::OtherAccount));
}

#[test]
fn an_admin_that_signs_without_end_is_stopped() {
    let mut list = three_admins();
    let error = loop {
        match list.with_removed(device(2), id(3), Cut::Keep) {
            Ok(more) => list = more.with_added(&*ACCOUNT, listed(3)).unwrap(),
            Err(e) => break e,
        }
        assert!(list.version() < 5000);
    };
    assert_eq!(error, Error::Full);
    assert!(list.with_removed(device(0), id(2), Cut::Keep).is_ok(), "others go on");
}

/// One step of somebody's: who signs what on which of three replicas, or a replica learns from another.
#[derive(Debug, Clone)]
enum Step {
    Add(usize, usize, usize),
    Remove(usize, usize, usize),
    AccountAdd(usize, usize),
    Name(usize, Vec<usize>),
    Learn(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3usize, 0..4usize, 0..6usize).prop_map(|(r, by, of)| Step::Add(r, by, of)),
        3 => (0..3usize, 0..4usize, 0..6usize).prop_map(|(r, by, of)| Step::Remove(r, by, of)),
        1 => (0..3usize, 0..6usize).prop_map(|(r, of)| Step::AccountAdd(r, of)),
        1 => (0..3usize, prop::collection::vec(0..4usize, 1..4)).prop_map(|(r, admins)| Step::Name(r, admins)),
        2 => (0..3usize, 0..3usize).prop_map(|(r, from)| Step::Learn(r, from)),
    ];
    prop::collection::vec(step, 0..14)
}

fn run(steps: &[Step]) -> [DeviceList; 3] {
    let base = three_admins();
    let mut replicas = [base.clone(), base.clone(), base];
    for step in steps {
        let (r, next) = match step {
            Step::Add(r, by, of) => (*r, replicas[*r].with_added(device(*by), listed(*of))),
            Step::Remove(r, by, of) => (*r, replicas[*r].with_removed(device(*by), id(*of), Cut::Keep)),
            Step::AccountAdd(r, of) => (*r, replicas[*r].with_added(&*ACCOUNT, listed(*of))),
            Step::Name(r, admins) => {
                let admins: Vec<_> = admins.iter().map(|i| id(*i)).collect();
                (*r, replicas[*r].with_admins(&ACCOUNT, &admins))
            }
            Step::Learn(r, from) => (*r, replicas[*r].merge(&replicas[*from])),
        };
        // Who may not is refused; that is no step.
        if let Ok(next) = next {
            replicas[r] = next;
        }
    }
    replicas
}

fn shows(list: &DeviceList) -> (Vec<Listed>, Vec<DeviceId>, Vec<(DeviceId, Cut)>) {
    let removed = list.removed().map(|(id, cut)| (*id, cut.clone())).collect();
    (list.devices().cloned().collect(), list.admins().to_vec(), removed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps()) {
        let [a, b, c] = run(&steps);
        let ab = a.merge(&b).unwrap();
        prop_assert_eq!(&ab, &b.merge(&a).unwrap());
        prop_assert_eq!(shows(&ab), shows(&b.merge(&a).unwrap()));
        let abc = ab.merge(&c).unwrap();
        prop_assert_eq!(&abc, &a.merge(&b.merge(&c).unwrap()).unwrap());
        prop_assert_eq!(shows(&abc), shows(&c.merge(&b).unwrap().merge(&a).unwrap()));
        prop_assert_eq!(&abc.merge(&a).unwrap(), &abc);
        prop_assert_eq!(&a.merge(&a).unwrap(), &a);
        prop_assert!(abc.version() >= a.version().max(b.version()).max(c.version()));
    }

    #[test]
    fn every_merged_list_is_accepted_from_its_bytes_and_shows_the_same(steps in steps()) {
        let [a, b, c] = run(&steps);
        let all = a.merge(&b).unwrap().merge(&c).unwrap();
        let read = DeviceList::parse_and_verify(&all.to_bytes(), &ACCOUNT.id()).unwrap();
        prop_assert_eq!(&read, &all);
        prop_assert_eq!(shows(&read), shows(&all));
        for admin in all.admins() {
            prop_assert!(all.get(admin).is_some(), "an admin is on the list");
        }
        for (gone, _) in all.removed() {
            prop_assert!(all.get(gone).is_none() && !all.is_admin(gone));
        }
    }

    #[test]
    fn a_new_naming_changes_nothing_but_the_admins(steps in steps(), keep in prop::collection::vec(any::<bool>(), 3)) {
        let [a, b, _] = run(&steps);
        let list = a.merge(&b).unwrap();
        // Of those named now some stay. (One that was removed while it was named earlier stays removed.)
        let left: Vec<_> = list.admins().iter().zip(keep).filter(|(_, keep)| *keep).map(|(id, _)| *id).collect();
        let named = list.with_admins(&ACCOUNT, &left).unwrap();
        prop_assert_eq!(named.admins(), &left[..]);
        let (devices, _, removed) = shows(&list);
        let (after, _, removed_after) = shows(&named);
        prop_assert_eq!(after, devices);
        prop_assert_eq!(removed_after, removed);
    }
}

//! Who belongs to a share, in hostile and in unlucky hands (ATTACKS.md N3, N7), and the laws of the merge.

use std::sync::LazyLock;

use keymgr::account::AccountKey;
use keymgr::circle::{Access, Circle, Error, Member, MemberList};
use keymgr::device::DeviceKeys;
use keymgr::devices::{Cut, DeviceList, Listed, Role};
use keymgr::ids::{AccountId, ShareId};
use proptest::prelude::*;

/// Accounts 0 to 4: 0 owns the share. Each has two admin devices. Making keys is the dear part.
struct Party {
    key: AccountKey,
    devices: [DeviceKeys; 2],
    list: DeviceList,
}

static PARTIES: LazyLock<Vec<Party>> = LazyLock::new(|| (0..5).map(|_| party()).collect());
static FOUNDED: LazyLock<MemberList> =
    LazyLock::new(|| MemberList::found(&PARTIES[0].list, &PARTIES[0].devices[0], "a0@a.test", 7).unwrap());

fn party() -> Party {
    let key = AccountKey::generate();
    let devices = [DeviceKeys::generate(), DeviceKeys::generate()];
    let listed = |d: &DeviceKeys| Listed::new(d.public(), Role::Full, "device", "x@a.test", 1);
    let list = DeviceList::create(&key, &devices[0], listed(&devices[0])).unwrap();
    let list = list.with_added(&devices[0], listed(&devices[1])).unwrap();
    let list = list.with_admins(&key, &[devices[0].id(), devices[1].id()]).unwrap();
    Party { key, devices, list }
}

fn account(i: usize) -> AccountId {
    PARTIES[i].list.account()
}

fn device(i: usize, d: usize) -> &'static DeviceKeys {
    &PARTIES[i].devices[d]
}

fn member(i: usize, access: Access, may_invite: bool) -> Member {
    Member { account: account(i), jid: format!("a{i}@a.test"), access, may_invite, added: 1 }
}

fn founded() -> Circle {
    let circle = Circle::of_share(FOUNDED.clone(), [PARTIES[0].list.clone()]);
    let_in(&circle, device(0, 0), member(1, Access::Writer, true)).unwrap()
}

/// With the account's device list, where it was not known yet.
fn let_in(circle: &Circle, by: &DeviceKeys, member: Member) -> Result<Circle, Error> {
    let account = member.account;
    let mut circle = circle.with_member(by, member)?;
    if circle.list(&account).is_none() {
        circle.learn(PARTIES.iter().find(|p| p.list.account() == account).unwrap().list.clone())?;
    }
    Ok(circle)
}

/// What both know.
fn merged(a: &Circle, b: &Circle) -> Circle {
    let mut circle = a.clone();
    circle.take_members(&b.members().unwrap().to_bytes()).unwrap();
    for list in b.lists() {
        match circle.take_list(&list.to_bytes()) {
            Ok(_) | Err(Error::Stranger) => {}
            Err(e) => panic!("{e}"),
        }
    }
    // What was left out for want of a device list is told again.
    circle.take_members(&b.members().unwrap().to_bytes()).unwrap();
    circle
}

fn on(circle: &Circle) -> Vec<usize> {
    (0..5).filter(|i| circle.member(&account(*i)).is_some()).collect()
}

#[test]
fn the_id_of_a_share_is_its_founding_and_no_other_account_can_claim_it() {
    let list = FOUNDED.clone();
    assert_eq!(MemberList::parse(&list.to_bytes(), &list.share()).unwrap(), list);
    assert_eq!(MemberList::parse(&list.to_bytes(), &ShareId::random()).err(), Some(Error::OtherShare));
    let again = MemberList::found(&PARTIES[0].list, device(0, 0), "a0@a.test", 7).unwrap();
    assert_ne!(again.share(), list.share(), "each share has an id of its own");
    assert_eq!(list.merge(&again).err(), Some(Error::OtherShare));
    let stranger = MemberList::found(&PARTIES[1].list, device(0, 0), "", 7).err();
    assert_eq!(stranger, Some(Error::NotAllowed));
    let circle = Circle::of_share(list, []);
    assert_eq!(circle.devices().count(), 0, "nobody counts before the owner's device list is here");
}

#[test]
fn roles_are_those_of_the_account_and_a_blind_device_stays_blind() {
    let mut circle = let_in(&founded(), device(0, 1), member(2, Access::Reader, false)).unwrap();
    circle = let_in(&circle, device(0, 0), member(3, Access::Blind, false)).unwrap();
    let access = |c: &Circle, i, d| c.get(&device(i, d).id()).map(|seat| (seat.account, seat.access));
    assert_eq!(access(&circle, 0, 1), Some((account(0), Access::Owner)));
    assert_eq!(access(&circle, 1, 0), Some((account(1), Access::Writer)));
    assert_eq!(access(&circle, 2, 0), Some((account(2), Access::Reader)));
    assert_eq!(access(&circle, 3, 0), Some((account(3), Access::Blind)));
    assert_eq!(access(&circle, 4, 0), None);
    let writers = |c: &Circle| (0..5).filter(|i| c.may_write(&device(*i, 0).id())).collect::<Vec<_>>();
    assert_eq!(writers(&circle), [0, 1]);
    let pi = DeviceKeys::generate();
    let blind = Listed::new(pi.public(), Role::Blind, "pi", "", 1);
    circle.learn(PARTIES[1].list.with_added(device(1, 0), blind).unwrap()).unwrap();
    assert_eq!(circle.get(&pi.id()).unwrap().access, Access::Blind);
    assert!(!circle.may_write(&pi.id()));
}

#[test]
fn only_the_owner_and_whom_it_lets_invite_lets_in_and_no_more_than_itself_may() {
    let circle = founded();
    for by in [device(2, 0), &DeviceKeys::generate()] {
        let error = let_in(&circle, by, member(3, Access::Reader, false)).err();
        assert_eq!(error, Some(Error::NotAllowed));
        assert_eq!(circle.with_removed(by, account(1)).err(), Some(Error::NotAllowed));
    }
    let more = let_in(&circle, device(1, 1), member(2, Access::Writer, false)).unwrap();
    assert_eq!(on(&more), [0, 1, 2]);
    assert_eq!(let_in(&circle, device(1, 0), member(2, Access::Reader, true)).err(), Some(Error::NotAllowed));
    assert_eq!(let_in(&circle, device(1, 0), member(2, Access::Owner, false)).err(), Some(Error::NotAllowed));
    assert_eq!(let_in(&more, device(2, 0), member(3, Access::Reader, false)).err(), Some(Error::NotAllowed));
    let reader = let_in(&circle, device(0, 0), member(1, Access::Reader, true)).unwrap();
    assert_eq!(let_in(&reader, device(1, 0), member(2, Access::Writer, false)).err(), Some(Error::NotAllowed));
    // What it had let in with more than it may give now counts no more.
    let lowered = merged(&reader, &more);
    assert_eq!(on(&lowered), [0, 1]);
    assert_eq!(more.with_removed(device(0, 0), account(0)).err(), Some(Error::Owner));
    assert_eq!(more.with_left(device(0, 0)).err(), Some(Error::Owner));
}

#[test]
fn n7_a_removal_stands_until_the_owner_names_it_and_an_old_list_changes_nothing() {
    let before = let_in(&founded(), device(0, 0), member(2, Access::Writer, false)).unwrap();
    let removed = before.with_removed(device(0, 1), account(2)).unwrap();
    assert_eq!(on(&removed), [0, 1]);
    assert_eq!(merged(&removed, &before), removed);
    assert_eq!(removed.cut(&device(2, 0).id()), Some(&Cut::Keep));
    assert_ne!(removed.removals(), before.removals());
    // Said by another admin of the owner that did not know of the removal: it is not taken back.
    let meanwhile = let_in(&before, device(0, 0), member(2, Access::Reader, false)).unwrap();
    assert_eq!(on(&merged(&removed, &meanwhile)), [0, 1]);
    // An inviter cannot let in whom the owner removed.
    assert_eq!(let_in(&removed, device(1, 0), member(2, Access::Reader, false)).err(), Some(Error::Removed));
    let again = let_in(&removed, device(0, 0), member(2, Access::Writer, false)).unwrap();
    assert_eq!(on(&again), [0, 1, 2]);
    assert_eq!(on(&merged(&meanwhile, &again)), [0, 1, 2]);
    // A second removal made apart, which the word that let it in again had not seen.
    let other = before.with_removed(device(0, 0), account(2)).unwrap();
    assert_eq!(on(&merged(&again, &other)), [0, 1]);
}

#[test]
fn n3_what_a_removed_inviter_adds_past_its_cut_falls() {
    let base = founded();
    let seen = let_in(&base, device(1, 0), member(2, Access::Writer, false)).unwrap();
    let removed = seen.with_removed(device(0, 0), account(1)).unwrap();
    assert_eq!(on(&removed), [0, 2], "what it let in before stays");
    // Its own copy goes on without knowing, or without caring.
    let late = let_in(&seen, device(1, 1), member(3, Access::Reader, false)).unwrap();
    let late = let_in(&late, device(1, 0), member(4, Access::Reader, false)).unwrap();
    assert_eq!(on(&merged(&removed, &late)), [0, 2]);
    assert_eq!(on(&merged(&late, &removed)), [0, 2]);
    // Let in again it may again.
    let again = let_in(&merged(&removed, &late), device(0, 1), member(1, Access::Writer, true)).unwrap();
    assert_eq!(on(&again), [0, 1, 2, 3, 4]);
    // It may invite no longer: the same, without a removal.
    let quiet = let_in(&seen, device(0, 0), member(1, Access::Writer, false)).unwrap();
    assert_eq!(on(&merged(&quiet, &late)), [0, 1, 2]);
}

#[test]
fn who_left_is_out_and_comes_back_by_a_new_invitation_only() {
    let both = let_in(&founded(), device(1, 0), member(2, Access::Writer, false)).unwrap();
    let left = both.with_left(device(2, 1)).unwrap();
    assert_eq!(on(&left), [0, 1]);
    assert_eq!(merged(&left, &both), left);
    let again = let_in(&left, device(1, 0), member(2, Access::Reader, false)).unwrap();
    assert_eq!(on(&again), [0, 1, 2]);
    // An inviter that leaves adds nothing afterwards.
    let gone = both.with_left(device(1, 0)).unwrap();
    let late = let_in(&both, device(1, 1), member(3, Access::Reader, false)).unwrap();
    assert_eq!(on(&merged(&gone, &late)), [0, 2]);
}

#[test]
fn what_a_device_said_before_its_account_removed_it_counts_where_another_vouches() {
    let seen = let_in(&founded(), device(0, 1), member(2, Access::Writer, false)).unwrap();
    let list = PARTIES[0].list.with_removed(device(0, 0), device(0, 1).id(), Cut::Keep).unwrap();
    let mut alone = seen.clone();
    alone.learn(list.clone()).unwrap();
    assert_eq!(on(&alone), [0, 1], "not vouched for");
    let vouched = seen.with_vouched(device(0, 0), device(0, 1).id()).unwrap();
    assert_eq!(on(&merged(&alone, &vouched)), [0, 1, 2]);
    assert_eq!(vouched.with_vouched(device(0, 0), device(0, 1).id()).unwrap(), vouched, "once is enough");
    // The thief goes on with its own copy.
    let late = let_in(&seen, device(0, 1), member(3, Access::Writer, false)).unwrap();
    assert_eq!(on(&merged(&merged(&alone, &vouched), &late)), [0, 1, 2]);
    // Two that were removed vouch for each other, or for themselves.
    let itself = late.with_vouched(device(0, 1), device(0, 1).id()).unwrap();
    assert_eq!(on(&merged(&alone, &itself)), [0, 1]);
    // The founder's device is lost: the share stays its account's.
    let list = PARTIES[0].list.with_removed(device(0, 1), device(0, 0).id(), Cut::Lost(Vec::new())).unwrap();
    let mut circle = founded().with_vouched(device(0, 1), device(0, 0).id()).unwrap();
    circle.learn(list).unwrap();
    assert_eq!(on(&circle), [0, 1]);
    assert!(circle.is_admin(&device(0, 1).id()) && !circle.is_admin(&device(0, 0).id()));
}

#[test]
fn a_duel_of_admins_is_decided_by_the_device_list_and_both_sides_agree() {
    let base = let_in(&founded(), device(0, 1), member(2, Access::Reader, false)).unwrap();
    let remove = |by: usize, of: usize| {
        let mut circle = base.with_vouched(device(0, by), device(0, of).id()).unwrap();
        let list = PARTIES[0].list.with_removed(device(0, by), device(0, of).id(), Cut::Keep).unwrap();
        circle.learn(list).unwrap();
        let_in(&circle, device(0, by), member(3 + by, Access::Reader, false)).unwrap()
    };
    let (a, b) = (remove(0, 1), remove(1, 0));
    let both = merged(&a, &b);
    assert_eq!(both, merged(&b, &a));
    assert_eq!(on(&both), [0, 1, 2, 3], "the first named stays, with what it said; 2 was let in before");
    assert!(both.is_admin(&device(0, 0).id()) && !both.is_admin(&device(0, 1).id()));
}

#[test]
fn an_account_that_lists_devices_of_others_changes_nothing_for_them() {
    let mut circle = let_in(&founded(), device(0, 0), member(2, Access::Reader, false)).unwrap();
    let theirs = Listed::new(device(0, 0).public(), Role::Blind, "not mine", "", 1);
    let list = PARTIES[2].list.with_added(device(2, 0), theirs).unwrap();
    circle.learn(list.clone()).unwrap();
    assert_eq!(circle.get(&device(0, 0).id()).unwrap().access, Access::Owner);
    circle.learn(list.with_removed(device(2, 0), device(0, 0).id(), Cut::Lost(Vec::new())).unwrap()).unwrap();
    assert_eq!(circle.get(&device(0, 0).id()).unwrap().account, account(0));
    assert_eq!(circle.cut(&device(0, 0).id()), None);
}

#[test]
fn lists_of_strangers_are_refused_and_their_statements_left_out() {
    let mut circle = founded();
    assert_eq!(circle.take_list(&PARTIES[3].list.to_bytes()), Err(Error::Stranger));
    assert_eq!(circle.take_list(&PARTIES[1].list.to_bytes()), Ok(false));
    // 2 was never let in: in its own copy of the world it was.
    let own = MemberList::found(&PARTIES[2].list, device(2, 0), "", 1).unwrap();
    let world = Circle::of_share(own, PARTIES.iter().map(|p| p.list.clone()));
    assert!(circle.take_members(&world.members().unwrap().to_bytes()).is_err());
    let guest = let_in(&circle, device(0, 0), member(2, Access::Writer, true)).unwrap();
    let flood = let_in(&guest, device(2, 0), member(3, Access::Writer, false)).unwrap();
    let version = circle.version();
    // Without 2's device list nobody knows whether the one that speaks for it may.
    let mut later = founded();
    assert_eq!(later.take_members(&flood.members().unwrap().to_bytes()), Ok(true));
    assert_eq!((on(&later), later.unknown().map(|m| m.account).collect()), (vec![0, 1, 2], vec![account(2)]));
    later.learn(PARTIES[2].list.clone()).unwrap();
    assert_eq!(on(&later), [0, 1, 2, 3]);
    assert!(later.version() > version);
}

#[test]
fn every_flipped_byte_of_a_member_list_is_refused() {
    let circle = founded().with_removed(device(0, 1), account(1)).unwrap();
    let bytes = circle.members().unwrap().to_bytes();
    let share = FOUNDED.share();
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        assert!(MemberList::parse(&bad, &share).is_err(), "byte {i}");
    }
    for cut in (0..bytes.len()).step_by(5) {
        assert!(MemberList::parse(&bytes[..cut], &share).is_err(), "cut at {cut}");
    }
    assert!(MemberList::parse(&[&bytes[..], &[0]].concat(), &share).is_err());
}

#[test]
fn n12_a_member_that_signs_without_end_is_stopped_and_others_go_on() {
    let mut circle = founded();
    let error = loop {
        match let_in(&circle, device(1, 0), member(2, Access::Reader, false)) {
            Ok(more) => circle = more,
            Err(e) => break e,
        }
        assert!(circle.version() < 5000);
    };
    assert_eq!(error, Error::Full);
    assert!(circle.with_removed(device(0, 0), account(1)).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Member { at: usize, by: (usize, usize), of: usize, access: Access, invites: bool },
    Remove { at: usize, by: usize, of: usize },
    Leave { at: usize, by: (usize, usize) },
    Vouch { at: usize, by: (usize, usize), of: usize },
    Drop { at: usize, account: usize, by: usize },
    Learn { at: usize, from: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let access = prop_oneof![Just(Access::Writer), Just(Access::Reader), Just(Access::Blind)];
    let who = || (0..4usize, 0..2usize);
    let step = prop_oneof![
        4 => (0..3usize, who(), 1..5usize, access, any::<bool>())
            .prop_map(|(at, by, of, access, invites)| Step::Member { at, by, of, access, invites }),
        2 => (0..3usize, 0..2usize, 1..5usize).prop_map(|(at, by, of)| Step::Remove { at, by, of }),
        1 => (0..3usize, who()).prop_map(|(at, by)| Step::Leave { at, by }),
        1 => (0..3usize, who(), 0..2usize).prop_map(|(at, by, of)| Step::Vouch { at, by, of }),
        1 => (0..3usize, 0..3usize, 0..2usize).prop_map(|(at, account, by)| Step::Drop { at, account, by }),
        2 => (0..3usize, 0..3usize).prop_map(|(at, from)| Step::Learn { at, from }),
    ];
    prop::collection::vec(step, 0..16)
}

fn run(steps: &[Step]) -> [Circle; 3] {
    let mut replicas = [founded(), founded(), founded()];
    for step in steps {
        let (at, next) = match *step {
            Step::Member { at, by, of, access, invites } => {
                (at, let_in(&replicas[at], device(by.0, by.1), member(of, access, invites)))
            }
            Step::Remove { at, by, of } => (at, replicas[at].with_removed(device(0, by), account(of))),
            Step::Leave { at, by } => (at, replicas[at].with_left(device(by.0, by.1))),
            Step::Vouch { at, by, of } => (at, replicas[at].with_vouched(device(by.0, by.1), device(by.0, of).id())),
            Step::Drop { at, account: of, by } => {
                let mut next = replicas[at].clone();
                if let Some(list) = next.list(&account(of)).cloned()
                    && let Ok(list) = list.with_removed(device(of, by), device(of, 1 - by).id(), Cut::Keep)
                {
                    next.learn(list).unwrap();
                }
                (at, Ok(next))
            }
            Step::Learn { at, from } => (at, Ok(merged(&replicas[at], &replicas[from]))),
        };
        // Who may not is refused; that is no step.
        if let Ok(next) = next {
            replicas[at] = next;
        }
    }
    replicas
}

fn shows(circle: &Circle) -> (Vec<Member>, Vec<AccountId>, [u8; 32], Vec<Access>) {
    let devices = circle.devices().map(|seat| seat.access).collect();
    (circle.accounts().cloned().collect(), circle.gone().copied().collect(), circle.removals(), devices)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps()) {
        let [a, b, c] = run(&steps);
        let ab = merged(&a, &b);
        prop_assert_eq!(shows(&ab), shows(&merged(&b, &a)));
        let abc = merged(&ab, &c);
        prop_assert_eq!(shows(&abc), shows(&merged(&a, &merged(&b, &c))));
        prop_assert_eq!(shows(&abc), shows(&merged(&c, &merged(&b, &a))));
        prop_assert_eq!(&merged(&abc, &a), &abc);
        prop_assert_eq!(&merged(&a, &a), &a);
        let read = MemberList::parse(&abc.members().unwrap().to_bytes(), &FOUNDED.share()).unwrap();
        prop_assert_eq!(Some(&read), abc.members());
    }

    #[test]
    fn nobody_belongs_whom_no_counting_word_let_in(steps in steps()) {
        let [a, b, c] = run(&steps);
        let all = merged(&merged(&a, &b), &c);
        for gone in all.gone() {
            prop_assert!(all.member(gone).is_none());
            for listed in all.list(gone).into_iter().flat_map(DeviceList::devices) {
                prop_assert!(all.get(&listed.public.id).is_none() && !all.may_write(&listed.public.id));
            }
        }
        for seat in all.devices() {
            let member = all.member(&seat.account);
            prop_assert!(member.is_some_and(|m| m.access <= seat.access), "a device may no more than its account");
        }
        prop_assert_eq!(all.member(&account(0)).map(|m| m.access), Some(Access::Owner));
    }
}

#[test]
fn a_circle_of_an_account_is_its_device_list() {
    let circle = Circle::of_account(PARTIES[0].list.clone());
    assert_eq!((circle.version(), circle.removals()), (PARTIES[0].list.version(), PARTIES[0].list.removals()));
    assert!(circle.members().is_none() && circle.accounts().next().is_none());
    assert!(circle.may_write(&device(0, 1).id()) && !circle.may_write(&device(1, 0).id()));
    let removed = PARTIES[0].list.with_removed(&PARTIES[0].key, device(0, 1).id(), Cut::Lost(Vec::new())).unwrap();
    let mut after = circle.clone();
    assert_eq!(after.take_list(&removed.to_bytes()), Ok(true));
    assert_eq!(after.cut(&device(0, 1).id()), Some(&Cut::Lost(Vec::new())));
    assert!(after.get(&device(0, 1).id()).is_none());
    assert_eq!(after.take_list(&PARTIES[1].list.to_bytes()), Err(Error::Stranger));
    assert_eq!(let_in(&circle, device(0, 0), member(1, Access::Writer, false)).err(), Some(Error::NotMember));
}

//! Statements that no honest program makes, signed by hand. What honest ones make is in keymgr/tests/devices.rs.

use super::*;

struct World {
    account: AccountKey,
    devices: Vec<DeviceKeys>,
    list: DeviceList,
}

/// All of them listed, admins in this order.
fn world(admins: usize) -> World {
    let account = AccountKey::generate();
    let devices: Vec<_> = (0..admins + 1).map(|_| DeviceKeys::generate()).collect();
    let mut list = DeviceList::create(&account, &devices[0], listed(&devices[0])).unwrap();
    for device in &devices[1..] {
        list = list.with_added(&devices[0], listed(device)).unwrap();
    }
    let named: Vec<_> = devices[..admins].iter().map(DeviceKeys::id).collect();
    list = list.with_admins(&account, &named).unwrap();
    World { account, devices, list }
}

fn listed(device: &DeviceKeys) -> Listed {
    Listed::new(device.public(), Role::Full, "device", "", 1)
}

/// Signed at any number after any statement, whether or not the author may.
fn signed(list: &DeviceList, by: &DeviceKeys, number: u64, previous: statement::Hash, act: Act) -> Statement {
    let body = Body { account: list.account, author: Author::Device(by.id()), number, previous, act };
    Statement::sign(body, by.into())
}

fn remove(device: &DeviceKeys, heads: Vec<statement::Hash>) -> Act {
    Act::Remove { device: device.id(), heads, cut: Cut::Keep }
}

fn with(list: &DeviceList, more: impl IntoIterator<Item = Statement>) -> DeviceList {
    let mut statements = list.statements.clone();
    statements.extend(more.into_iter().map(|s| (s.hash, s)));
    DeviceList::of(list.account, statements)
}

fn parsed(list: &DeviceList) -> Result<DeviceList, Error> {
    DeviceList::parse_and_verify(&list.to_bytes(), &list.account)
}

#[test]
fn an_earlier_admin_that_answers_its_removal_stays() {
    let World { devices, list, .. } = world(2);
    let removed = list.with_removed(&devices[1], devices[0].id(), Cut::Keep).unwrap();
    assert_eq!(removed.admins(), [devices[1].id()]);
    let last = removed.tips(Author::Device(devices[0].id()));
    let number = removed.statements[&last[0]].body.number + 1;
    // It had seen the removal: it lies within the cut that it sets.
    let heads = removed.tips(Author::Device(devices[1].id()));
    let answer = signed(&removed, &devices[0], number, last[0], remove(&devices[1], heads));
    let merged = parsed(&with(&removed, [answer])).unwrap();
    assert_eq!(merged.admins(), [devices[0].id()]);
    assert!(merged.cut(&devices[1].id()).is_some());
}

#[test]
fn a_naming_does_not_put_those_named_above_an_earlier_one_s_cut() {
    let World { account, devices, list } = world(2);
    let new = DeviceKeys::generate();
    let list = list.with_added(&devices[1], listed(&new)).unwrap();
    let list = list.with_admins(&account, &[devices[0].id(), devices[1].id()]).unwrap();
    assert!(list.get(&new.id()).is_some());
    // The first named says that it had seen nothing of the second.
    let last = list.tips(Author::Device(devices[0].id()));
    let number = list.statements[&last[0]].body.number + 1;
    let cut = with(&list, [signed(&list, &devices[0], number, last[0], remove(&devices[1], Vec::new()))]);
    assert!(parsed(&cut).unwrap().get(&new.id()).is_none());
}

#[test]
fn n3_a_device_that_was_never_named_signs_nothing_that_is_accepted() {
    let World { devices, list, .. } = world(1);
    let stranger = DeviceKeys::generate();
    for by in [&devices[1], &stranger] {
        for act in [
            remove(&devices[0], Vec::new()),
            Act::List { listed: listed(&stranger), revision: 1, overrules: Vec::new() },
        ] {
            let list = with(&list, [signed(&list, by, 1, [0; 32], act)]);
            assert_eq!(parsed(&list).err(), Some(Error::NotAdmin));
            assert!(list.is_admin(&devices[0].id()) && list.get(&stranger.id()).is_none(), "and would change nothing");
        }
    }
}

#[test]
fn n8_only_the_account_key_names_and_overrules() {
    let World { devices, list, .. } = world(2);
    let naming = Act::Name { admins: vec![devices[1].id()], keep: Vec::new(), removals: Vec::new() };
    let list = list.with_removed(&devices[0], devices[1].id(), Cut::Keep).unwrap();
    let removal = list.tips(Author::Device(devices[0].id()));
    let overruling = Act::List { listed: listed(&devices[1]), revision: 9, overrules: removal };
    for act in [naming, overruling] {
        let list = with(&list, [signed(&list, &devices[1], 1, [0; 32], act)]);
        assert!(matches!(parsed(&list), Err(Error::Damaged(_))));
    }
    // Signed by a device in the account's name.
    let body = Body {
        account: list.account,
        author: Author::Account,
        number: 9,
        previous: [0; 32],
        act: Act::Name { admins: vec![devices[1].id()], keep: Vec::new(), removals: Vec::new() },
    };
    let forged = Statement::sign(body, (&devices[1]).into());
    assert_eq!(parsed(&with(&list, [forged])).err(), Some(Error::Forged));
}

#[test]
fn n7_a_chain_with_a_hole_is_refused() {
    let World { devices, list, .. } = world(2);
    let act = || remove(&devices[2], Vec::new());
    let first = signed(&list, &devices[1], 1, [0; 32], act());
    for (number, previous) in [(2, [0; 32]), (1, first.hash), (3, first.hash), (2, [7; 32]), (0, [0; 32])] {
        let bad = signed(&list, &devices[1], number, previous, act());
        let list = with(&list, [first.clone(), bad]);
        assert!(matches!(parsed(&list), Err(Error::Damaged(_))), "{number} {previous:?}");
    }
    // After another author's statement.
    let other = list.tips(Author::Device(devices[0].id()))[0];
    let number = list.statements[&other].body.number + 1;
    let bad = signed(&list, &devices[1], number, other, act());
    assert!(matches!(parsed(&with(&list, [bad])), Err(Error::Damaged(_))));
    assert!(parsed(&with(&list, [first])).is_ok());
}

#[test]
fn n12_a_flood_of_branches_is_cut_alike_in_every_order_and_still_read() {
    let World { devices, list, .. } = world(2);
    let branch = |from: u64| {
        let many = (from..from + MAX_PER_ADMIN as u64 - 100).map(|n| {
            // Each a first statement: as many branches.
            let cut = RecordCut {
                share: ShareId::from_bytes([0; 16]),
                incarnation: Incarnation::from_bytes([0; 8]),
                number: n,
            };
            let act = Act::Remove { device: devices[2].id(), heads: Vec::new(), cut: Cut::Lost(vec![cut]) };
            signed(&list, &devices[1], 1, [0; 32], act)
        });
        with(&list, many)
    };
    let (a, b) = (branch(0), branch(10_000));
    let merged = a.merge(&b).unwrap();
    assert_eq!(merged, b.merge(&a).unwrap());
    assert_eq!(merged.merge(&a).unwrap(), merged);
    assert_eq!(merged.version(), list.version() + MAX_PER_ADMIN as u64);
    assert_eq!(parsed(&merged).unwrap(), merged);
}

//! Other brokers than one Prosody: an ejabberd, and two Prosodys that speak with each other.

mod common;

use common::ejabberd::Ejabberd;
use common::federation::Federation;
use common::{Device, account, at, join, same, until};

/// A file each way between two mounted devices, and both trees equal.
fn a_file_each_way(a: &Device, b: &Device) {
    let content = |name: &str| format!("{name}\n").repeat(40_000);
    for (from, to, name) in [(a, b, "there"), (b, a, "and back")] {
        std::fs::write(from.mountpoint().join(name), content(name)).unwrap();
        let arrives = to.mountpoint().join(name);
        until(&format!("{name} is on {}", to.name), 60, || {
            std::fs::read_to_string(&arrives).is_ok_and(|got| got == content(name))
        });
    }
    same(&a.mountpoint(), &b.mountpoint(), 60);
}

#[test]
fn two_devices_sync_over_ejabberd() {
    let broker = Ejabberd::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    a_file_each_way(&a, &b);

    // Its refusals are told as Prosody's are.
    let mut wrong = vec!["account".to_owned(), "add".into(), "nobody@localhost".into()];
    wrong.extend(at(&broker, &a));
    a.fails(&wrong, 32);
    a.umount();
    b.umount();
}

#[test]
fn devices_of_accounts_at_two_brokers_pair_and_sync() {
    let two = Federation::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    a.init();
    a.mount();
    account(&two.a, &a, "alice@a.test");
    join(&two.b, &a, &b, "bob@b.test", true, false);
    b.mount();
    a_file_each_way(&a, &b);
    let peers = a.status();
    assert_eq!(peers["peers"][0]["jid"], "bob@b.test", "{peers}");
    a.umount();
    b.umount();
}

//! Mistakes with accounts, brokers and codes: one line of what, one of what to do, an exit code, and nothing lost.

mod common;

use common::prosody::{Broker, Options, Prosody};
use common::{Device, Pairing, account, at, until};

fn add(d: &Device, jid: &str, more: &[String]) -> Vec<String> {
    let mut args = vec!["account".to_owned(), "add".into(), jid.into(), d.store().display().to_string()];
    args.extend_from_slice(more);
    args
}

#[test]
fn an_account_that_cannot_be_used_says_why() {
    let broker = Prosody::start();
    broker.add_user("me", common::PASSWORD);
    let d = Device::new("account");
    d.init();
    let options = at(&broker, &d);
    d.fails(&add(&d, "not a jid", &options), 2);
    d.fails(&add(&d, "nobody@localhost", &options), 32);

    let wrong = d.path("wrong");
    std::fs::write(&wrong, "another password\n").unwrap();
    let mut with_wrong = options.clone();
    *with_wrong.last_mut().unwrap() = wrong.display().to_string();
    d.fails(&add(&d, "me@localhost", &with_wrong), 32);

    let other = Prosody::start();
    let mut with_other_ca = options.clone();
    with_other_ca[1] = other.ca().display().to_string();
    d.fails(&add(&d, "me@localhost", &with_other_ca), 31);
    d.fails(&add(&d, "me@localhost", &options[2..]), 31);

    let mut taken = options.clone();
    taken.push("--register".into());
    d.fails(&add(&d, "me@localhost", &taken), 34);

    let mut down = options.clone();
    down[3] = "127.0.0.1:9".into();
    d.fails(&add(&d, "me@localhost", &down), 30);
    d.fails(&add(&d, "me@localhost", &["--password-file".into(), "/nowhere".into()]), 1);
    d.fails(
        &add(&d, "me@no-such-domain.invalid", &["--password-file".into(), d.password_file().display().to_string()]),
        33,
    );
    // After all of that the right one works.
    d.kith(&add(&d, "me@localhost", &options));
}

#[test]
fn n10_a_broker_without_tls_gets_no_password() {
    let broker = Prosody::with(Options { tls: false, ..Options::default() });
    let d = Device::new("stripped");
    d.init();
    d.fails(&add(&d, "me@localhost", &at(&broker, &d)), 31);
    let mut plain = at(&broker, &d);
    plain.push("--plaintext-loopback".into());
    plain.push("--register".into());
    d.kith(&add(&d, "me@localhost", &plain));
    plain[3] = "192.0.2.1:5222".into();
    d.fails(&add(&d, "me@localhost", &plain), 35);
}

#[test]
fn n9_a_wrong_code_burns_it_and_a_code_is_used_once() {
    let broker = Prosody::start();
    let a = Device::new("a");
    a.init();
    a.mount();
    a.fails(&["pair"], 40); // no account yet
    account(&broker, &a, "me@localhost/a");

    let join = |d: &Device, code: &str, register: bool| {
        let mut args = vec!["join".to_owned(), code.into(), "--jid".into(), "home@localhost".into(), "--blind".into()];
        args.extend(at(&broker, d));
        if register {
            args.push("--register".into());
        }
        args
    };
    let (b, c) = (Device::new("b"), Device::new("c"));
    b.fails(&join(&b, "nonsense", true), 2);

    let mut pairing = Pairing::start(&a, "home@localhost");
    let code = pairing.code();
    let (jid, digits) = code.rsplit_once(':').unwrap();
    let turned: String = digits.chars().rev().collect();
    assert_ne!(turned, digits);
    b.fails(&join(&b, &format!("{jid}:{turned}"), true), 40);
    assert!(!b.store().join("kith.toml").exists());
    pairing.failed();
    b.fails(&join(&b, &code, false), 40);

    let mut pairing = Pairing::start(&a, "home@localhost");
    let code = pairing.code();
    b.kith(&join(&b, &code, false));
    pairing.done();
    c.fails(&join(&c, &code, false), 40);
    assert_eq!(a.status()["peers"].as_array().unwrap().len(), 1);
    a.umount();
}

#[test]
fn a_broker_that_goes_away_and_comes_back_loses_nothing() {
    let mut broker = Prosody::start();
    let (a, b) = (Device::new("a"), Device::new("b"));
    a.init();
    a.mount();
    account(&broker, &a, "me@localhost/a");
    common::join(&broker, &a, &b, "me@localhost/b", false, false);
    b.mount();
    let there = |name: &str| std::fs::read(b.mountpoint().join(name)).is_ok_and(|t| t == name.as_bytes());
    let save = |name: &str| std::fs::write(a.mountpoint().join(name), name).unwrap();
    save("before");
    until("b has the first file", 30, || there("before"));
    // Files flow before, while the broker is away, and while both find it again.
    for i in 0..90 {
        match i {
            30 => broker.kill(),
            60 => broker.up(),
            _ => {}
        }
        save(&format!("file {i}"));
    }
    until("b has all of them", 90, || (0..90).all(|i| there(&format!("file {i}"))));
    until("both are back", 90, || [&a, &b].iter().all(|d| d.run(&["status"]).out.contains(": connected")));
    save("after");
    until("b has the last file", 30, || there("after"));
    a.umount();
    b.umount();
}

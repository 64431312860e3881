//! The network against a real Prosody.

mod support;

use support::ejabberd::Ejabberd;
use support::prosody::{Options, Prosody};
use support::{Device, login, meet};
use sync::net::{NetEvent, Way, register};

const PASSWORD: &str = "a password";

fn broker(users: &[&str], options: Options) -> Prosody {
    let broker = Prosody::with(options);
    for user in users {
        broker.add_user(user, PASSWORD);
    }
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_accounts_meet_directly() {
    let broker = broker(&["alice", "bob"], Options::default());
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    meet(&mut a, &mut b).await;
    a.talks_to(&b).await;
    b.talks_to(&a).await;
    assert_eq!(a.way_to(&b), Some(Way::Direct));
    assert_eq!(a.ask(&b, "/v1/big", "").await.len(), 3 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_of_one_account_meet_and_one_that_leaves_the_list_is_cut() {
    let broker = broker(&["alice"], Options::default());
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "alice"));
    meet(&mut a, &mut b).await;
    a.talks_to(&b).await;
    b.talks_to(&a).await;
    a.lists(&[]);
    a.until(NetEvent::PeerDown(b.id())).await;
    b.until(NetEvent::PeerDown(a.id())).await;
    assert_eq!(a.way_to(&b), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_later_is_found_and_who_goes_is_missed() {
    let broker = broker(&["alice", "bob"], Options::default());
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    a.lists(&[&a, &b]);
    a.start();
    a.until(NetEvent::BrokerUp).await;
    b.start();
    b.until(NetEvent::BrokerUp).await;
    // Not before it lists the other does it answer.
    b.lists(&[&a, &b]);
    a.until(NetEvent::PeerUp(b.id())).await;
    b.until(NetEvent::PeerUp(a.id())).await;
    a.talks_to(&b).await;
    b.net.take().unwrap().close().await;
    a.until(NetEvent::PeerDown(b.id())).await;
    b.start();
    a.until(NetEvent::PeerUp(b.id())).await;
    a.talks_to(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_takes_no_direct_link_with_it_and_is_found_again() {
    let mut broker = broker(&["alice", "bob"], Options::default());
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    meet(&mut a, &mut b).await;
    let asking = tokio::join!(a.ask(&b, "/v1/big", ""), async { broker.kill() }).0;
    assert_eq!(asking.len(), 3 << 20);
    a.until_down().await;
    b.until_down().await;
    a.talks_to(&b).await;
    b.talks_to(&a).await;
    broker.up();
    a.until(NetEvent::BrokerUp).await;
    b.until(NetEvent::BrokerUp).await;
    // A new link needs the broker, and gets it.
    a.lists(&[]);
    a.until(NetEvent::PeerDown(b.id())).await;
    a.lists(&[&a, &b]);
    a.until(NetEvent::PeerUp(b.id())).await;
    a.talks_to(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_goes_directly_the_proxy_is_used() {
    let broker = broker(&["alice", "bob"], Options::default());
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    (a.config.direct, b.config.direct) = (false, false);
    meet(&mut a, &mut b).await;
    assert_eq!((a.way_to(&b), b.way_to(&a)), (Some(Way::Proxy), Some(Way::Proxy)));
    a.talks_to(&b).await;
    b.talks_to(&a).await;
    assert_eq!(a.ask(&b, "/v1/big", "").await.len(), 3 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_proxy_it_goes_in_band_and_survives_the_broker() {
    let mut broker = broker(&["alice", "bob"], Options { proxy: false, ..Options::default() });
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    (a.config.direct, b.config.direct) = (false, false);
    meet(&mut a, &mut b).await;
    assert_eq!((a.way_to(&b), b.way_to(&a)), (Some(Way::InBand), Some(Way::InBand)));
    a.talks_to(&b).await;
    b.talks_to(&a).await;
    assert_eq!(a.ask(&b, "/v1/big", "").await.len(), 3 << 20);
    broker.kill();
    a.until(NetEvent::PeerDown(b.id())).await;
    broker.up();
    a.until(NetEvent::PeerUp(b.id())).await;
    a.talks_to(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_behind_a_wall_is_reached_by_its_own_attempt() {
    let broker = broker(&["alice", "bob"], Options { proxy: false, ..Options::default() });
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    // Alice's broker address is what both offer; Bob offers nothing and dials nothing: in-band is what is left.
    b.config.direct = false;
    meet(&mut a, &mut b).await;
    assert_eq!(a.way_to(&b), Some(Way::InBand));
    a.talks_to(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_limits_its_users_still_carries_a_link() {
    let broker = broker(&["alice", "bob"], Options { proxy: false, limited: true, ..Options::default() });
    let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
    (a.config.direct, b.config.direct) = (false, false);
    meet(&mut a, &mut b).await;
    assert_eq!(a.way_to(&b), Some(Way::InBand));
    a.talks_to(&b).await;
    b.talks_to(&a).await;
}

/// Another broker, with the limits of its Debian configuration: directly, by its proxy, and in-band.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_goes_over_ejabberd() {
    let broker = Ejabberd::start();
    for user in ["alice", "bob"] {
        register(&login(&broker, user)).await.unwrap();
    }
    for way in [Way::Direct, Way::Proxy, Way::InBand] {
        let (mut a, mut b) = (Device::new(&broker, "alice"), Device::new(&broker, "bob"));
        for device in [&mut a, &mut b] {
            device.config.direct = way == Way::Direct;
            device.config.proxy = way != Way::InBand;
        }
        meet(&mut a, &mut b).await;
        assert_eq!((a.way_to(&b), b.way_to(&a)), (Some(way), Some(way)));
        a.talks_to(&b).await;
        b.talks_to(&a).await;
    }
}

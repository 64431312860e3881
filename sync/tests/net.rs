//! The network against a real Prosody.

mod support;

use support::prosody::{Options, Prosody};
use support::{Device, meet};
use sync::net::{NetEvent, Way};

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

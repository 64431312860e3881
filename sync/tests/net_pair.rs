//! Pairing over a real broker. ATTACKS.md N9.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keymgr::devices::Role;
use keymgr::ids::VaultId;
use support::prosody::Prosody;
use support::{Device, PATIENCE};
use sync::net::NetEvent;
use sync::net::pair::{self, Code, Offer, PairError};

fn broker(users: &[&str]) -> Prosody {
    let broker = Prosody::start();
    for user in users {
        broker.add_user(user, "a password");
    }
    broker
}

fn offer(code: &Code, vault: VaultId, allowed: &[&Device]) -> Offer {
    let allowed = allowed.iter().map(|d| d.jid.clone()).collect();
    Offer { code: code.clone(), vault, role: None, allowed, confirm: None }
}

async fn started(broker: &Prosody, user: &str) -> Device {
    let mut device = Device::new(broker, user);
    device.start();
    device.until(NetEvent::BrokerUp).await;
    device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_pair_and_then_meet() {
    let broker = broker(&["alice", "pi"]);
    // A second device of one account, and a device with an account of its own.
    for user in ["alice", "pi"] {
        let (mut old, mut new) = (started(&broker, "alice").await, started(&broker, user).await);
        let (code, vault) = (Code::random(), VaultId::random());
        let (there, here) = tokio::join!(
            pair::offer(old.net(), &old.keys, offer(&code, vault, &[&new])),
            pair::join(new.net(), &new.keys, &code, &old.jid, Some(Role::Blind), PATIENCE),
        );
        let (mut there, mut here) = (there.unwrap(), here.unwrap());
        assert_eq!((there.peer(), here.peer()), (&new.keys.public(), &old.keys.public()));
        assert_eq!((there.role(), here.role()), (Role::Blind, Role::Blind));
        assert_eq!((there.vault(), here.vault()), (vault, vault));
        assert_eq!((there.jid(), here.jid()), (new.jid.clone(), old.jid.clone()));
        let list = vec![9u8; 150_000];
        let (sent, got) = tokio::join!(there.send(&list), here.receive(PATIENCE));
        sent.unwrap();
        assert_eq!(*got.unwrap(), list);
        let (sent, got) = tokio::join!(here.send(b""), there.receive(PATIENCE));
        sent.unwrap();
        assert!(got.unwrap().is_empty());
        drop((there, here));
        // The sessions that paired are those that now carry links.
        old.lists(&[&old, &new]);
        new.lists(&[&old, &new]);
        old.until(NetEvent::PeerUp(new.id())).await;
        new.until(NetEvent::PeerUp(old.id())).await;
        old.talks_to(&new).await;
    }
}

/// N9: guessed; one failure burns the code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n9_a_wrong_code_burns_the_right_one() {
    let broker = broker(&["alice"]);
    let (old, new) = (started(&broker, "alice").await, started(&broker, "alice").await);
    let (code, guess) = (Code::random(), Code::random());
    let (there, here) = tokio::join!(
        pair::offer(old.net(), &old.keys, offer(&code, VaultId::random(), &[&new])),
        pair::join(new.net(), &new.keys, &guess, &old.jid, None, PATIENCE),
    );
    assert!(matches!(there, Err(PairError::WrongCode)));
    assert!(matches!(here, Err(PairError::WrongCode)));
    let again = pair::join(new.net(), &new.keys, &code, &old.jid, None, Duration::from_secs(1)).await;
    assert!(matches!(again, Err(PairError::NobodyOffers(_))));
}

/// N9: only a JID that the user typed or confirmed may try; others are not even heard, and do not burn the code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n9_a_stranger_is_not_heard_until_the_user_says_so() {
    let broker = broker(&["alice", "mallory", "pi"]);
    let (old, new) = (started(&broker, "alice").await, started(&broker, "pi").await);
    let stranger = started(&broker, "mallory").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let code = Code::random();
    let mut offered = offer(&code, VaultId::random(), &[]);
    let counted = asked.clone();
    offered.confirm = Some(Arc::new(move |jid| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { jid.starts_with("pi@") })
    }));
    let trying = async {
        let patience = Duration::from_secs(3);
        let tried = pair::join(stranger.net(), &stranger.keys, &code, &old.jid, None, patience).await;
        assert!(matches!(tried, Err(PairError::NobodyOffers(_))));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "asked about one JID more than once");
        pair::join(new.net(), &new.keys, &code, &old.jid, None, PATIENCE).await
    };
    let (there, here) = tokio::join!(pair::offer(old.net(), &old.keys, offered), trying);
    assert_eq!(there.unwrap().peer(), &new.keys.public());
    assert_eq!(here.unwrap().role(), Role::Full);
}

/// N9: two at once. One pairs, whichever; the other has no second attempt at the code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n9_of_two_at_once_one_pairs() {
    let broker = broker(&["alice", "pi"]);
    let old = started(&broker, "alice").await;
    let (left, right) = (started(&broker, "alice").await, started(&broker, "pi").await);
    let code = Code::random();
    let patience = Duration::from_secs(5);
    let (there, a, b) = tokio::join!(
        pair::offer(old.net(), &old.keys, offer(&code, VaultId::random(), &[&left, &right])),
        pair::join(left.net(), &left.keys, &code, &old.jid, None, patience),
        pair::join(right.net(), &right.keys, &code, &old.jid, None, patience),
    );
    let there = there.unwrap();
    let (winner, loser) = if a.is_ok() { (&left, b) } else { (&right, a) };
    assert_eq!(there.peer(), &winner.keys.public());
    assert!(matches!(loser, Err(PairError::GaveUp(_) | PairError::NobodyOffers(_))));
}

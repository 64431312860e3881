//! Two accounts, at one real broker or at two: device lists that everybody may read, notes that wait, nothing else.

mod support;

use keymgr::account::AccountKey;
use keymgr::device::DeviceKeys;
use keymgr::devices::{DeviceList, Listed, Role};
use keymgr::ids::{AccountId, ShareId};
use support::ejabberd::Ejabberd;
use support::federation::Federation;
use support::prosody::Prosody;
use support::{Broker, Device, PATIENCE, login};
use sync::net::{Letter, NetEvent, Note, PepError, register};

fn broker(users: &[&str]) -> Prosody {
    let broker = Prosody::start();
    for user in users {
        broker.add_user(user, "a password");
    }
    broker
}

async fn started(broker: &impl Broker, user: &str) -> Device {
    let mut device = Device::new(broker, user);
    device.start();
    device.until(NetEvent::BrokerUp).await;
    device
}

fn list_of(keys: &DeviceKeys, account: &AccountKey, jid: &str) -> DeviceList {
    let listed = Listed::new(keys.public(), Role::Full, "laptop", jid, 0);
    DeviceList::create(account, keys, listed).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_notes_at_one_broker() {
    let broker = broker(&["alice", "bob"]);
    lists(&broker, &broker).await;
    notes(&broker, &broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_notes_between_two_brokers() {
    let two = Federation::start();
    two.a.add_user("alice", "a password");
    two.b.add_user("bob", "a password");
    lists(&two.a, &two.b).await;
    notes(&two.a, &two.b).await;
    let alice = started(&two.a, "alice").await;
    assert!(matches!(alice.net().list_of("bob@c.test", None).await, Err(PepError::NoServer(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_notes_at_ejabberd() {
    let broker = Ejabberd::start();
    for user in ["alice", "bob"] {
        register(&login(&broker, user)).await.unwrap();
    }
    lists(&broker, &broker).await;
    notes(&broker, &broker).await;
}

/// A list is read by another account, and a newer one takes the place of an older.
async fn lists(at_alice: &impl Broker, at_bob: &impl Broker) {
    let (alice, bob) = (started(at_alice, "alice").await, started(at_bob, "bob").await);
    assert!(matches!(bob.net().list_of(&alice.jid, None).await, Err(PepError::NotThere(_))), "not shown yet");
    let unknown = bob.net().list_of(&format!("nobody@{}", at_alice.host()), None).await;
    assert!(matches!(unknown, Err(PepError::NotThere(_))), "{unknown:?}");
    assert!(matches!(bob.net().list_of(at_alice.host(), None).await, Err(PepError::BadJid(_))));

    let account = AccountKey::generate();
    let first = list_of(&alice.keys, &account, &alice.jid);
    assert_eq!(alice.net().show_list(&first).await.unwrap().hash(), first.hash());
    assert_eq!(bob.net().list_of(&alice.jid, None).await.unwrap().hash(), first.hash());
    assert!(bob.net().list_of(&alice.jid, Some(&account.id())).await.is_ok());
    let other = bob.net().list_of(&alice.jid, Some(&AccountId::from_bytes([1; 32]))).await;
    assert!(matches!(other, Err(PepError::BadList { .. })), "another account's key is an error");

    // Two devices of the account, each with a list that the other does not know.
    let listed = |name: &str| Listed::new(DeviceKeys::generate().public(), Role::Full, name, "", 0);
    let newer = first.with_added(&*alice.keys, listed("desktop")).unwrap();
    alice.net().show_list(&newer).await.unwrap();
    let again = started(at_alice, "alice").await;
    let shown = again.net().show_list(&first).await.unwrap();
    assert_eq!(shown.hash(), newer.hash(), "who had the old one learns the new one");
    let apart = first.with_added(&account, listed("phone")).unwrap();
    let both = again.net().show_list(&apart).await.unwrap();
    assert_eq!(both.hash(), newer.merge(&apart).unwrap().hash());
    assert_eq!(bob.net().list_of(&alice.jid, None).await.unwrap().hash(), both.hash());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_can_be_shown_and_one_that_is_too_long_is_refused_here() {
    let broker = broker(&["alice", "bob"]);
    let (alice, bob) = (started(&broker, "alice").await, started(&broker, "bob").await);
    let account = AccountKey::generate();
    let mut list = list_of(&alice.keys, &account, &alice.jid);
    let public = DeviceKeys::generate().public();
    let mut number = 0;
    let mut grow = |list: &mut DeviceList, to: usize| {
        while list.to_bytes().len() < to {
            number += 1;
            let name = format!("{number}");
            *list = list.with_added(&account, Listed::new(public.clone(), Role::Full, &name, "", 0)).unwrap();
        }
    };
    grow(&mut list, 150 << 10);
    alice.net().show_list(&list).await.unwrap();
    assert_eq!(bob.net().list_of(&alice.jid, None).await.unwrap().hash(), list.hash());
    grow(&mut list, 190 << 10);
    assert!(matches!(alice.net().show_list(&list).await, Err(PepError::TooLong(_))));
    assert!(bob.net().list_of(&alice.jid, None).await.is_ok());
}

/// A note comes at once or waits, and is told until it is cleared.
async fn notes(at_alice: &impl Broker, at_bob: &impl Broker) {
    let (alice, mut bob) = (started(at_alice, "alice").await, started(at_bob, "bob").await);
    let (account, share) = (AccountId::from_bytes([2; 32]), ShareId::from_bytes([3; 16]));
    let invited = Note::Invited { account, share };
    let letter = |note: &Note| NetEvent::Letter(Letter { from: alice.jid.clone(), note: note.clone() });
    // It knocks too: bob does not have alice for a peer.
    leave(&alice, &bob.jid, &invited).await;
    bob.until(letter(&invited)).await;
    // Bob goes; what comes meanwhile waits, and what he did not clear is told again.
    bob.net.take().unwrap().close().await;
    let more = Note::Invited { account, share: ShareId::from_bytes([4; 16]) };
    leave(&alice, &bob.jid, &more).await;
    let mut bob = started(at_bob, "bob").await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match tokio::time::timeout(PATIENCE, bob.events.as_mut().unwrap().recv()).await.unwrap().unwrap() {
            NetEvent::Letter(letter) => told.push(letter.note),
            _ => continue,
        }
    }
    assert!(told.contains(&invited) && told.contains(&more));
    bob.net().clear_note(&Letter { from: alice.jid.clone(), note: invited.clone() }).await.unwrap();
    // Taken back by the sender: what it says of one share last is what counts.
    let left = Note::Left { share: ShareId::from_bytes([4; 16]) };
    leave(&alice, &bob.jid, &left).await;
    bob.until(letter(&left)).await;
    bob.net.take().unwrap().close().await;
    let mut bob = started(at_bob, "bob").await;
    bob.until(letter(&left)).await;
    leave(&alice, &bob.jid, &invited).await;
    bob.until(letter(&invited)).await;
}

/// The inbox is there when bob has been online once; that is told by no event.
async fn leave(from: &Device, to: &str, note: &Note) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match from.net().leave_note(to, note).await {
            Ok(()) => return,
            Err(e @ PepError::NoInbox(_)) => assert!(tokio::time::Instant::now() < end, "{e}"),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// ATTACKS.md N2, N12: a stranger's flood of notes costs the broker's bound and nothing here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n12_a_flood_of_notes_is_bounded_and_peers_go_on() {
    let broker = broker(&["mallory", "bob", "alice"]);
    let (mallory, mut alice) = (started(&broker, "mallory").await, Device::new(&broker, "alice"));
    let mut bob = Device::new(&broker, "bob");
    support::meet(&mut alice, &mut bob).await;
    let account = AccountId::from_bytes([2; 32]);
    let note = |n: u8| Note::Invited { account, share: ShareId::from_bytes([n; 16]) };
    leave(&mallory, &bob.jid, &note(0)).await;
    for n in 1..100 {
        leave(&mallory, &bob.jid, &note(n)).await;
    }
    bob.until(NetEvent::Letter(Letter { from: "mallory@localhost".into(), note: note(99) })).await;
    bob.net.take().unwrap().close().await;
    let mut bob = started(&broker, "bob").await;
    bob.lists(&[&bob, &alice]);
    let end = async {
        let mut letters = 0;
        let last = Letter { from: "mallory@localhost".into(), note: note(99) };
        let mut seen = false;
        // The last is among those that are kept; what is told comes in one piece.
        while !seen || letters < 64 {
            if let NetEvent::Letter(letter) = bob.events.as_mut().unwrap().recv().await.unwrap() {
                letters += 1;
                seen |= letter == last;
            }
        }
        letters
    };
    assert_eq!(tokio::time::timeout(PATIENCE, end).await.unwrap(), 64);
}

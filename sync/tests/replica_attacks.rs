//! The driver, attacked: by whoever has the disk, and by a modified peer. Each test is named after its line in the list
//! of attacks.

mod replica_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use keymgr::device::{DeviceKeys, Domain};
use keymgr::devices::Cut;
use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::{Epoch, FileId, Incarnation, LineageId, Locator, NodeId, RecordHash, ShareId, StoreName};
use keymgr::keyring::Head;
use keymgr::root::Groups;
use replica_support::{Device, FeedOf, Lab, Line, header, until, until_same, write_file, write_folder};
use sync::record::{Content, Kind, Live, Place, Record, Signed, State};
use sync::replica::{Opened, Peers};
use sync::wire::{Frame, encode, pack};

fn body() -> Vec<u8> {
    [header(1, &[5; 16]), vec![0x42; 500]].concat()
}

/// A file in a folder, as a record.
fn file_in(share: ShareId, parent: NodeId, name: &str, replaces: Vec<RecordHash>) -> Record {
    let bytes = body();
    let file = FileId::from_bytes([5; 16]);
    let live = Live {
        places: vec![Place { parent, name: StoreName::parse(name).unwrap(), locator: Locator::from_bytes([0; 16]) }],
        places_from: None,
        content: Some(Content {
            file,
            epoch: Epoch::FIRST,
            lineage: LineageId::from_bytes([5; 16]),
            length: bytes.len() as u64,
            root: Groups::of_bytes(&bytes).root(),
        }),
        content_from: None,
        attrs: vec![1],
        attrs_from: None,
    };
    Record {
        share,
        node: NodeId::from_bytes([9; 16]),
        kind: Kind::File,
        replaces,
        state: State::Live(live),
        together: None,
    }
}

fn sign(keys: &DeviceKeys, number: u64, previous: Option<RecordHash>, record: Record) -> Vec<u8> {
    let incarnation = Incarnation::from_bytes([4; 8]);
    Signed::sign(keys, incarnation, number, previous, 1, record).unwrap().bytes().to_vec()
}

/// The same with other bytes in it, signed again by its author: what no honest program writes.
fn forge(keys: &DeviceKeys, signed: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = signed[..signed.len() - 64].to_vec();
    let at = bytes.windows(from.len()).position(|w| w == from).expect("is in it");
    bytes[at..at + from.len()].copy_from_slice(to);
    let signature = keys.sign(Domain::Record, &bytes);
    bytes.extend_from_slice(signature.as_bytes());
    bytes
}

fn frames(records: &[Vec<u8>]) -> Vec<u8> {
    let frame =
        |signed: &Vec<u8>| encode(&Frame::Record { signed: signed.clone(), body: Some(pack(&body())) }).unwrap();
    records.iter().flat_map(frame).collect()
}

/// The device's feed from now on says this, once.
fn feed(lab: &Lab, from: &Device, to: &Device, bytes: Vec<u8>) {
    lab.hub.forget(from.id());
    lab.hub.serve(from.id(), Arc::new(FeedOf(bytes)));
    to.replica().peer_up(from.id());
}

fn notices(device: &Device) -> String {
    device.replica().status().notices.join("\n")
}

/// What lies beside the store; nothing may come there.
fn outside(device: &Device) -> BTreeSet<std::path::PathBuf> {
    let store = std::fs::read_dir(device.store()).unwrap().flatten().map(|e| e.path());
    let above = std::fs::read_dir(device.store().parent().unwrap()).unwrap().flatten().map(|e| e.path());
    // Other tests have their stores there.
    store.chain(above.filter(|p| p.is_file())).collect()
}

#[test]
fn n1_a_name_that_leads_out_of_the_share_is_refused_and_others_go_on() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Full)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let before = outside(pi);
    let root = NodeId::root_of(lab.share);
    let honest = sign(&evil.keys, 1, None, file_in(lab.share, root, "AAAAAAAAAA", vec![]));
    let names: [&[u8; 10]; 7] = [
        b"../../../x",
        b"..AAAAAAAA",
        b"/tmp/kith1",
        b".kith-0000",
        b"AAA\0AAAAAA",
        b"\x1b[2J\x1b[1;1H",
        b"AAA/../../",
    ];
    for name in names {
        let hostile = forge(&evil.keys, &honest, b"AAAAAAAAAA", name);
        pi.replica().peer_down(evil.id());
        feed(&lab, evil, pi, frames(&[hostile]));
        until("it is refused", || notices(pi).contains("evil sent a record"));
        assert!(pi.shows().is_empty(), "{name:?}");
        assert!(!notices(pi).contains('\x1b'));
    }
    assert_eq!(pi.replica().mark_heads().len(), 0, "nothing of it was kept");
    assert_eq!(outside(pi), before);
    laptop.save(&lab, "Note", 1, 3_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
}

#[test]
fn n1_a_symlink_in_the_tree_is_not_followed() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    write_folder(&laptop.tree().join("Folder"), NodeId::random());
    laptop.save(&lab, "Folder/Note", 1, 3_000);
    laptop.save(&lab, "Secret", 2, 90_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    // Whoever has the disk points a folder and a file elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("key"), b"a private key").unwrap();
    let tree = pi.tree();
    std::fs::rename(tree.join("Folder"), elsewhere.path().join("Folder")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("Folder"), tree.join("Folder")).unwrap();
    std::fs::remove_file(tree.join("Secret")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("key"), tree.join("Secret")).unwrap();
    let there = std::fs::read(elsewhere.path().join("Folder/Note")).unwrap();
    laptop.save(&lab, "Folder/Note", 3, 4_000);
    laptop.save(&lab, "Folder/More", 4, 70_000);
    until_same(pi, laptop);
    assert_eq!(std::fs::read(elsewhere.path().join("Folder/Note")).unwrap(), there, "written through the link");
    assert!(!elsewhere.path().join("Folder/More").exists());
    assert!(pi.tree().join("Folder").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read(elsewhere.path().join("key")).unwrap(), b"a private key");
}

#[test]
fn s12_ciphertext_changed_while_sync_runs_is_damage_and_never_spreads() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    write_folder(&laptop.tree().join("Folder"), NodeId::random());
    laptop.save(&lab, "Folder/Note", 1, 3_000);
    laptop.save(&lab, "Film", 2, 200_000);
    laptop.save(&lab, "Other", 3, 40_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let (shown, logs) = (laptop.shows(), laptop.logs(&lab));
    let tree = pi.tree();
    let mut bytes = std::fs::read(tree.join("Film")).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(tree.join("Film"), &bytes).unwrap();
    until("the changed file is mended", || pi.quarantined() == 1 && pi.shows() == shown);
    // One deleted, one planted, two swapped, a folder gone, a header planted.
    std::fs::remove_file(tree.join("Folder/Note")).unwrap();
    until_same(pi, laptop);
    write_file(&tree.join("Planted"), FileId::random(), 9, 5_000);
    until_same(pi, laptop);
    std::fs::rename(tree.join("Film"), tree.join("Swap")).unwrap();
    std::fs::rename(tree.join("Other"), tree.join("Film")).unwrap();
    std::fs::rename(tree.join("Swap"), tree.join("Other")).unwrap();
    until_same(pi, laptop);
    std::fs::remove_dir_all(tree.join("Folder")).unwrap();
    until_same(pi, laptop);
    write_folder(&tree.join("Folder"), NodeId::from_bytes([0; 16]));
    until_same(pi, laptop);
    // The same while it does not run, with an old index, and without one.
    for without in [false, true] {
        pi.stop(&lab, true);
        let mut bytes = std::fs::read(tree.join("Film")).unwrap();
        bytes[150_000] ^= 1;
        std::fs::write(tree.join("Film"), &bytes).unwrap();
        std::fs::remove_file(tree.join("Other")).unwrap();
        if without {
            std::fs::remove_dir_all(pi.store().join("state")).unwrap();
        }
        pi.start(&lab);
        lab.link(laptop, pi);
        until_same(pi, laptop);
    }
    assert_eq!(laptop.logs(&lab), logs, "nothing was signed");
    assert_eq!(pi.logs(&lab), logs);
    assert_eq!(laptop.shows(), shown);
    assert!(pi.quarantined() >= 5);
    assert!(!notices(pi).is_empty(), "it is told");
}

#[test]
fn s12_a_version_that_was_changed_is_not_put_back_into_the_tree() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Note", 1, 30_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    laptop.save(&lab, "Note", 2, 30_000);
    until_same(pi, laptop);
    let kept = std::fs::read_dir(pi.store().join("versions")).unwrap().flatten().next().unwrap().path();
    let mut bytes = std::fs::read(&kept).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    // The old content again: it is named as kept.
    lab.unlink(laptop, pi);
    laptop.save(&lab, "Note", 1, 30_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    assert_eq!(pi.quarantined(), 1);
}

#[test]
fn s12_an_old_backup_is_noticed_and_brought_up_to_date_and_own_edits_stay() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    laptop.save(&lab, "Note", 1, 3_000);
    laptop.save(&lab, "Kept", 1, 3_000);
    until_same(pi, laptop);
    laptop.stop(&lab, true);
    let backup = tempfile::tempdir().unwrap();
    copy(laptop.store(), backup.path());
    laptop.start(&lab);
    lab.link(laptop, pi);
    laptop.save(&lab, "Note", 2, 3_000);
    until_same(pi, laptop);
    let newest = laptop.shows();
    let marked: Vec<Head> = laptop.replica().mark_heads();
    laptop.stop(&lab, true);
    for entry in std::fs::read_dir(laptop.store()).unwrap().flatten() {
        std::fs::remove_dir_all(entry.path()).unwrap();
    }
    copy(backup.path(), laptop.store());
    let opened = Opened::open(laptop.store(), lab.share, laptop.id()).unwrap();
    assert!(!marked.iter().all(|head| opened.holds(head)), "the log is shorter than the mark");
    drop(opened);
    // What the daemon does then: a new incarnation, nothing trusted.
    (laptop.incarnation, laptop.clean) = (Incarnation::random(), false);
    laptop.start(&lab);
    laptop.save(&lab, "Kept", 5, 3_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    until("the newer edit is back", || laptop.shows().get(Path::new("Note")) == newest.get(Path::new("Note")));
    until_same(pi, laptop);
    assert_ne!(laptop.shows(), newest, "the edit after the backup is there");
    assert_eq!(laptop.record(&lab), 0, "nothing old is signed anew");
    assert_eq!(laptop.logs(&lab).len(), 2, "two incarnations");
    assert_eq!(laptop.logs(&lab), pi.logs(&lab));
}

#[test]
fn s12_what_a_full_device_wrote_and_has_not_recorded_is_not_replaced() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("desktop", Full)]);
    let [laptop, desktop] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    desktop.start(&lab);
    lab.link(laptop, desktop);
    laptop.save(&lab, "Note", 1, 3_000);
    until_same(desktop, laptop);
    // As after a crash: written, and fs has not looked at it yet.
    let note = desktop.tree().join("Note");
    let file = laptop.save(&lab, "Other", 1, 3_000);
    until_same(desktop, laptop);
    let mut unrecorded = std::fs::read(&note).unwrap();
    unrecorded[2_000] ^= 1;
    std::fs::write(&note, &unrecorded).unwrap();
    laptop.save(&lab, "Note", 2, 3_000);
    assert_eq!(laptop.save(&lab, "Other", 2, 3_000), file);
    until("what came after it is there", || {
        let other = Path::new("Other");
        desktop.shows().get(other) == laptop.shows().get(other)
    });
    assert_eq!(std::fs::read(&note).unwrap(), unrecorded);
    assert_eq!(desktop.record(&lab), 1);
    until("it is a conflict on both", || [&*laptop, &*desktop].iter().all(|d| d.replica().status().conflicts == 1));
    until_same(desktop, laptop);
    assert_eq!(desktop.quarantined(), 0);
}

#[test]
fn n3_n7_who_may_not_write_is_not_believed_and_who_relays_it_is_read_on() {
    let (mut lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("relay", Full), ("lost", Full)]);
    let old = lab.list.clone();
    let [laptop, pi, relay, lost] = &mut devices[..] else { unreachable!() };
    lab.list = old.with_removed(&*lab.admin, lost.id(), Cut::Lost(vec![])).unwrap();
    laptop.start(&lab);
    let root = NodeId::root_of(lab.share);
    let of_blind = sign(&pi.keys, 1, None, file_in(lab.share, root, "Blind", vec![]));
    let of_lost = sign(&lost.keys, 1, None, file_in(lab.share, root, "Lost", vec![]));
    let mut stranger = sign(&DeviceKeys::generate(), 1, None, file_in(lab.share, root, "Stranger", vec![]));
    let good = sign(&relay.keys, 1, None, file_in(lab.share, root, "Good", vec![]));
    // The list from before the removal, then what counted under it, then what counts.
    let mut bytes = encode(&Frame::List(old.to_bytes())).unwrap();
    bytes.extend(frames(&[of_blind.clone(), of_lost, stranger.clone(), good]));
    feed(&lab, relay, laptop, bytes);
    until("what counts is there", || laptop.tree().join("Good").exists());
    assert_eq!(laptop.shows().len(), 1);
    assert!(laptop.replica().circle().borrow().get(&lost.id()).is_none(), "the removal stays");
    assert_eq!(laptop.replica().status().refused.len(), 3);
    assert_eq!(laptop.replica().mark_heads().len(), 1);
    // A record whose signature is not its author's: no honest peer has taken it.
    let at = stranger.len() - 1;
    stranger[at] ^= 1;
    let forged = forge(&pi.keys, &of_blind, pi.id().as_bytes(), relay.id().as_bytes());
    feed(&lab, relay, laptop, frames(&[forged]));
    until("it is told", || notices(laptop).contains("relay sent a record"));
    // A blind device that writes itself.
    feed(&lab, pi, laptop, frames(&[of_blind]));
    until("it is told", || notices(laptop).contains("pi sent a record"));
    assert_eq!(laptop.shows().len(), 1);
}

#[test]
fn n5_numbers_only_order_transport() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Full)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let root = NodeId::root_of(lab.share);
    let unseen = RecordHash::from_bytes([1; 32]);
    let first = sign(&evil.keys, 1, None, file_in(lab.share, root, "First", vec![unseen]));
    let hash = Signed::parse(&first).unwrap().hash();
    let second = sign(&evil.keys, 2, Some(hash), file_in(lab.share, root, "Second", vec![hash]));
    let far = sign(&evil.keys, u64::MAX, Some(hash), file_in(lab.share, root, "Far", vec![hash]));
    let gap = sign(&evil.keys, 9, Some(hash), file_in(lab.share, root, "Gap", vec![hash]));
    let other_past = sign(&evil.keys, 1, None, file_in(lab.share, root, "Past", vec![]));
    feed(&lab, evil, pi, frames(&[far.clone(), gap, first.clone(), second.clone(), first, other_past, far]));
    until("the newest is shown", || pi.tree().join("Second").exists());
    laptop.save(&lab, "Note", 1, 3_000);
    lab.link(laptop, pi);
    until("the laptop's too, and evil's there", || laptop.shows().len() == 2 && pi.shows() == laptop.shows());
    let head = |d: &Device| d.replica().mark_heads().into_iter().find(|h| h.device == evil.id()).map(|h| h.number);
    assert_eq!((head(pi), head(laptop)), (Some(2), Some(2)));
    let logged: usize = pi.logs(&lab).values().map(Vec::len).sum();
    // The same again, many times: nothing is kept twice.
    for _ in 0..3 {
        let other_past = sign(&evil.keys, 1, None, file_in(lab.share, root, "Past", vec![]));
        feed(&lab, evil, pi, [frames(&vec![other_past; 50]), frames(std::slice::from_ref(&second))].concat());
    }
    laptop.save(&lab, "Note", 2, 3_000);
    until_same(pi, laptop);
    let now: usize = pi.logs(&lab).values().map(Vec::len).sum();
    assert!(now < logged + 2_000, "{logged} and {now}");
    pi.stop(&lab, false);
    pi.start(&lab);
    assert_eq!(head(pi), Some(2), "and so it is read back");
}

#[test]
fn n2_absurd_lengths_and_frames_are_refused_before_they_cost_anything() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Full)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let root = NodeId::root_of(lab.share);
    let mut absurd = file_in(lab.share, root, "Absurd", vec![]);
    if let State::Live(Live { content: Some(content), .. }) = &mut absurd.state {
        content.length = u64::MAX;
    }
    let mut other = absurd.clone();
    other.node = NodeId::from_bytes([8; 16]);
    let first = sign(&evil.keys, 1, None, absurd);
    let hash = Signed::parse(&first).unwrap().hash();
    feed(&lab, evil, pi, frames(&[first, sign(&evil.keys, 2, Some(hash), other)]));
    until("both are held, without their bodies", || pi.replica().status().files == 2);
    assert_eq!(pi.replica().status().bytes, u64::MAX, "and their sum is no panic");
    feed(&lab, evil, pi, [u32::MAX.to_le_bytes().to_vec(), vec![0; 100_000]].concat());
    until("the frame is refused", || notices(pi).contains("evil sent a frame that cannot be"));
    laptop.save(&lab, "Note", 1, 70_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
}

#[test]
fn n2_a_peer_that_asks_and_does_not_read_keeps_no_other_from_reading() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Blind)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Film", 1, 6 << 20);
    let root = Groups::of_bytes(&std::fs::read(laptop.tree().join("Film")).unwrap()).root();
    // More than the runtime has threads for what blocks.
    let line = Line { hub: lab.hub.clone(), me: evil.id() };
    let answers: Vec<_> = (0..200)
        .map(|_| {
            let request = hyper::Request::get(format!("/v1/shares/{}/objects/{root}", lab.share));
            let answer = line.request(laptop.id(), request.body(bytes::Bytes::new()).unwrap());
            lab.runtime.spawn(async move {
                let answer = answer.await;
                std::future::pending::<()>().await;
                drop(answer);
            })
        })
        .collect();
    lab.link(laptop, pi);
    until_same(pi, laptop);
    answers.iter().for_each(|a| a.abort());
}

#[test]
fn n2_a_peer_that_stalls_keeps_its_own_turns_only() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("one", Full), ("two", Full)]);
    let [laptop, pi, one, two] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    // Whichever of the two is asked first stalls.
    for evil in [&mut *one, &mut *two] {
        evil.start(&lab);
    }
    for n in 0..30 {
        write_file(&laptop.tree().join(format!("File{n:02}")), FileId::random(), n, 100_000);
    }
    laptop.record(&lab);
    for evil in [&*one, &*two] {
        lab.link(laptop, evil);
        until_same(evil, laptop);
        let truth: Arc<dyn sync::link::Serve> = Arc::new(evil.replica().clone());
        lab.hub.serve(evil.id(), Arc::new(Stalls { truth }));
    }
    lab.link(one, pi);
    lab.link(two, pi);
    lab.link(laptop, pi);
    until("the others came", || pi.shows().len() >= 30 - 2 * 8);
}

#[test]
fn n2_a_device_cannot_begin_anew_without_end() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("evil", Full)]);
    let [laptop, pi, evil] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let root = NodeId::root_of(lab.share);
    let lives: Vec<Vec<u8>> = (0..300u64)
        .map(|life| {
            let record = file_in(lab.share, root, "Again", vec![]);
            let life = Incarnation::from_bytes(life.to_le_bytes());
            Signed::sign(&evil.keys, life, 1, None, 1, record).unwrap().bytes().to_vec()
        })
        .collect();
    feed(&lab, evil, pi, frames(&lives));
    until("it is told", || notices(pi).contains("evil began anew"));
    laptop.save(&lab, "Note", 1, 3_000);
    lab.link(laptop, pi);
    until("the laptop's is there", || pi.tree().join("Note").exists());
    assert_eq!(pi.replica().mark_heads().len(), 256 + 1);
}

#[test]
fn a_device_list_that_is_longer_than_a_frame_arrives() {
    let (mut lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    let before = lab.list.clone();
    for n in 0..200 {
        let public = DeviceKeys::generate().public();
        let listed = keymgr::devices::Listed::new(public, Full, &format!("device {n}"), "", 0);
        lab.list = lab.list.with_added(&*lab.admin, listed).unwrap();
    }
    assert!(lab.list.to_bytes().len() > sync::wire::MAX_FRAME);
    laptop.start(&lab);
    lab.list = before;
    pi.start(&lab);
    lab.link(laptop, pi);
    until("it is known", || pi.replica().circle().borrow().devices().count() == 202);
}

/// Never ends an answer that has a body of a file.
struct Stalls {
    truth: Arc<dyn sync::link::Serve>,
}

impl sync::link::Serve for Stalls {
    fn serve<'a>(
        &'a self,
        peer: keymgr::ids::DeviceId,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> futures::future::BoxFuture<'a, hyper::Response<sync::link::Body>> {
        if request.uri().path().contains("/objects/") {
            return Box::pin(std::future::pending());
        }
        self.truth.serve(peer, request)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

//! The driver, with two and three devices in one process: what one records the others show, byte for byte; what stopped
//! goes on; a change costs its groups.

mod replica_support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};

use keymgr::devices::Role::{Blind, Full};
use keymgr::ids::NodeId;
use keymgr::root::Groups;
use replica_support::{Lab, Liar, Line, NoKeys, Watched, until, until_same, write_folder};
use sync::engine::EntryId;
use sync::replica::Peers;

#[test]
fn a_blind_device_holds_the_same_ciphertext() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    write_folder(&laptop.tree().join("Folder"), NodeId::random());
    laptop.save(&lab, "Folder/Small", 1, 5_000);
    laptop.save(&lab, "Large", 2, 300_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    assert_eq!(laptop.shows().len(), 3, "a header, two files");

    let small = std::fs::read(laptop.tree().join("Folder/Small")).unwrap();
    std::fs::rename(laptop.tree().join("Large"), laptop.tree().join("Folder/Larger")).unwrap();
    std::fs::remove_file(laptop.tree().join("Folder/Small")).unwrap();
    let read = lab.hub.meter(pi, laptop).read.load(Ordering::SeqCst);
    assert!(laptop.record(&lab) >= 2);
    until_same(pi, laptop);
    let read = lab.hub.meter(pi, laptop).read.load(Ordering::SeqCst) - read;
    assert!(read < 10_000, "a rename fetches nothing: {read}");
    assert!(pi.keeps(&small), "what was deleted is kept");
    assert_eq!(pi.quarantined(), 0);
    assert!(laptop.replica().status().notices.is_empty() && pi.replica().status().notices.is_empty());
}

#[test]
fn two_that_are_never_there_together_meet_through_the_third() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("desktop", Full)]);
    let [laptop, pi, desktop] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Note", 1, 9_000);
    laptop.save(&lab, "Film", 2, 200_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    laptop.stop(&lab, true);
    desktop.start(&lab);
    lab.link(desktop, pi);
    until_same(desktop, pi);
    desktop.save(&lab, "Note", 3, 8_000);
    until_same(desktop, pi);
    laptop.start(&lab);
    lab.link(laptop, pi);
    until_same(laptop, desktop);
    assert_eq!(laptop.record(&lab), 0, "what came is no news");
}

#[test]
fn a_fetch_goes_on_where_it_stopped() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    let length = 6 << 20;
    laptop.save(&lab, "Film", 1, length);
    let meter = lab.hub.meter(pi, laptop);
    meter.budget.store(4 << 20, Ordering::SeqCst);
    lab.link(laptop, pi);
    until("it breaks off", || meter.broke.load(Ordering::SeqCst));
    lab.unlink(laptop, pi);
    pi.stop(&lab, false);
    let before = meter.read.swap(0, Ordering::SeqCst);
    meter.budget.store(0, Ordering::SeqCst);
    pi.start(&lab);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let after = meter.read.load(Ordering::SeqCst);
    // At most what was on the way, and the groups, are fetched twice.
    assert!(before + after < length as u64 + (2 << 20), "{before} and {after}");
}

#[test]
fn a_change_in_a_large_file_costs_its_groups() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    laptop.save(&lab, "Film", 1, 4 << 20);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let path = laptop.tree().join("Film");
    let old = std::fs::read(&path).unwrap();
    let mut new = old.clone();
    new[2 << 20..(2 << 20) + 4096].fill(9);
    std::fs::write(&path, &new).unwrap();
    let meter = lab.hub.meter(pi, laptop);
    let read = meter.read.load(Ordering::SeqCst);
    assert_eq!(laptop.record(&lab), 1);
    until_same(pi, laptop);
    let read = meter.read.load(Ordering::SeqCst) - read;
    assert!(read < 48 << 10, "one group of 16 KiB and 256 chaining values: {read}");
    assert!(pi.keeps(&old), "the version before is kept");
}

#[test]
fn a_lost_index_costs_a_rescan_and_nothing_else() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    write_folder(&laptop.tree().join("Folder"), NodeId::random());
    laptop.save(&lab, "Folder/Note", 1, 70_000);
    lab.link(laptop, pi);
    until_same(pi, laptop);
    let (shown, logs) = (laptop.shows(), laptop.logs(&lab));
    for well in [true, false] {
        for device in [&mut *laptop, &mut *pi] {
            device.stop(&lab, well);
            std::fs::remove_dir_all(device.store().join("state")).unwrap();
            device.start(&lab);
        }
        lab.link(laptop, pi);
        assert_eq!(laptop.record(&lab), 0);
        laptop.save(&lab, "Folder/Note", 2, 70_000);
        laptop.save(&lab, "Folder/Note", 1, 70_000);
        until_same(pi, laptop);
        assert_eq!(laptop.shows(), shown);
        assert_eq!(pi.quarantined(), 0, "{:?}", pi.replica().status().notices);
    }
    assert_eq!(laptop.logs(&lab).len(), logs.len());
}

#[test]
fn wrong_bytes_are_refused_and_another_peer_is_asked() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("one", Full), ("two", Full)]);
    let [laptop, pi, one, two] = &mut devices[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *pi, &mut *one, &mut *two] {
        device.start(&lab);
    }
    laptop.save(&lab, "Small", 1, 15_000);
    laptop.save(&lab, "Large", 2, 100_000);
    for device in [&*one, &*two] {
        lab.link(laptop, device);
    }
    until("both have it", || one.shows() == laptop.shows() && two.shows() == laptop.shows());
    // Whoever is asked first lies: wrong bytes, wrong chaining values, too many.
    let first = if one.id() < two.id() { &*one } else { &*two };
    let lie = |path: &str| {
        let length = if path.ends_with("groups") { 7 * 32 } else { 200_000 };
        path.contains("/objects/").then(|| hyper::Response::new(sync::link::full(vec![7; length])))
    };
    lab.hub.serve(first.id(), std::sync::Arc::new(Liar { truth: std::sync::Arc::new(first.replica().clone()), lie }));
    lab.link(pi, one);
    lab.link(pi, two);
    until_same(pi, laptop);
    assert_eq!(pi.quarantined(), 0);
}

#[test]
fn a_file_with_two_names_keeps_both_through_edits_moves_and_the_loss_of_one() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind)]);
    let [laptop, pi] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    pi.start(&lab);
    lab.link(laptop, pi);
    write_folder(&laptop.tree().join("Folder"), NodeId::random());
    laptop.save(&lab, "One", 1, 20_000);
    std::fs::hard_link(laptop.tree().join("One"), laptop.tree().join("Folder/Two")).unwrap();
    laptop.record(&lab);
    until_same(pi, laptop);
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(pi.tree().join(name)).unwrap());
    assert_eq!(inode("One"), inode("Folder/Two"));
    // An edit in place, as both names see it.
    let mut bytes = std::fs::read(laptop.tree().join("One")).unwrap();
    bytes[10_000] ^= 1;
    std::fs::write(laptop.tree().join("One"), &bytes).unwrap();
    laptop.record(&lab);
    until_same(pi, laptop);
    assert_eq!(inode("One"), inode("Folder/Two"));
    std::fs::rename(laptop.tree().join("One"), laptop.tree().join("Folder/Three")).unwrap();
    laptop.record(&lab);
    until_same(pi, laptop);
    std::fs::remove_file(laptop.tree().join("Folder/Two")).unwrap();
    laptop.record(&lab);
    until_same(pi, laptop);
    std::fs::rename(laptop.tree().join("Folder"), laptop.tree().join("Elsewhere")).unwrap();
    laptop.record(&lab);
    until_same(pi, laptop);
    assert_eq!(pi.shows().len(), 2, "a header and a file");
    assert_eq!(pi.quarantined(), 0);
}

#[test]
fn edits_made_apart_are_the_same_conflict_everywhere_and_both_bodies_are_kept() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("pi", Blind), ("desktop", Full)]);
    let [laptop, pi, desktop] = &mut devices[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *pi, &mut *desktop] {
        device.start(&lab);
    }
    laptop.save(&lab, "Note", 1, 5_000);
    lab.link(laptop, pi);
    lab.link(desktop, pi);
    until_same(desktop, laptop);
    lab.unlink(laptop, pi);
    lab.unlink(desktop, pi);
    laptop.save(&lab, "Note", 2, 5_000);
    desktop.save(&lab, "Note", 3, 5_000);
    let note = |d: &replica_support::Device| std::fs::read(d.tree().join("Note")).unwrap();
    let sides = [note(laptop), note(desktop)];
    lab.link(laptop, pi);
    lab.link(desktop, pi);
    until("all know of it", || [&*laptop, &*pi, &*desktop].iter().all(|d| d.replica().status().conflicts == 1));
    until_same(desktop, laptop);
    until_same(pi, laptop);
    let loser = sides.iter().find(|side| **side != note(pi)).unwrap();
    until("the other side is kept", || {
        let beside = [&*laptop, &*pi, &*desktop].map(|d| d.keeps(loser) || d.holds(loser));
        beside.iter().all(|kept| *kept)
    });
}

#[test]
fn a_body_that_a_step_is_taking_into_the_tree_is_not_lacking() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("desktop", Full), ("pi", Blind)]);
    let [laptop, desktop, pi] = &mut devices[..] else { unreachable!() };
    // The step stops where the body has left incoming/ and is not in the tree yet, until somebody asked for it.
    let (go, went) = mpsc::channel::<()>();
    let (in_step, reached) = mpsc::channel();
    let went = Mutex::new(Some(went));
    let dressing = move |id: &EntryId| {
        if matches!(id, EntryId::File(_))
            && let Some(went) = went.lock().unwrap().take()
        {
            let _ = in_step.send(());
            let _ = went.recv();
        }
    };
    laptop.start(&lab);
    laptop.save(&lab, "Note", 1, 5_000);
    desktop.start_with(&lab, Arc::new(NoKeys { dressing: Some(Box::new(dressing)) }));
    pi.start(&lab);
    lab.link(laptop, desktop);
    reached.recv().unwrap();
    let body = std::fs::read(laptop.tree().join("Note")).unwrap();
    let root = Groups::of_bytes(&body).root();
    let go = Mutex::new(go);
    let watched = Watched::new(desktop.replica(), move || {
        let _ = go.lock().unwrap().send(());
    });
    lab.hub.serve(desktop.id(), watched.clone());
    let status = lab.runtime.block_on(async {
        let request =
            hyper::Request::get(format!("/v1/shares/{}/objects/{root}", lab.share)).body(bytes::Bytes::new()).unwrap();
        Line { hub: lab.hub.clone(), me: pi.id() }.request(desktop.id(), request).await.unwrap().status()
    });
    assert_eq!(status, 200);
    assert_eq!(*watched.answers.lock().unwrap(), [200]);
    lab.link(desktop, pi);
    until_same(pi, laptop);
}

#[test]
fn who_was_asked_before_its_feed_was_read_is_asked_once_more() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("desktop", Full), ("pi", Blind)]);
    let [laptop, desktop, pi] = &mut devices[..] else { unreachable!() };
    for device in [&mut *laptop, &mut *desktop, &mut *pi] {
        device.start(&lab);
    }
    laptop.save(&lab, "Film", 1, 300_000);
    // The pi knows of the file, and has nothing of it.
    let lie = |path: &str| {
        let mut none = hyper::Response::new(sync::link::full(bytes::Bytes::new()));
        *none.status_mut() = hyper::StatusCode::NOT_FOUND;
        path.contains("/objects/").then_some(none)
    };
    lab.hub.serve(laptop.id(), Arc::new(Liar { truth: Arc::new(laptop.replica().clone()), lie }));
    lab.link(laptop, pi);
    until("it is known of", || pi.replica().status().files == 1);
    lab.unlink(laptop, pi);
    lab.hub.serve(laptop.id(), Arc::new(laptop.replica().clone()));
    // The desktop is asked before it has it, and has it before its feed begins.
    let watched = Watched::new(desktop.replica(), || {});
    watched.feed.send_replace(false);
    lab.hub.serve(desktop.id(), watched.clone());
    lab.link(desktop, pi);
    until("it was asked", || *watched.answers.lock().unwrap() == [404]);
    lab.link(laptop, desktop);
    until_same(desktop, laptop);
    watched.feed.send_replace(true);
    until_same(pi, laptop);
    let answers = watched.answers.lock().unwrap();
    assert_eq!(answers.iter().filter(|a| **a == 404).count(), 1, "{answers:?}");
}

#[test]
fn a_large_file_that_is_replaced_is_read_between_the_steps_and_kept() {
    let (lab, mut devices) = Lab::new(&[("laptop", Full), ("desktop", Full)]);
    let [laptop, desktop] = &mut devices[..] else { unreachable!() };
    laptop.start(&lab);
    desktop.start(&lab);
    laptop.save(&lab, "Film", 1, 3_000_000);
    lab.link(laptop, desktop);
    until_same(desktop, laptop);
    let old = std::fs::read(desktop.tree().join("Film")).unwrap();
    laptop.save(&lab, "Film", 2, 3_000_000);
    until_same(desktop, laptop);
    let kept = std::fs::read_dir(desktop.tree().parent().unwrap().join("versions")).unwrap();
    let root = Groups::of_bytes(&old).root();
    assert!(
        kept.flatten().any(|e| e.file_name().to_string_lossy().starts_with(&root.to_string())),
        "the old one is kept"
    );
}

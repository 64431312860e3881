//! Real trees at full size: the checkout, /usr/share/doc, a 200 MB file and what is odd are copied in by `cp -a`; they
//! are the same after another mount, on a second full device, and as ciphertext on a blind one, which holds no word of it.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::prosody::Prosody;
use common::{Device, account, differences, join, same};

const DOC: &str = "/usr/share/doc";
const LARGE: usize = 200_000_000;

fn run(command: &mut Command) -> Vec<u8> {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Every path below a folder, relative to it; links are not followed.
fn paths(dir: &Path) -> BTreeSet<PathBuf> {
    let (mut all, mut todo) = (BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            all.insert(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    all
}

/// The checkout without what it builds.
fn checkout(to: &Path) {
    let mut from = OsStr::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    from.push("/");
    run(Command::new("rsync").args(["-a", "--exclude=/target", "--exclude=/.git"]).arg(from).arg(to));
    assert!(paths(to).len() > 200);
}

/// A file that no compression and no clever copy makes smaller.
fn large(at: &Path) {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(LARGE);
    while bytes.len() < LARGE {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    std::fs::write(at, bytes).unwrap();
}

/// What trees of text do not have: links, owners, modes, attributes, holes, kinds, names.
fn odd(at: &Path) {
    let file = |name: &str, bytes: &[u8]| std::fs::write(at.join(name), bytes).unwrap();
    std::fs::create_dir(at).unwrap();
    file("one name of two", b"linked");
    std::fs::create_dir(at.join("a folder nobody writes in")).unwrap();
    std::fs::hard_link(at.join("one name of two"), at.join("a folder nobody writes in/the other name")).unwrap();
    std::os::unix::fs::symlink("nowhere/at all", at.join("a link that dangles")).unwrap();
    run(Command::new("mkfifo").arg(at.join("a fifo")));
    file("with an attribute", b"");
    run(Command::new("setfattr")
        .args(["-n", "user.colour of it", "-v", "a shade of blue"])
        .arg(at.join("with an attribute")));
    file(&"n".repeat(255), b"the longest name");
    file(OsStr::from_bytes("Grüße \u{1f389}\n\"' ".as_bytes()).to_str().unwrap(), b"an unusual name");
    file("a program", b"#!/bin/sh\n");
    file("of somebody else", b"x");
    let sparse = std::fs::File::create(at.join("mostly a hole")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 9_000_000).unwrap();
    drop(sparse);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(at.join("of somebody else"), Some(1234), Some(5678)).unwrap();
    }
    for (name, mode) in [("a program", 0o755), ("of somebody else", 0o400), ("a folder nobody writes in", 0o555)] {
        std::fs::set_permissions(at.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    run(Command::new("touch").args(["-d", "1999-12-31 23:59:59.123456789"]).arg(at.join("a program")));
}

/// A text as it may be found: raw, in hexadecimal, and in base64 at each of the three places where it may begin.
fn forms(text: &[u8], out: &mut BTreeSet<Vec<u8>>) {
    use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
    // grep takes one pattern a line.
    if !text.contains(&b'\n') {
        out.insert(text.to_vec());
    }
    for base in [HEXLOWER, HEXUPPER] {
        out.insert(base.encode(text).into_bytes());
    }
    for base in [BASE64, BASE64URL] {
        for shift in 0..3 {
            // What is around it decides over the first and the last characters.
            let coded = base.encode(&[&vec![0; shift], text].concat());
            let whole = (shift + text.len()) / 3 * 4;
            out.insert(coded.as_bytes()[if shift == 0 { 0 } else { 4 }..whole].to_vec());
        }
    }
}

/// Every fourth name, and pieces from the middle of some files, of what was copied.
fn words(trees: &[PathBuf]) -> BTreeSet<Vec<u8>> {
    let (mut names, mut pieces) = (BTreeSet::new(), BTreeSet::new());
    for tree in trees {
        for path in paths(tree) {
            names.insert(path.file_name().unwrap().as_bytes().to_owned());
            let full = tree.join(&path);
            if pieces.len() < 300 && full.symlink_metadata().unwrap().is_file() {
                let bytes = std::fs::read(&full).unwrap();
                pieces.extend(bytes.get(bytes.len() / 2..bytes.len() / 2 + 16).map(<[u8]>::to_owned));
            }
        }
    }
    // A shorter name, and a piece of few letters, are found in random bytes by chance.
    let names = names.iter().filter(|n| n.len() >= 10).step_by(4);
    let pieces = pieces.iter().filter(|p| p.iter().collect::<BTreeSet<_>>().len() > 8);
    let mut words = BTreeSet::new();
    names.chain(pieces).for_each(|word| forms(word, &mut words));
    assert!(words.len() > 3000, "only {} words to look for", words.len());
    words
}

/// Fails where a word is found in a file below `dir`, or in a name there.
fn holds_none(words: &BTreeSet<Vec<u8>>, dir: &Path, scratch: &Path) {
    let list = scratch.join("words");
    let lines: Vec<u8> = words.iter().flat_map(|w| w.iter().copied().chain([b'\n'])).collect();
    std::fs::write(&list, lines).unwrap();
    let names = scratch.join("names");
    let all: Vec<u8> =
        paths(dir).iter().flat_map(|p| p.as_os_str().as_bytes().iter().copied().chain([b'\n'])).collect();
    std::fs::write(&names, all).unwrap();
    let grep = |at: &Path| {
        Command::new("grep").env("LC_ALL", "C").args(["-raFob", "-m1", "-f"]).arg(&list).arg(at).output().unwrap()
    };
    for at in [dir, &names] {
        let found = grep(at);
        assert_eq!(found.status.code(), Some(1), "found: {}", String::from_utf8_lossy(&found.stdout));
    }
    // The search itself finds what is there.
    let trap = scratch.join("trap");
    let word = words.iter().next().unwrap();
    std::fs::write(&trap, [&[0xff; 100], word.as_slice(), &[0xfe; 100]].concat()).unwrap();
    assert_eq!(grep(&trap).status.code(), Some(0), "the search finds nothing at all");
}

/// Names that are too long for a ciphertext's name are in files beside them; a blind device has them in its records only.
const LONG_NAMES: &str = ".kith-name-*";

/// A file with several names: its header has the locator of one of them, and which one, each device chooses; the others
/// stand in an attribute (kith-store(5), "Locators"). All else is the same.
fn same_but_for_the_order_of_locators(one: &Path, other: &Path) -> bool {
    let parts = |at: &Path| {
        let mut bytes = std::fs::read(at).unwrap();
        // Absent where it is empty.
        let others = Command::new("getfattr").args(["--only-values", "-n", "user.kith.locators"]).arg(at).output();
        let mut locators = others.unwrap().stdout;
        locators.extend(bytes.drain(240..256));
        let set: BTreeSet<[u8; 16]> = locators.as_chunks().0.iter().copied().collect();
        (bytes, set)
    };
    std::fs::metadata(one).is_ok_and(|m| m.nlink() > 1) && parts(one) == parts(other)
}

/// Waits until two devices hold the same ciphertext, byte for byte.
fn same_ciphertext(one: &Device, other: &Device, seconds: u64) {
    // Names and sizes are cheap to compare; the bytes are compared once these are alike.
    let shape = |d: &Device| {
        let out = Command::new("find")
            .arg(d.store().join("tree"))
            .args(["-name", LONG_NAMES, "-o", "-type", "d", "-printf", "%P\\n", "-o", "-printf", "%P %s\\n"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let [from, to] = [one, other].map(|d| d.store().join("tree/"));
    let bytes =
        || run(Command::new("rsync").args(["-rlDHnci", "--delete", "--exclude", LONG_NAMES]).args([&from, &to]));
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let (a, b) = (shape(one), shape(other));
        let mut differ: Vec<_> = a.symmetric_difference(&b).take(20).cloned().collect();
        if differ.is_empty() {
            let linked = |l: &str| {
                let path = l.split_once(' ').map_or("", |(_, path)| path.split(" => ").next().unwrap_or_default());
                same_but_for_the_order_of_locators(&from.join(path), &to.join(path))
            };
            differ.extend(String::from_utf8_lossy(&bytes()).lines().filter(|l| !linked(l)).map(str::to_owned));
        }
        if differ.is_empty() {
            return;
        }
        let (ours, theirs) = (one.status(), other.status());
        assert!(Instant::now() < end, "not the same within {seconds} s: {differ:#?}\n{ours}\n{theirs}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn real_trees_are_the_same_everywhere_and_a_blind_device_holds_no_word_of_them() {
    let began = Instant::now();
    let told = |what: &str| eprintln!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
    let broker = Prosody::start();
    let laptop = Device::new("laptop");
    let plain = laptop.path("plain");
    std::fs::create_dir(&plain).unwrap();
    checkout(&plain.join("checkout"));
    large(&plain.join("a large file"));
    odd(&plain.join("odd"));
    let docs = paths(Path::new(DOC)).len();
    assert!(docs > 400, "{DOC} has {docs} entries: is Debian's documentation installed?");

    laptop.init();
    laptop.mount();
    account(&broker, &laptop, "me@localhost/laptop");
    let home = Device::new("home");
    join(&broker, &laptop, &home, "home@localhost/home", true, true);
    home.kith(&["sync"]);
    told("ready");

    let inside = laptop.mountpoint();
    run(Command::new("cp").arg("-a").arg(&plain).arg(DOC).arg(&inside));
    told("copied");
    let unchanged = |when: &str| {
        for (from, to) in [(plain.as_path(), inside.join("plain")), (Path::new(DOC), inside.join("doc"))] {
            assert_eq!(differences(from, &to), "", "{when}");
        }
        told(when);
    };
    unchanged("the same when it was copied");
    laptop.umount();
    laptop.mount();
    unchanged("the same after another mount");

    same_ciphertext(&laptop, &home, 300);
    told("the blind device has the same ciphertext");
    holds_none(&words(&[plain.clone(), DOC.into()]), &home.path("home"), &laptop.path("run"));
    told("and no word of it");

    let desk = Device::new("desk");
    join(&broker, &laptop, &desk, "me@localhost/desk", false, false);
    desk.mount();
    same_ciphertext(&laptop, &desk, 300);
    told("the second full device has all of it");
    same(&inside, &desk.mountpoint(), 60);
    told("and it is the same");
    let tree = |d: &Device| d.store().join("tree");
    home.kith(&["sync", "--stop"]);
    laptop.umount();
    desk.umount();
    let files = Command::new("find")
        .arg(tree(&home))
        .args(["(", "!", "-type", "d", ")", "!", "-name", ".*", "-printf", "x"])
        .output();
    let files = files.unwrap().stdout.len();
    for d in [&laptop, &desk, &home] {
        // A blind one counts the file with two names once.
        let files = if d.name == "home" { files - 1 } else { files };
        let said = d.kith(&["fsck"]);
        assert_eq!(said.trim(), format!("{files} files are what their records say."), "{}", d.name);
    }
    told("checked");
}

#[test]
fn what_is_odd_arrives_where_somebody_waits_and_where_somebody_joins() {
    let broker = Prosody::start();
    let [laptop, desk, late] = ["laptop", "desk", "late"].map(Device::new);
    laptop.init();
    laptop.mount();
    account(&broker, &laptop, "me@localhost/laptop");
    join(&broker, &laptop, &desk, "me@localhost/desk", false, false);
    desk.mount();
    let plain = laptop.path("plain");
    odd(&plain);
    run(Command::new("cp").arg("-a").arg(&plain).arg(laptop.mountpoint()));
    assert_eq!(differences(&plain, &laptop.mountpoint().join("plain")), "");
    same(&laptop.mountpoint(), &desk.mountpoint(), 60);
    join(&broker, &laptop, &late, "me@localhost/late", false, false);
    late.mount();
    same(&laptop.mountpoint(), &late.mountpoint(), 60);
    for d in [&laptop, &desk, &late] {
        d.umount();
        d.kith(&["fsck"]);
    }
}

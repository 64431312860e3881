//! A vault that kith wrote is read by tests/reader, which has nothing of kith's: proof that kith-store(5) says all.
//!
//! Needs python3 and `pip install -r tests/reader/requirements.txt`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use fs::content::{Content, Kind};
use fs::format::folder::{FolderHeader, header_name, sidecar_name};
use fs::format::{locator, name::Names, xattr};
use fs::records::{Deaf, Unrecorded};
use fs::store::{Disk, Rename, Store};
use fs::volume::{OpenHow, OpenOptions, ROOT, Volume, Who};
use keymgr::ids::{FileId, NodeId, ShareId};
use keymgr::keyring::Keyring;
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;
use keymgr::vault::{Cost, Unlock, Vault};

fn reader(script: &str, args: &[&std::ffi::OsStr]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reader");
    let output = Command::new("python3").arg("-B").arg(folder.join(script)).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("ModuleNotFoundError"), "pip install -r tests/reader/requirements.txt: {errors}");
    output
}

struct Written {
    folder: tempfile::TempDir,
    disk: Disk,
    keys: ShareKeys,
}

impl Written {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let mut ring = Keyring::first("laptop", "", 0).unwrap();
        let root = ring.root;
        ring.share_mut(root).unwrap().insert(keymgr::ids::Epoch(2), Secret32::random());
        let vault =
            Vault::create(&store, None, &Unlock::passphrase("a long passphrase"), &ring, Cost::minimum()).unwrap();
        vault.add_slot("key file", &Unlock::KeyFile(vec![9; 40].into()), Cost::minimum()).unwrap();
        std::fs::write(folder.path().join("pass"), "a long passphrase\n").unwrap();
        std::fs::write(folder.path().join("wrong"), "another passphrase\n").unwrap();
        std::fs::write(folder.path().join("file.key"), [9; 40]).unwrap();
        std::fs::create_dir(store.join("tree")).unwrap();
        let disk = Disk::open(&store.join("tree")).unwrap();
        let keys = ring.share(root).unwrap().clone();
        let written = Self { folder, disk, keys };
        written.header("", NodeId::root_of(root), &locator::NOWHERE);
        written
    }

    fn header(&self, at: &str, node: NodeId, place: &keymgr::ids::Locator) {
        let bytes = FolderHeader::new(&self.keys, node).seal(&self.keys, place).unwrap();
        let path = Path::new(at).join(header_name(&node));
        self.disk.create(&path, 0o600).unwrap().write_at(&bytes, 0).unwrap();
    }

    /// The sealed name of a new entry and, where it is long, its sidecar.
    fn seal(&self, at: &str, parent: NodeId, name: &[u8]) -> (PathBuf, keymgr::ids::Epoch) {
        let sealed = Names::new(&self.keys, &parent).seal(name).unwrap();
        if let Some(sidecar) = &sealed.sidecar {
            let path = Path::new(at).join(sidecar_name(&sealed.name));
            self.disk.create(&path, 0o600).unwrap().write_at(sidecar, 0).unwrap();
        }
        (Path::new(at).join(sealed.name.as_str()), self.keys.current())
    }

    fn folder(&self, at: &str, parent: NodeId, name: &[u8]) -> (String, NodeId) {
        let (path, epoch) = self.seal(at, parent, name);
        let node = NodeId::random();
        self.disk.make_folder(&path, 0o700).unwrap();
        let path = path.to_str().unwrap().to_owned();
        self.header(&path, node, &locator::of_folder(&self.keys, epoch, &parent, name, &node).unwrap());
        (path, node)
    }

    fn file(&self, at: &str, parent: NodeId, name: &[u8], kind: Kind, data: &[(u64, &[u8])]) -> PathBuf {
        let id = if kind == Kind::Share { FileId::from_bytes([0xab; 16]) } else { FileId::random() };
        let (path, epoch) = self.seal(at, parent, name);
        let place = locator::of_file(&self.keys, epoch, &parent, name, &id).unwrap();
        let file = self.disk.create(&path, 0o640).unwrap();
        let (stored, value) = xattr::seal(&self.keys, id.as_bytes(), b"user.a", b"b").unwrap();
        file.set_xattr(&stored, &value).unwrap();
        let mut content = Content::create(file, &path, &self.keys, id, kind, &place).unwrap();
        for (offset, bytes) in data {
            content.write_at(bytes, *offset).unwrap();
        }
        path
    }

    fn read(&self, secret: [&str; 2], what: &[&str]) -> Output {
        let (secret_path, store) = (self.folder.path().join(secret[1]), self.folder.path().join("store"));
        let mut args = vec![secret[0].as_ref(), secret_path.as_os_str(), store.as_os_str()];
        args.extend(what.iter().map(std::ffi::OsStr::new));
        reader("kith_read.py", &args)
    }
}

const PASS: [&str; 2] = ["--passfile", "pass"];

#[test]
fn all_vectors_hold_in_the_independent_reader() {
    let output = reader("check_vectors.py", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_vault_is_listed_and_read_and_what_was_moved_is_refused() {
    let written = Written::new();
    let root = NodeId::root_of(written.keys.share());
    let big: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let long = [b'l'; 250];
    let hello = written.file("", root, b"hello.txt", Kind::File, &[(0, b"hello, world")]);
    let other = written.file("", root, b"big", Kind::File, &[(0, &big), (200_000, b"after a hole")]);
    written.file("", root, b"link", Kind::Symlink, &[(0, b"../target")]);
    let (sub, node) = written.folder("", root, b"sub \x1b[31m");
    written.file(&sub, node, &long, Kind::File, &[(0, b"long")]);
    written.file("", root, b"Photos", Kind::Share, &[]);

    let listed = written.read(PASS, &["list"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let mut lines: Vec<_> = std::str::from_utf8(&listed.stdout).unwrap().lines().collect();
    lines.sort_unstable();
    let long_text = "l".repeat(250);
    let want = [
        "file    0640            4 /sub \\x1b[31m/".to_owned() + &long_text,
        "file    0640           12 /hello.txt".into(),
        "file    0640       200012 /big".into(),
        "folder  0700            0 /sub \\x1b[31m".into(),
        "share   0640            0 /Photos share ".to_owned() + &"ab".repeat(16),
        "symlink 0640            9 /link".into(),
    ];
    assert_eq!(lines, want);

    let mut content = big.clone();
    content.resize(200_000, 0);
    content.extend_from_slice(b"after a hole");
    assert!(written.read(PASS, &["cat", "big"]).stdout == content);
    assert_eq!(written.read(["--keyfile", "file.key"], &["cat", "/link"]).stdout, b"../target");
    assert!(!written.read(["--passfile", "wrong"], &["list"]).status.success());

    // An attribute of one file at another.
    let (from, to) = (written.disk.open(&hello, true).unwrap(), written.disk.open(&other, true).unwrap());
    let stored = from.xattrs().unwrap().remove(0);
    let value = from.xattr(&stored).unwrap().unwrap();
    to.set_xattr(&stored, &value).unwrap();
    let planted = written.read(PASS, &["list"]);
    assert_eq!((planted.status.code(), planted.stdout.iter().filter(|b| **b == b'\n').count()), (Some(1), 5));
    to.remove_xattr(&stored).unwrap();
    assert!(written.read(PASS, &["list"]).status.success());

    // Two files change places; without a key that cannot be done unseen.
    written.disk.rename(&hello, &other, Rename::Exchange).unwrap();
    let swapped = written.read(PASS, &["list"]);
    assert_eq!(swapped.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&swapped.stderr).matches("a file that lies elsewhere").count(), 2);
    assert_eq!(String::from_utf8_lossy(&swapped.stdout).lines().count(), 4);
}

#[test]
fn a_share_that_was_made_of_a_folder_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut ring = Keyring::first("laptop", "", 0).unwrap();
    let (root, share) = (ring.root, ShareId::random());
    let new = ShareKeys::create(share);
    let first = Secret32::random();
    let mut both = ShareKeys::new(root, first.clone());
    both.insert(keymgr::ids::Epoch(2), Secret32::random());
    ring.shares = vec![both.clone(), new.clone()];
    let pass = Unlock::passphrase("a long passphrase");
    let vault = Vault::create(&store, None, &pass, &ring, Cost::minimum()).unwrap();
    std::fs::write(folder.path().join("pass"), "a long passphrase\n").unwrap();
    std::fs::create_dir_all(store.join("shares")).unwrap();
    // The first epoch alone, then both: pages and names of the folder are under two keys.
    let keys = ShareKeys::new(root, first);
    Volume::init(&store, vault.id(), &keys).unwrap();
    let o = OpenOptions { clean: true, ..OpenOptions::default() };
    let (records, feed) = (Arc::new(Unrecorded), Arc::new(Deaf));
    let volume = Volume::open(&store, vault.id(), keys, records, feed, o).unwrap();
    let put = |parent: u64, name: &[u8], data: &[u8]| {
        let ino = volume.create(parent, name, 0o640, Who::me()).unwrap().ino;
        volume.write(ino, data, 0, false).unwrap();
        volume.release(ino, true).unwrap();
        ino
    };
    let d = volume.mkdir(ROOT, b"Photos", 0o755, Who::me()).unwrap().ino;
    let sub = volume.mkdir(d, b"sub", 0o700, Who::me()).unwrap().ino;
    let big = put(d, b"big", &[7; 50_000]);
    put(sub, &[b'l'; 250], b"long");
    volume.link(big, sub, b"link").unwrap();
    volume.setxattr(big, b"user.a", b"b", 0).unwrap();
    volume.rekey(both);
    volume.open_file(big, OpenHow { write: true, truncate: false }).unwrap();
    volume.write(big, b"second", 20_000, false).unwrap();
    volume.release(big, true).unwrap();
    let nested = ShareId::from_bytes([0xcd; 16]);
    volume.make_junction(sub, b"nested", nested).unwrap();
    let at = store.join("shares").join(format!("{share}.new"));
    volume.carve(d, &at, &new, |_| true).unwrap().commit(|| ()).unwrap();
    volume.end().unwrap();
    drop(volume);

    let read = |args: &[&str]| {
        let (pass, id) = (folder.path().join("pass"), share.to_string());
        let mut all = vec!["--passfile".as_ref(), pass.as_os_str()];
        if args.first() == Some(&"share") {
            all.extend([std::ffi::OsStr::new("--share"), id.as_ref()]);
        }
        all.push(store.as_os_str());
        all.extend(args.iter().filter(|a| **a != "share").map(std::ffi::OsStr::new));
        let output = reader("kith_read.py", &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert_eq!(
        String::from_utf8(read(&["list"])).unwrap(),
        format!("share   0600            0 /Photos share {share}\n")
    );
    let listed = String::from_utf8(read(&["share", "list"])).unwrap();
    let mut lines: Vec<_> = listed.lines().collect();
    lines.sort_unstable();
    let want = [
        "file    0640            4 /sub/".to_owned() + &"l".repeat(250),
        "file    0640        50000 /big".into(),
        "file    0640        50000 /sub/link".into(),
        "folder  0700            0 /sub".into(),
        format!("share   0600            0 /sub/nested share {nested}"),
    ];
    assert_eq!(lines, want);
    let mut content = vec![7; 50_000];
    content[20_000..20_006].copy_from_slice(b"second");
    assert!(read(&["share", "cat", "sub/link"]) == content);
}

//! A vault in the hands of someone who has the disk and no key (ATTACKS.md S10, K2, K3).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keymgr::ids::{DeviceId, Incarnation, RecordHash, ShareId};
use keymgr::keyring::{Head, Keyring, Login, Mark, MarkState};
use keymgr::vault::{Cost, Error, Role, Unlock, Vault};
use keymgr::{keyring, slot};
use zeroize::Zeroizing;

/// A key file: what is tried hundreds of times should not cost Argon2id each time.
fn key_file() -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![7; 32]))
}

fn make(store: &Path) -> (Vault, Keyring) {
    let keyring = Keyring::first("laptop", "me@example.org", 1).unwrap();
    let vault = Vault::create(store, None, &key_file(), &keyring, Cost::minimum()).unwrap();
    (vault, keyring)
}

fn slot_of(store: &Path) -> PathBuf {
    let files = fs::read_dir(store.join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let mut slots: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "slot")).collect();
    assert_eq!(slots.len(), 1);
    slots.remove(0)
}

fn error(store: &Path, unlock: &Unlock) -> Error {
    match Vault::open(store, None, unlock) {
        Ok(_) => panic!("it opened"),
        Err(e) => e,
    }
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_vault_opens_again_with_everything_in_its_keyring() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut keyring = Keyring::first("laptop", "me@example.org", 1).unwrap();
    keyring.login = Some(Login {
        jid: "me@example.org".into(),
        password: Zeroizing::new("secret".into()),
        ca: Some("/etc/ca.pem".into()),
        server: Some("localhost:5222".into()),
        plaintext: true,
    });
    let head = Head {
        share: keyring.root,
        device: keyring.device.id(),
        incarnation: keyring.incarnation,
        number: 9,
        hash: RecordHash::random(),
    };
    keyring.mark = Mark { state: MarkState::Open, session: 7, heads: vec![head] };
    keyring.extra.insert("other part".into(), Zeroizing::new(vec![1, 2, 3]));
    let passphrase = Unlock::passphrase("correct horse");
    let vault = Vault::create(&store, None, &passphrase, &keyring, Cost::minimum()).unwrap();

    let (again, read) = Vault::open(&store, None, &passphrase).unwrap();
    assert_eq!(again.id(), vault.id());
    assert_eq!(read.device.public(), keyring.device.public());
    assert!(read.account.is_some_and(|key| key.id() == keyring.account_id));
    assert_eq!(read.list, keyring.list);
    assert_eq!((read.root, read.incarnation, read.role), (keyring.root, keyring.incarnation, keyring.role));
    assert_eq!(read.mark, keyring.mark);
    assert_eq!(read.extra, keyring.extra);
    let login = read.login.unwrap();
    assert_eq!((login.jid.as_str(), login.password.as_str()), ("me@example.org", "secret"));
    assert_eq!(login.ca.unwrap(), Path::new("/etc/ca.pem"));
    assert_eq!((login.server.as_deref(), login.plaintext), (Some("localhost:5222"), true));
    let e = keyring.shares[0].current();
    assert!(read.shares[0].header_key(e) == keyring.shares[0].header_key(e));
    assert!(matches!(error(&store, &Unlock::passphrase("wrong")), Error::WrongKey(_)));
    assert!(matches!(error(&store, &key_file()), Error::WrongKey(_)));
}

#[test]
fn a_saved_keyring_replaces_the_one_before_and_all_is_the_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (vault, mut keyring) = make(&store);
    keyring.mark.session = 3;
    keyring.account = None;
    vault.save(&keyring).unwrap();
    let (_, read) = Vault::open(&store, None, &key_file()).unwrap();
    assert_eq!(read.mark.session, 3);
    assert!(read.account.is_none());
    assert_eq!(vault.load().unwrap().mark.session, 3);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o700);
    assert_eq!(mode(&store.join("keys")), 0o700);
    for file in listing(&store.join("keys")).iter().chain([&store.join("kith.toml")]) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[test]
fn keys_may_lie_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (store, keys) = (dir.path().join("store"), dir.path().join("stick/keys"));
    let keyring = Keyring::first("laptop", "", 1).unwrap();
    Vault::create(&store, Some(&keys), &key_file(), &keyring, Cost::minimum()).unwrap();
    assert_eq!(listing(&store), [store.join("kith.toml")]);
    Vault::open(&store, Some(&keys), &key_file()).unwrap();
    assert!(matches!(error(&store, &key_file()), Error::NoKeyring(_)));
    assert!(!store.join("keys").exists(), "nothing was made anew");
}

#[test]
fn k1_a_blind_devices_keyring_holds_no_key_of_a_share() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Keyring::first("laptop", "", 1).unwrap();
    let device = keymgr::device::DeviceKeys::generate();
    let keyring = Keyring::joining(device, Role::Blind, owner.account_id, owner.root);
    Vault::create(dir.path(), None, &key_file(), &keyring, Cost::minimum()).unwrap();
    let (_, read) = Vault::open(dir.path(), None, &key_file()).unwrap();
    assert!(read.role == Role::Blind && read.shares.is_empty() && read.account.is_none());
}

#[test]
fn s10_each_flipped_bit_of_each_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().to_owned();
    make(&store);
    for path in [store.join("kith.toml"), store.join("keys/keyring"), slot_of(&store)] {
        let good = fs::read(&path).unwrap();
        for i in 0..good.len() {
            // Every bit where there is meaning in the clear, one bit of each sealed byte.
            let bits = if i < 400 { 0..8 } else { 0..1 };
            for bit in bits {
                let mut bad = good.clone();
                bad[i] ^= 1 << bit;
                fs::write(&path, &bad).unwrap();
                assert!(Vault::open(&store, None, &key_file()).is_err(), "{} byte {i} bit {bit}", path.display());
            }
        }
        for bad in [&good[..good.len() - 1], &[&good[..], b"\n"].concat(), b""] {
            fs::write(&path, bad).unwrap();
            assert!(Vault::open(&store, None, &key_file()).is_err(), "{} of {}", path.display(), bad.len());
        }
        fs::write(&path, &good).unwrap();
        Vault::open(&store, None, &key_file()).unwrap();
    }
}

#[test]
fn s10_a_downgrade_is_refused_and_a_newer_format_has_an_error_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let path = dir.path().join("kith.toml");
    let good = fs::read_to_string(&path).unwrap();
    for (change, newer) in [("version = 2", true), ("version = 0", false), ("version = -1", false)] {
        fs::write(&path, good.replace("version = 1", change)).unwrap();
        let error = error(dir.path(), &key_file());
        assert_eq!(matches!(error, Error::NewerStore { .. }), newer, "{change}: {error}");
    }
    // A newer format may have fields that this program does not know; it still says so.
    fs::write(&path, "version = 9\nsomething = { new = true }\n").unwrap();
    assert!(matches!(error(dir.path(), &key_file()), Error::NewerStore { found: 9, .. }));
    for change in [good.replace("full", "blind"), good.clone() + "# note\n", good.replace(" = ", "=")] {
        fs::write(&path, change).unwrap();
        assert!(matches!(error(dir.path(), &key_file()), Error::ConfigChanged(_)));
    }
    for (file, magic) in [(dir.path().join("keys/keyring"), "kithring"), (slot_of(dir.path()), "kithslot")] {
        fs::write(&path, &good).unwrap();
        let bytes = fs::read(&file).unwrap();
        let mut newer = bytes.clone();
        newer[magic.len()] = 2;
        fs::write(&file, newer).unwrap();
        match error(dir.path(), &key_file()) {
            Error::Sealed { source: keyring::Error::Newer(2), .. } => {}
            Error::Slot { source: slot::Error::Newer(2), .. } => {}
            other => panic!("{other}"),
        }
        fs::write(&file, bytes).unwrap();
    }
}

#[test]
fn s10_k3_slot_keyring_or_kith_toml_of_another_vault_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    make(&a);
    make(&b);
    let put = |from: PathBuf, to: PathBuf| {
        let before = fs::read(&to).unwrap();
        fs::copy(from, &to).unwrap();
        let error = error(&a, &key_file());
        fs::write(&to, before).unwrap();
        error
    };
    let slot = put(slot_of(&b), slot_of(&a));
    assert!(matches!(slot, Error::Slot { source: slot::Error::OtherVault, .. }), "{slot}");
    let ring = put(b.join("keys/keyring"), a.join("keys/keyring"));
    assert!(matches!(ring, Error::Sealed { source: keyring::Error::Damaged, .. }), "{ring}");
    let config = put(b.join("kith.toml"), a.join("kith.toml"));
    assert!(matches!(config, Error::Slot { source: slot::Error::OtherVault, .. }), "{config}");
    Vault::open(&a, None, &key_file()).unwrap();
}

#[test]
fn k3_a_slot_without_its_keyring_or_a_keyring_without_its_slot_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, aside) = (dir.path().join("store"), dir.path().join("aside"));
    make(&store);
    let keyring = Keyring::first("other", "", 1).unwrap();
    for file in [store.join("keys/keyring"), slot_of(&store), store.join("kith.toml")] {
        fs::rename(&file, &aside).unwrap();
        let before = (listing(&store), listing(&store.join("keys")));
        let error = error(&store, &key_file());
        assert!(matches!(error, Error::NoKeyring(_) | Error::NoSlots(_) | Error::NoVault(_)), "{error}");
        let again = Vault::create(&store, None, &key_file(), &keyring, Cost::minimum());
        assert!(matches!(again, Err(Error::Exists(_) | Error::KeysExist(_))));
        assert_eq!((listing(&store), listing(&store.join("keys"))), before);
        fs::rename(&aside, &file).unwrap();
    }
    Vault::open(&store, None, &key_file()).unwrap();
}

#[test]
fn k2_after_a_rotation_an_old_slot_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path();
    let (vault, keyring) = make(store);
    let (old_slot, old_ring) = (slot_of(store), fs::read(store.join("keys/keyring")).unwrap());
    let stolen = fs::read(&old_slot).unwrap();
    let new = Unlock::KeyFile(Zeroizing::new(vec![8; 32]));
    let rotated = vault.rotate(&keyring, "new", &new, Cost::minimum()).unwrap();
    assert_eq!(rotated.id(), vault.id());
    assert!(matches!(error(store, &key_file()), Error::WrongKey(_)));
    Vault::open(store, None, &new).unwrap();
    // The thief's copy of the slot opens its vault key, which is not this keyring's any more.
    fs::write(&old_slot, &stolen).unwrap();
    assert!(matches!(error(store, &key_file()), Error::Sealed { .. }));
    Vault::open(store, None, &new).unwrap();
    // Slot and keyring put back together are kith.toml's no more.
    fs::write(store.join("keys/keyring"), old_ring).unwrap();
    assert!(matches!(error(store, &key_file()), Error::ConfigChanged(_)));
}

#[test]
fn a_rotation_cut_short_at_any_step_leaves_a_vault_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path();
    let (vault, keyring) = make(store);
    let ring = store.join("keys/keyring");
    let old = [slot_of(store), ring.clone(), store.join("kith.toml")].map(|p| (p.clone(), fs::read(p).unwrap()));
    let new = Unlock::KeyFile(Zeroizing::new(vec![8; 32]));
    vault.rotate(&keyring, "new", &new, Cost::minimum()).unwrap();
    let new_files = [slot_of(store), ring, store.join("kith.toml")].map(|p| (p.clone(), fs::read(p).unwrap()));
    let mac = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.split('"').rev().nth(1).unwrap().to_owned()
    };
    let (old_mac, new_mac) = (mac(&old[2].1), mac(&new_files[2].1));
    let both = String::from_utf8(old[2].1.clone()).unwrap().replace(&old_mac, &format!("{old_mac}\", \"{new_mac}"));
    // The steps in their order: what lies there after each of them.
    let put = |files: &[&(PathBuf, Vec<u8>)]| files.iter().for_each(|(p, b)| fs::write(p, b).unwrap());
    put(&[&old[0], &old[1], &old[2], &new_files[0]]);
    Vault::open(store, None, &key_file()).unwrap();
    fs::write(&old[2].0, &both).unwrap();
    Vault::open(store, None, &key_file()).unwrap();
    put(&[&new_files[1]]);
    Vault::open(store, None, &new).unwrap();
    put(&[&new_files[2]]);
    Vault::open(store, None, &new).unwrap();
    // One passphrase for both slots: whichever is tried first, the keyring's is found.
    let (vault, keyring) = Vault::open(store, None, &new).unwrap();
    let same = vault.rotate(&keyring, "again", &new, Cost::minimum()).unwrap();
    put(&[&new_files[0]]);
    assert_eq!(same.slots().unwrap().len(), 2);
    Vault::open(store, None, &new).unwrap();
}

#[test]
fn before_a_rotation_commits_kith_toml_is_authentic_under_both_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, keyring) = make(dir.path());
    let (ring, aside) = (dir.path().join("keys/keyring"), dir.path().join("aside"));
    // A directory in its place: the keyring's rename, which commits, fails.
    fs::rename(&ring, &aside).unwrap();
    fs::create_dir(&ring).unwrap();
    let new = Unlock::KeyFile(Zeroizing::new(vec![8; 32]));
    assert!(vault.rotate(&keyring, "new", &new, Cost::minimum()).is_err());
    let config = fs::read_to_string(dir.path().join("kith.toml")).unwrap();
    let line = config.lines().last().unwrap();
    assert_eq!(line.matches('"').count(), 4, "{line}");
    fs::remove_dir(&ring).unwrap();
    fs::rename(&aside, &ring).unwrap();
    let (vault, keyring) = Vault::open(dir.path(), None, &key_file()).unwrap();
    // And a second attempt ends well and leaves one slot.
    vault.rotate(&keyring, "new", &new, Cost::minimum()).unwrap();
    slot_of(dir.path());
    Vault::open(dir.path(), None, &new).unwrap();
}

#[test]
fn slots_are_added_listed_and_removed_but_for_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = make(dir.path());
    let first = vault.slots().unwrap()[0].id();
    assert!(matches!(vault.remove_slot(&first), Err(Error::LastSlot)));
    let passphrase = Unlock::passphrase("spoken");
    let id = vault.add_slot("spoken", &passphrase, Cost::minimum()).unwrap();
    let slots = vault.slots().unwrap();
    assert_eq!(slots.len(), 2);
    let added = slots.iter().find(|s| s.id() == id).unwrap();
    assert_eq!((added.label(), added.kind()), ("spoken", slot::Kind::Passphrase(Cost::minimum())));
    Vault::open(dir.path(), None, &passphrase).unwrap();
    vault.remove_slot(&first).unwrap();
    assert!(matches!(vault.remove_slot("../keyring"), Err(Error::NoSuchSlot(_))));
    assert!(matches!(error(dir.path(), &key_file()), Error::WrongKey(_)));
    Vault::open(dir.path(), None, &passphrase).unwrap();
    // One damaged slot does not shut out another.
    fs::write(dir.path().join("keys/0000.slot"), b"damaged").unwrap();
    Vault::open(dir.path(), None, &passphrase).unwrap();
}

#[test]
fn s6_the_mark_outside_is_this_vaults_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (a, _) = make(&dir.path().join("a"));
    let (b, _) = make(&dir.path().join("b"));
    let path = dir.path().join("state/kith/mark");
    assert_eq!(a.load_mark(&path).unwrap(), None);
    let head = Head {
        share: ShareId::random(),
        device: DeviceId::random(),
        incarnation: Incarnation::random(),
        number: 5,
        hash: RecordHash::random(),
    };
    let mark = Mark { state: MarkState::Clean, session: 4, heads: vec![head] };
    a.save_mark(&path, &mark).unwrap();
    assert_eq!(a.load_mark(&path).unwrap(), Some(mark));
    assert!(b.load_mark(&path).is_err());
    let good = fs::read(&path).unwrap();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(a.load_mark(&path).is_err(), "byte {i}");
    }
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn k1_an_error_tells_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let secret = "hunter2-in-the-clear";
    let error = error(dir.path(), &Unlock::passphrase(secret));
    assert!(!format!("{error} {error:?}").contains(secret));
    assert!(!fs::read(dir.path().join("keys/keyring")).unwrap().windows(14).any(|w| w == b"me@example.org"));
}

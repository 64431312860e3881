//! Every mistake gives one line of what happened, one of what to do, its own exit code, and loses nothing.

mod common;

use common::Device;

#[test]
fn what_is_not_a_vault_or_not_to_be_opened_says_so() {
    let d = Device::new("errors");
    let mountpoint = d.mountpoint();
    let at = mountpoint.to_str().unwrap();
    d.fails(&["mount", at], 10);
    d.fails(&["status"], 10);
    d.init();
    d.fails(&["init"], 14);

    let wrong = d.path("wrong");
    std::fs::write(&wrong, "not the passphrase\n").unwrap();
    d.fails(&["mount", at, "--passfile", wrong.to_str().unwrap()], 12);
    d.fails(&["mount", d.path("nowhere").to_str().unwrap()], 20);
    d.fails(&["mount", wrong.to_str().unwrap()], 20);
    std::fs::write(mountpoint.join("mine"), "was here before").unwrap();
    d.fails(&["mount", at], 21);
    assert_eq!(std::fs::read_to_string(mountpoint.join("mine")).unwrap(), "was here before");
    std::fs::remove_file(mountpoint.join("mine")).unwrap();

    d.fails(&["pair"], 60);
    d.mount();
    d.fails(&["mount", at], 61);
    let other = Device::new("other");
    other.init();
    other.fails(&["mount", at], 22);
    d.umount();
    d.fails(&["umount", at], 60);
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let d = Device::new("newer");
    d.init();
    let file = d.store().join("kith.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let newer = text.replacen("version = 1", "version = 2", 1);
    assert_ne!(text, newer, "{text}");
    std::fs::write(&file, &newer).unwrap();
    d.fails(&["mount", d.mountpoint().to_str().unwrap()], 11);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
}

#[test]
fn k3_keyring_or_slot_missing_is_refused_and_nothing_is_made_anew() {
    let d = Device::new("k3");
    d.init();
    let keys = d.store().join("keys");
    let names: Vec<_> = std::fs::read_dir(&keys).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in &names {
        let aside = d.path("aside");
        std::fs::rename(name, &aside).unwrap();
        d.fails(&["mount", d.mountpoint().to_str().unwrap()], 13);
        assert!(!name.exists(), "{name:?} was made anew");
        std::fs::rename(&aside, name).unwrap();
    }
    d.mount();
    d.umount();
}

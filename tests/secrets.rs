//! K1: the passphrase and the password stand in no argument, no environment, no log, no file, no core dump.

mod common;

use common::prosody::Prosody;
use common::{Device, PASSPHRASE, PASSWORD, account};

#[test]
fn k1_secrets_stand_nowhere() {
    let broker = Prosody::start();
    let d = Device::new("secrets");
    d.init();
    d.mount();
    account(&broker, &d, "me@localhost/secrets");
    std::fs::write(d.mountpoint().join("a file"), "its content").unwrap();
    let pid = d.pid().unwrap();
    let proc = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap();
    let found = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    let status = d.kith(&["status", "--json"]);
    for secret in [PASSPHRASE, PASSWORD] {
        assert!(!found(&proc("cmdline"), secret), "in an argument");
        assert!(!found(&proc("environ"), secret), "in the environment");
        assert!(!found(status.as_bytes(), secret), "in the status");
        assert!(!found(d.log().as_bytes(), secret), "in the log");
    }
    let limits = String::from_utf8(proc("limits")).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    d.umount();
    for secret in [PASSPHRASE, PASSWORD] {
        let grep = std::process::Command::new("grep").args(["-raFl", secret]).arg(d.path("home")).output().unwrap();
        assert!(grep.stdout.is_empty(), "in a file: {}", String::from_utf8_lossy(&grep.stdout));
    }
}

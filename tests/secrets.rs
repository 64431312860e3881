//! K1: the passphrase and the password stand in no argument, no environment, no log, no file, no core dump.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use common::prosody::Prosody;
use common::{Device, PASSPHRASE, PASSWORD, account, at, ran, until};

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

/// As it may be written down: as it is, in hexadecimal, in base64 as SASL PLAIN would send it.
fn forms(secret: &str) -> Vec<String> {
    use data_encoding::{BASE64, HEXLOWER};
    let plain = BASE64.encode(format!("\0me\0{secret}").as_bytes());
    vec![secret.to_owned(), HEXLOWER.encode(secret.as_bytes()), BASE64.encode(secret.as_bytes()), plain]
}

#[test]
fn k1_logs_at_their_most_talkative_and_errors_tell_no_secret() {
    let broker = Prosody::start();
    let d = Device::new("trace");
    let mut said = String::new();
    let mut run = |args: &[String], code: i32| {
        let ran = ran(&d.command(args).env("KITH_LOG", "trace").output().unwrap());
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        said += &(ran.out + &ran.err);
    };
    let line = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let mountpoint = d.mountpoint().display().to_string();
    run(&line(&["init"]), 0);
    // The account's password in the place of the passphrase: wrong, and not told back.
    run(&line(&["mount", &mountpoint, "--passfile", &d.password_file().display().to_string()]), 12);
    run(&line(&["mount", &mountpoint]), 0);
    let mut add = line(&["account", "add", "me@localhost/trace", "--register"]);
    add.extend(at(&broker, &d));
    run(&add, 0);
    let mut wrong = line(&["account", "add", "me@localhost/trace"]);
    wrong.extend(at(&broker, &d));
    *wrong.last_mut().unwrap() = d.path("pass").display().to_string();
    run(&wrong, 32);
    std::fs::write(d.mountpoint().join("a file"), "its content").unwrap();
    run(&line(&["status"]), 0);
    run(&line(&["umount", &mountpoint]), 0);
    let mut logs = said;
    for entry in std::fs::read_dir(d.path("home/.local/state/kith")).unwrap().flatten() {
        logs += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap());
    }
    assert!(logs.contains("DEBUG"), "only warnings were logged");
    for secret in [PASSPHRASE, PASSWORD] {
        for form in forms(secret) {
            assert!(!logs.contains(&form), "{form} is in a log");
        }
    }
}

#[test]
fn k1_an_abort_leaves_no_core() {
    let d = Device::new("core");
    d.init();
    let at = d.path("cwd");
    std::fs::create_dir(&at).unwrap();
    let mut command = d.command(&["mount", "--foreground"]);
    command.arg(d.mountpoint()).current_dir(&at).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = command.spawn().unwrap();
    until("it is mounted", 30, || d.run(&["status"]).out.contains("mounted at"));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.id() as i32), nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = daemon.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGABRT), false));
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0);
    d.umount();
}

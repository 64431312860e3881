//! The README's first command, as a new user runs it: twice, then `--stop`; and never over files that are there.

use std::process::Command;

fn quickstart(home: &std::path::Path, args: &[&str]) -> (i32, String) {
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/quickstart"))
        .args(args)
        .env("HOME", home)
        .env("KITH_BIN", env!("CARGO_BIN_EXE_kith"))
        .env("KITH_SLOT_COST", "minimum")
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_STATE_HOME")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
    )
}

/// Stops what was started, also when an assertion failed.
struct Stop(std::path::PathBuf);

impl Drop for Stop {
    fn drop(&mut self) {
        let _ = quickstart(&self.0, &["--stop"]);
    }
}

#[test]
fn one_command_leaves_a_vault_mounted_and_a_blind_replica_in_step() {
    let dir = tempfile::Builder::new().prefix("kith-quickstart-").tempdir().unwrap();
    let home = dir.path().to_owned();
    std::fs::create_dir(home.join("run")).unwrap();
    std::fs::create_dir(home.join("Secure")).unwrap();
    std::fs::write(home.join("Secure/mine"), "was here before").unwrap();
    let (code, out) = quickstart(&home, &[]);
    assert_ne!(code, 0);
    assert!(out.contains("KITH_DIR"), "{out}");
    assert_eq!(std::fs::read_to_string(home.join("Secure/mine")).unwrap(), "was here before");
    std::fs::remove_file(home.join("Secure/mine")).unwrap();

    let stop = Stop(home.clone());
    for round in 1..=2 {
        let (code, out) = quickstart(&home, &[]);
        assert_eq!(code, 0, "round {round}: {out}");
        assert!(out.contains("README.md") && out.contains(" ms as "), "{out}");
        assert!(out.contains("no name and no content"), "{out}");
    }
    let readme = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert_eq!(std::fs::read(home.join("Secure/README.md")).unwrap(), readme);
    assert!(std::fs::read_to_string(home.join("Secure/picture.svg")).unwrap().contains("<svg"));
    drop(stop);
    assert!(std::fs::read_dir(home.join("Secure")).unwrap().next().is_none(), "still mounted");
    let (code, out) = quickstart(&home, &["--stop"]);
    assert_eq!(code, 0, "{out}");
}

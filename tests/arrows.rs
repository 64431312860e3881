//! The arrows of ARCHITECTURE.md: src -> fs -> keymgr, src -> sync -> keymgr, never fs <-> sync; one module names
//! each foreign library; the engine has no I/O, no clock, no randomness.

use std::path::{Path, PathBuf};

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{dir}");
    found
}

/// The places in `dir` (outside of `except`) that use `crate_name` as a path.
fn naming(dir: &str, crate_name: &str, except: &str) -> Vec<String> {
    let mut places = Vec::new();
    for (path, text) in sources(dir) {
        if !except.is_empty() && path.to_string_lossy().contains(except) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let used = format!("{crate_name}::");
            if code
                .match_indices(&used)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            {
                places.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    places
}

fn none(places: Vec<String>, rule: &str) {
    assert!(places.is_empty(), "{rule}: {places:#?}");
}

#[test]
fn fs_and_sync_never_name_each_other_and_keymgr_names_neither() {
    for (manifest, others) in [
        ("fs", &["kith-sync", "sync.workspace"][..]),
        ("sync", &["kith-fs", "fs.workspace"]),
        ("keymgr", &["kith-fs", "kith-sync", "fs.workspace", "sync.workspace"]),
    ] {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest).join("Cargo.toml")).unwrap();
        for other in others {
            assert!(!text.lines().any(|l| l.starts_with(other)), "{manifest}/Cargo.toml names {other}");
        }
    }
}

#[test]
fn only_the_mount_names_fuser_and_only_the_net_names_tokio_xmpp() {
    none(naming("fs/src", "fuser", "/fs/src/mount/"), "fuser belongs to fs/src/mount");
    for foreign in ["tokio_xmpp", "xmpp_parsers", "sasl"] {
        none(naming("sync/src", foreign, "/sync/src/net/"), "XMPP belongs to sync/src/net");
    }
    for dir in ["src", "keymgr/src"] {
        none(naming(dir, "fuser", ""), "fuser belongs to fs/src/mount");
        none(naming(dir, "tokio_xmpp", ""), "XMPP belongs to sync/src/net");
    }
}

#[test]
fn the_engine_has_no_io_no_clock_no_randomness() {
    for foreign in ["tokio", "nix", "libc", "getrandom", "sled", "hyper", "notify"] {
        none(naming("sync/src/engine", foreign, ""), "the engine is pure");
    }
    for (path, text) in sources("sync/src/engine") {
        for word in ["std::fs", "std::net", "std::time", "std::thread", "Instant::now", "SystemTime", "::random()"] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

//! The mount before the suites that judge file systems. They come from crates.io in fixed versions; scripts/test puts them
//! into target/tools. Root is needed: a good part of POSIX is about who may do what.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::shared;

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    assert!(path.exists(), "{} is missing: scripts/test installs it", path.display());
    path
}

/// What ARCHITECTURE.md lists as not passed: the names in the first column of its table of exceptions.
fn exceptions() -> BTreeMap<String, &'static str> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md")).unwrap();
    let table = text.split("| pjdfstest's case |").nth(1).expect("a table of exceptions").split("\n\n").next().unwrap();
    let names = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    names.map(|name| (name.to_owned(), "is to fail")).collect()
}

#[test]
fn pjdfstest_passes_but_for_what_the_architecture_lists() {
    let d = shared("pjdfstest");
    let at = |name: &str| d.path(name);
    std::fs::write(
        at("pjd.toml"),
        "[features]\nposix_fallocate = {}\nrename_ctime = {}\nutime_now = {}\nutimensat = {}\n\
         [settings]\nnaptime = 0.02\nallow_remount = true\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n",
    )
    .unwrap();
    // It remounts by mount(8), which would ask a helper program of FUSE's to mount anew.
    std::fs::create_dir(at("bin")).unwrap();
    std::fs::write(at("bin/mount"), "#!/bin/sh\nPATH=/usr/bin:/bin exec mount -i \"$@\"\n").unwrap();
    std::fs::set_permissions(at("bin/mount"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(at("elsewhere")).unwrap();
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
    let run = |only: Option<&str>| {
        let mut c = Command::new(tool("pjdfstest"));
        c.args(["-c".as_ref(), at("pjd.toml").as_os_str(), "-s".as_ref(), at("elsewhere").as_os_str(), "-p".as_ref()]);
        c.arg(d.mountpoint()).args(only);
        c.env("PATH", &path).env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        String::from_utf8(c.output().unwrap().stdout).unwrap()
    };
    // Those that make the mount read-only have a process of their own: others leave files open, on any file system, and
    // then it is busy.
    let text = run(Some("erofs")) + &run(None);
    let mut expected = exceptions();
    let (mut passed, mut wrong, mut seen) = (0, Vec::new(), BTreeSet::new());
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(result), None) = (words.next(), words.next(), words.next()) else { continue };
        if !["ok", "FAILED", "skipped"].contains(&result) || name.contains("erofs") && !seen.insert(name) {
            continue;
        }
        let listed = expected.remove(name).is_some();
        match (result, listed) {
            ("ok", false) => passed += 1,
            ("ok", true) => wrong.push(format!("{name} passes: take it off the list")),
            (_, true) => {}
            (_, false) => wrong.push(format!("{name} {result}: {}", lines.get(at + 1).unwrap_or(&"").trim())),
        }
    }
    wrong.extend(expected.keys().map(|name| format!("{name} is on the list, and there is no such case")));
    assert!(wrong.is_empty(), "{passed} passed;\n{}", wrong.join("\n"));
    assert!(passed >= 390, "only {passed} cases ran:\n{text}");
    d.umount();
    d.kith(&["fsck"]);
}

/// The parts of 100,000 operations, one for each seed; `KITH_LONG=1` runs ten times as many.
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

fn long() -> bool {
    std::env::var_os("KITH_LONG").is_some()
}

#[test]
fn fsx_finds_no_byte_out_of_place() {
    let d = shared("fsx");
    let operations = if long() { 200_000 } else { 20_000 };
    let config = "flen = 150000\n[opsize]\nmax = 40000\n[weights]\nclose_open = 1.0\ninvalidate = 1.0\nmapread = 5.0\nmapwrite = 5.0\n\
         read = 10.0\nwrite = 10.0\ntruncate = 4.0\nfsync = 0.1\nfdatasync = 0.1\nposix_fallocate = 2.0\npunch_hole = 4.0\n\
         sendfile = 2.0\nposix_fadvise = 0.5\ncopy_file_range = 4.0\n";
    // An msync after each write through a mapping is an fsync: in one part only.
    std::fs::write(d.path("msync.toml"), config).unwrap();
    std::fs::write(d.path("fsx.toml"), format!("nomsyncafterwrite = true\n{config}")).unwrap();
    std::thread::scope(|scope| {
        for seed in SEEDS {
            let d = &d;
            scope.spawn(move || {
                let out = Command::new(tool("fsx"))
                    .args(["-q", "-S", &seed.to_string(), "-N", &operations.to_string(), "-f"])
                    .args([
                        d.path(if seed == 1 { "msync.toml" } else { "fsx.toml" }).as_os_str(),
                        "-P".as_ref(),
                        d.path("").as_os_str(),
                    ])
                    .arg(d.mountpoint().join(format!("fsx-{seed}")))
                    .output()
                    .unwrap();
                assert!(
                    out.status.success(),
                    "seed {seed}: {}{}",
                    String::from_utf8_lossy(&out.stdout),
                    String::from_utf8_lossy(&out.stderr)
                );
            });
        }
    });
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn what_several_processes_made_at_once_is_what_is_there() {
    let d = shared("stress");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stress.py");
    let operations = if long() { "20000" } else { "1200" };
    let out = d.script(
        "for seed in 1 2 3 4; do python3 $1 work $2/stress $PWD/state-$seed $seed $3 & all+=($!); done
         for one in ${all[@]}; do wait $one; done; python3 $1 check $2/stress state-*",
        &[script.as_ref(), d.mountpoint().as_os_str(), operations.as_ref()],
    );
    d.umount();
    d.mount_shared();
    let again = d.script("python3 $1 check $2/stress state-*", &[script.as_ref(), d.mountpoint().as_os_str()]);
    assert_eq!(out, again);
    d.umount();
    d.kith(&["fsck"]);
}

#[test]
fn fio_reads_back_what_it_wrote_at_random() {
    let d = shared("fio");
    let size = if long() { "1g" } else { "12m" };
    d.script(
        "cd $1; fio --output-format=terse --verify=crc32c --verify_fatal=1 --size=$2 --rw=randwrite --randseed=7 --group_reporting \
         --name=blocks --filename=blocks --bs=4k --ioengine=psync --fsync=256 \
         --name=odd --filename=odd --bsrange=1k-64k --bs_unaligned=1 --ioengine=psync \
         --name=mapped --filename=mapped --bs=4k --ioengine=mmap \
         --name=direct --filename=direct --bs=8k --ioengine=psync --direct=1 >$OLDPWD/fio.out || { cat $OLDPWD/fio.out; exit 1; }",
        &[d.mountpoint().as_os_str(), size.as_ref()],
    );
    d.umount();
    d.kith(&["fsck"]);
}

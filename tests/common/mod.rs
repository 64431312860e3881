//! What the end-to-end tests share: a device with a home of its own, kith run on it, and the end of everything that
//! was started, also when a test fails.
#![allow(dead_code)] // each test binary uses a part of it

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "../../sync/tests/support/ejabberd.rs"]
pub mod ejabberd;
#[path = "../../sync/tests/support/federation.rs"]
pub mod federation;
#[path = "../../sync/tests/support/prosody.rs"]
pub mod prosody;

pub use prosody::Broker;

/// Of every account in the tests.
pub const PASSWORD: &str = "correct pony";
pub const PASSPHRASE: &str = "correct horse battery staple";

/// A device: a home folder, a store, a mountpoint.
pub struct Device {
    dir: tempfile::TempDir,
    pub name: String,
}

/// What a run of kith printed.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Device {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("kith-{name}-")).tempdir().unwrap();
        for sub in ["home", "run", "Secure"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        std::fs::write(dir.path().join("pass"), format!("{PASSPHRASE}\n")).unwrap();
        std::fs::write(dir.path().join("password"), format!("{}\n", PASSWORD)).unwrap();
        Self { dir, name: name.to_owned() }
    }

    pub fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }
    pub fn store(&self) -> PathBuf {
        self.path("home/.local/share/kith/store")
    }
    pub fn mountpoint(&self) -> PathBuf {
        self.path("Secure")
    }
    pub fn password_file(&self) -> PathBuf {
        self.path("password")
    }

    /// kith with this device's environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_kith"));
        c.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        c.env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("KITH_PASSFILE", self.path("pass"));
        c.env("KITH_SLOT_COST", "minimum");
        if let Some(log) = std::env::var_os("KITH_LOG") {
            c.env("KITH_LOG", log);
        }
        c.stdin(Stdio::null());
        c
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        ran(&self.command(args).output().unwrap())
    }

    /// Must succeed.
    pub fn kith<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{}: kith {args:?}: {ran:?}\n{}", self.name, self.log());
        ran.out
    }

    /// Must fail with this exit code, one line of what happened and one of what to do.
    pub fn fails<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S], code: i32) -> String {
        let ran = self.run(args);
        check_failure(&ran, code, &format!("{args:?}"));
        ran.err
    }

    pub fn init(&self) {
        self.kith(&["init", "--name", &self.name]);
    }
    pub fn mount(&self) {
        self.kith(&[OsStr::new("mount"), self.mountpoint().as_os_str()]);
    }
    pub fn umount(&self) {
        self.kith(&[OsStr::new("umount"), self.mountpoint().as_os_str()]);
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.kith(&["status", "--json"])).unwrap()
    }

    /// The daemon's pid, from the lock that it holds. One that nobody holds has the pid of a daemon that ended, which may be
    /// somebody else's by now.
    pub fn pid(&self) -> Option<i32> {
        let file = std::fs::File::open(self.store().join("lock")).ok()?;
        let pid = std::io::read_to_string(&file).ok()?;
        let free = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock).is_ok();
        if free { None } else { pid.trim().parse().ok() }
    }

    pub fn kill9(&self) {
        let pid = self.pid().expect("a daemon");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.mountpoint()).output();
        until("the daemon is gone", 10, || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// The end of the daemon's log, for a failed assertion.
    pub fn log(&self) -> String {
        let dir = self.path("home/.local/state/kith");
        let mut all = String::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().extension() == Some(OsStr::new("log")) {
                all += &std::fs::read_to_string(entry.path()).unwrap_or_default();
            }
        }
        let from = all.len().saturating_sub(30000);
        all.get(from..).unwrap_or(&all).to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
        if let Some(pid) = self.pid() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounted.contains(self.mountpoint().to_str().unwrap_or("\0")) {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.mountpoint()).output();
        }
    }
}

pub fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn check_failure(ran: &Ran, code: i32, about: &str) {
    assert_eq!(ran.code, code, "{about}: {ran:?}");
    let lines: Vec<&str> = ran.err.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(lines.len(), 2, "{about}: one line of what, one of what to do: {ran:?}");
    assert!(lines[0].starts_with("kith: ") && lines[0].len() > 12 && lines[1].trim().len() > 8, "{about}: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{about}: {ran:?}");
}

/// Waits until something is so; fails, saying what, where it is not within `seconds`. The limit is only there so that a
/// failure ends; nothing is measured by it.
pub fn until(what: &str, seconds: u64, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !so() {
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The differences between two trees, as `diff -r` and rsync (times, modes, links, xattrs) see them; empty when there are none.
pub fn differences(a: &Path, b: &Path) -> String {
    let diff = Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b).output().unwrap();
    let (mut from, mut to) = (a.as_os_str().to_owned(), b.as_os_str().to_owned());
    from.push("/");
    to.push("/");
    let rsync = Command::new("rsync").args(["-anciHAX", "--delete"]).args([from, to]).output().unwrap();
    // diff tells every pair of FIFOs apart; rsync compares them.
    let line = |l: &&str| !l.contains(" is a fifo while ") || !l.ends_with(" is a fifo");
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().filter(line).take(20).collect::<Vec<_>>().join("\n");
    text(&diff.stdout) + &text(&diff.stderr) + &text(&rsync.stdout) + &text(&rsync.stderr)
}

/// A running `kith pair`.
pub struct Pairing {
    child: std::process::Child,
    out: std::io::BufReader<std::process::ChildStdout>,
}

impl Pairing {
    pub fn start(d: &Device, jid: &str) -> Self {
        let bare = jid.split('/').next().unwrap();
        let mut child =
            d.command(&["pair", "--jid", bare]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The code that it prints.
    pub fn code(&mut self) -> String {
        loop {
            let mut line = String::new();
            let n = std::io::BufRead::read_line(&mut self.out, &mut line).unwrap();
            assert!(n > 0, "kith pair ended without a code");
            if let Some(word) = line.split_whitespace().find(|w| w.contains('@')) {
                return word.to_owned();
            }
        }
    }

    pub fn done(mut self) {
        assert!(self.child.wait().unwrap().success(), "kith pair failed");
    }
}

impl Drop for Pairing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until two trees show the same; fails with what is different.
pub fn same(a: &Path, b: &Path, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let differ = differences(a, b);
        if differ.is_empty() {
            return;
        }
        if Instant::now() > end {
            let times = Command::new("stat").args(["-c", "%n %y"]).args([a, b]).output().unwrap();
            panic!("not the same within {seconds} s:\n{differ}\n{}", String::from_utf8_lossy(&times.stdout));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Account options for a broker.
pub fn at(broker: &impl Broker, d: &Device) -> Vec<String> {
    let (ca, password) = (broker.ca().display().to_string(), d.password_file().display().to_string());
    vec!["--ca".into(), ca, "--server".into(), broker.address(), "--password-file".into(), password]
}

/// Registers the account where it is new, and sets it.
pub fn account(broker: &impl Broker, d: &Device, jid: &str) {
    let mut args = vec!["account".to_owned(), "add".into(), jid.into(), "--register".into()];
    args.extend(at(broker, d));
    d.kith(&args);
}

/// Pairs `new` with `with`, by the code that `kith pair` prints.
pub fn join(broker: &impl Broker, with: &Device, new: &Device, jid: &str, register: bool, blind: bool) {
    let mut pairing = Pairing::start(with, jid);
    let code = pairing.code();
    let mut args = vec!["join".to_owned(), code, "--jid".into(), jid.into(), "--name".into(), new.name.clone()];
    if blind {
        args.push("--blind".into());
    }
    if register {
        args.push("--register".into());
    }
    args.extend(at(broker, new));
    new.kith(&args);
    pairing.done();
}

impl Pairing {
    /// It must have ended with an error.
    pub fn failed(mut self) {
        until("kith pair ends", 60, || self.child.try_wait().unwrap().is_some());
        assert!(!self.child.wait().unwrap().success(), "kith pair let somebody in");
    }
}

/// A vault that every user of this machine may enter, mounted as it comes. Only root can.
pub fn shared(name: &str) -> Device {
    use std::os::unix::fs::PermissionsExt;
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    let d = Device::new(name);
    std::fs::set_permissions(d.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    d.init();
    d.mount_shared();
    std::fs::set_permissions(d.mountpoint(), PermissionsExt::from_mode(0o755)).unwrap();
    d
}

impl Device {
    pub fn mount_shared(&self) {
        self.kith(&[Path::new("mount"), Path::new("--allow-other"), &self.mountpoint()]);
    }

    /// Runs a script with `$1`, `$2`... `args`, in the device's folder; where it fails the test does.
    pub fn script<S: AsRef<OsStr>>(&self, script: &str, args: &[S]) -> String {
        let mut c = Command::new("bash");
        c.args(["-euo", "pipefail", "-c", script, "script"]).args(args).current_dir(self.path(""));
        let ran = ran(&c.env("HOME", self.path("home")).stdin(Stdio::null()).output().unwrap());
        assert_eq!(ran.code, 0, "{script}\n{}{}", ran.out, ran.err);
        ran.out
    }
}

/// The ciphertext tree: paths and bytes.
pub fn ciphertext(store: &Path) -> Vec<(String, Vec<u8>)> {
    let tree = store.join("tree");
    let (mut out, mut todo) = (Vec::new(), vec![tree.clone()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(&tree).unwrap().display().to_string();
            if path.is_dir() {
                out.push((name, Vec::new()));
                todo.push(path);
            } else {
                out.push((name, std::fs::read(path).unwrap_or_default()));
            }
        }
    }
    out.sort();
    out
}

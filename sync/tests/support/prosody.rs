//! A private Prosody for tests: free loopback ports, its own certificate, ended when dropped.
//!
//! The root package's tests include this file by `#[path]`; it uses std and tempfile only.
#![allow(dead_code)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the broker is to be like.
#[derive(Clone)]
pub struct Options {
    pub tls: bool,
    /// With proxy65 (XEP-0065).
    pub proxy: bool,
    /// With registration (XEP-0077).
    pub registration: bool,
    /// SCRAM beside PLAIN; without it PLAIN alone.
    pub scram: bool,
    /// With the rate limit that Debian's configuration sets: 10 kB/s for each user.
    pub limited: bool,
    /// Lines for the global part of the configuration.
    pub extra: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { tls: true, proxy: true, registration: true, scram: true, limited: false, extra: String::new() }
    }
}

/// The host that every broker of the tests serves.
pub const HOST: &str = "localhost";

pub struct Prosody {
    dir: tempfile::TempDir,
    child: Option<Child>,
    port: u16,
    direct_tls: u16,
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program exists");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Prosody {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display().to_string();
        let [port, direct_tls, proxy] = free_ports();
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &format!("{at}/key.pem"), "-out", &format!("{at}/ca.pem")]));
        let mut modules = vec!["disco", "roster", "saslauth", "ping", "pep", "blocklist"];
        if options.tls {
            modules.push("tls");
        }
        if options.registration {
            modules.push("register_ibr");
        }
        if options.limited {
            modules.push("limits");
        }
        let modules: String = modules.iter().map(|m| format!("{m:?}; ")).collect();
        let (tls, registration, extra) = (options.tls, options.registration, &options.extra);
        let scram = if options.scram { "" } else { "disable_sasl_mechanisms = { \"SCRAM-SHA-1\"; \"SCRAM-SHA-256\" }" };
        let ssl = format!("ssl = {{ certificate = \"{at}/ca.pem\"; key = \"{at}/key.pem\" }}");
        let direct = if tls { format!("c2s_direct_tls_ports = {{ {direct_tls} }}") } else { String::new() };
        let mut config = format!(
            r#"run_as_root = true
pidfile = "{at}/prosody.pid"
data_path = "{at}/data"
certificates = "{at}"
log = {{ info = "{at}/prosody.log" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
{direct}
s2s_ports = {{ }}
http_ports = {{ }}
https_ports = {{ }}
limits = {{ c2s = {{ rate = "10kb/s" }} }}
proxy65_ports = {{ {proxy} }}
modules_enabled = {{ {modules} }}
modules_disabled = {{ "s2s" }}
authentication = "internal_hashed"
{scram}
c2s_require_encryption = {tls}
allow_unencrypted_plain_auth = true
allow_registration = {registration}
{ssl}
{extra}
VirtualHost "{HOST}"
"#
        );
        if options.proxy {
            config += &format!("Component \"proxy.{HOST}\" \"proxy65\"\n  proxy65_address = \"127.0.0.1\"\n");
        }
        fs::create_dir(dir.path().join("data")).expect("a directory");
        fs::write(dir.path().join("prosody.cfg.lua"), config).expect("the configuration");
        let mut this = Self { dir, child: None, port, direct_tls };
        this.up();
        this
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("prosody.cfg.lua")
    }

    /// Starts it again after `kill`, on the same ports.
    pub fn up(&mut self) {
        // Should the tests be killed, so is the broker.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "prosody", "--root", "-F", "--config"]).arg(self.config());
        let output = fs::File::create(self.dir.path().join("output.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a log")).stderr(output);
        self.child = Some(command.spawn().expect("prosody"));
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "prosody does not listen: {}", self.log());
            sleep(Duration::from_millis(30));
        }
    }

    /// SIGKILL: no farewell to anybody.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn add_user(&self, user: &str, password: &str) {
        run(Command::new("prosodyctl")
            .args(["--root", "--config"])
            .arg(self.config())
            .args(["register", user, HOST, password]));
    }

    /// `host:port` for STARTTLS (or plaintext).
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `xmpps://host:port`.
    pub fn direct_tls(&self) -> String {
        format!("xmpps://127.0.0.1:{}", self.direct_tls)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn log(&self) -> String {
        ["prosody.log", "output.log"].map(|f| fs::read_to_string(self.dir.path().join(f)).unwrap_or_default()).concat()
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        self.kill();
    }
}

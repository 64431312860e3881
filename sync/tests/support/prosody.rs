//! A private Prosody for tests: free loopback ports, its own certificate, ended when dropped.
//!
//! The root package's tests include this file by `#[path]`; it uses std and tempfile only.
#![allow(dead_code)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
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
    /// The domain that it serves.
    pub host: String,
    /// Where it speaks with another broker: see `Federation`. Without it, it speaks with none.
    pub remote: Option<Remote>,
}

/// What an account at a broker needs to know of it.
pub trait Broker {
    /// `host:port` for STARTTLS (or plaintext).
    fn address(&self) -> String;
    /// The only CA to trust for it.
    fn ca(&self) -> PathBuf;
    /// The domain that it serves.
    fn host(&self) -> &str;
}

/// Another broker, and what proves this one to it.
#[derive(Clone)]
pub struct Remote {
    /// The port on which this one hears others.
    pub port: u16,
    pub host: String,
    pub host_port: u16,
    /// A folder with `ca.pem`, and `HOST.pem` and `HOST.key` of each.
    pub pki: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: true,
            proxy: true,
            registration: true,
            scram: true,
            limited: false,
            extra: String::new(),
            host: HOST.to_owned(),
            remote: None,
        }
    }
}

/// The domain of a broker that speaks with no other.
pub const HOST: &str = "localhost";

pub struct Prosody {
    dir: tempfile::TempDir,
    child: Option<Child>,
    host: String,
    ca: PathBuf,
    port: u16,
    direct_tls: u16,
}

pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("its address").port())
}

pub fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program exists");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate for a host, signed by itself or by the `ca.pem` and `ca.key` of that folder; paths without endings.
pub fn certificate(dir: &Path, host: &str, name: &str, by_ca: bool) {
    let at = |file: &str| dir.join(file).display().to_string();
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", &format!("/CN={host}"), "-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth,clientAuth"])
        .args(["-keyout", &at(&format!("{name}.key")), "-out", &at(&format!("{name}.pem"))]);
    if by_ca {
        command.args(["-CA", &at("ca.pem"), "-CAkey", &at("ca.key")]);
    }
    run(&mut command);
}

impl Prosody {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display().to_string();
        let [port, direct_tls, proxy] = free_ports();
        let host = options.host.as_str();
        let (ca, key, cert, s2s) = match &options.remote {
            None => {
                certificate(dir.path(), host, "cert", false);
                let at = |file: &str| dir.path().join(file);
                (at("cert.pem"), at("cert.key"), at("cert.pem"), String::new())
            }
            Some(remote) => {
                let at = |file: &str| remote.pki.join(file);
                let (here, there) = (at(&format!("{host}.pem")), remote.config(dir.path()));
                (at("ca.pem"), at(&format!("{host}.key")), here, there)
            }
        };
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
        let (cert, key) = (cert.display(), key.display());
        let ssl = format!("ssl = {{ certificate = \"{cert}\"; key = \"{key}\"; cafile = \"{}\" }}", ca.display());
        let alone = if options.remote.is_some() { "" } else { "s2s_ports = { }\nmodules_disabled = { \"s2s\" }" };
        let direct = if options.tls { format!("c2s_direct_tls_ports = {{ {direct_tls} }}") } else { String::new() };
        let mut config = format!(
            r#"run_as_root = true
pidfile = "{at}/prosody.pid"
data_path = "{at}/data"
log = {{ info = "{at}/prosody.log" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
{direct}
http_ports = {{ }}
https_ports = {{ }}
limits = {{ c2s = {{ rate = "10kb/s" }} }}
proxy65_ports = {{ {proxy} }}
modules_enabled = {{ {modules} }}
{alone}
{s2s}
authentication = "internal_hashed"
{scram}
c2s_require_encryption = {tls}
allow_unencrypted_plain_auth = true
allow_registration = {registration}
{ssl}
{extra}
VirtualHost "{host}"
"#
        );
        if options.proxy {
            config += &format!("Component \"proxy.{host}\" \"proxy65\"\n  proxy65_address = \"127.0.0.1\"\n");
        }
        fs::create_dir(dir.path().join("data")).expect("a directory");
        fs::write(dir.path().join("prosody.cfg.lua"), config).expect("the configuration");
        let mut this = Self { dir, child: None, host: options.host, ca, port, direct_tls };
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
            .args(["register", user, &self.host, password]));
    }

    /// `xmpps://host:port`.
    pub fn direct_tls(&self) -> String {
        format!("xmpps://127.0.0.1:{}", self.direct_tls)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        ["prosody.log", "output.log"].map(|f| fs::read_to_string(self.dir.path().join(f)).unwrap_or_default()).concat()
    }
}

impl Broker for Prosody {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
    fn ca(&self) -> PathBuf {
        self.ca.clone()
    }
    fn host(&self) -> &str {
        &self.host
    }
}

impl Remote {
    /// Name and port of the other one are told by the broker's own resolver: nothing asks the machine's.
    fn config(&self, dir: &Path) -> String {
        let hosts = dir.join("hosts");
        let Self { port, host, host_port, .. } = self;
        fs::write(&hosts, format!("127.0.0.1 {host}\n")).expect("the hosts");
        format!(
            r#"s2s_ports = {{ {port} }}
s2s_require_encryption = true
s2s_secure_auth = true
unbound = {{
  hoststxt = "{}"; resolvconf = false;
  options = {{ ["local-data:"] = "_xmpp-server._tcp.{host}. IN SRV 0 0 {host_port} {host}." }};
}}"#,
            hosts.display()
        )
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        self.kill();
    }
}

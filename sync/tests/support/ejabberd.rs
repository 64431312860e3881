//! A private ejabberd for tests: free loopback ports, its own certificate, ended when dropped. Accounts are made by
//! registration (XEP-0077), which it allows.
#![allow(dead_code)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::prosody::{Broker, HOST, certificate, free_ports};

pub struct Ejabberd {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Ejabberd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display().to_string();
        let [port, proxy] = free_ports();
        certificate(dir.path(), HOST, "cert", false);
        let both = ["cert.pem", "cert.key"].map(|f| fs::read(dir.path().join(f)).expect("the certificate"));
        fs::write(dir.path().join("both.pem"), both.concat()).expect("the certificate");
        // Limits as in Debian's configuration: the shaper's 3000 bytes a second with a burst of 20000.
        let config = format!(
            r#"hosts: ["{HOST}"]
loglevel: info
certfiles: ["{at}/both.pem"]
auth_password_format: scram
registration_timeout: infinity
s2s_access: none
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    max_stanza_size: 262144
    shaper: c2s_shaper
    starttls_required: true
access_rules:
  everyone: {{ allow: all }}
shaper:
  normal: {{ rate: 3000, burst_size: 20000 }}
shaper_rules:
  c2s_shaper: normal
modules:
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_fail2ban: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_proxy65: {{ host: "proxy.{HOST}", ip: "127.0.0.1", port: {proxy}, access: everyone, max_connections: 50 }}
  mod_pubsub: {{ plugins: [flat, pep] }}
  mod_register: {{ ip_access: everyone, access: everyone }}
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
"#
        );
        fs::write(dir.path().join("ejabberd.yml"), config).expect("the configuration");
        let child = Self::child(dir.path());
        let mut this = Self { dir, child, port };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = this.child.try_wait().expect("its state").is_some();
            assert!(!ended && Instant::now() < until, "ejabberd does not listen: {}", this.log());
            sleep(Duration::from_millis(50));
        }
        this
    }

    /// Erlang without distribution: no node name, no epmd, no cookie, and nothing of `/etc/ejabberd` is read.
    fn child(dir: &Path) -> Child {
        let output = fs::File::create(dir.join("output.log")).expect("a log");
        let mut command = Command::new("setpriv");
        // Should the tests be killed, so is the broker.
        command.args(["--pdeathsig", "KILL", "erl", "-noinput", "-mnesia", "dir"]);
        command.arg(format!("{:?}", dir.join("spool").display().to_string())).args(["-s", "ejabberd"]);
        command.current_dir(dir).env("HOME", dir).env("ERL_LIBS", libraries()).env("ERL_CRASH_DUMP_BYTES", "0");
        command
            .env("EJABBERD_CONFIG_PATH", dir.join("ejabberd.yml"))
            .env("EJABBERD_LOG_PATH", dir.join("ejabberd.log"));
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a log")).stderr(output);
        command.spawn().expect("setpriv")
    }

    pub fn log(&self) -> String {
        ["ejabberd.log", "output.log"].map(|f| fs::read_to_string(self.dir.path().join(f)).unwrap_or_default()).concat()
    }
}

impl Broker for Ejabberd {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
    fn ca(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }
    fn host(&self) -> &str {
        HOST
    }
}

/// The folder of Debian's Erlang libraries; its name has the machine's architecture.
fn libraries() -> PathBuf {
    let is_ejabberd = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with("ejabberd-");
    let has = |dir: &PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().any(|e| is_ejabberd(&e));
    let all = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path());
    all.into_iter().find(has).expect("Debian's package ejabberd is missing: apt-get install ejabberd")
}

impl Drop for Ejabberd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

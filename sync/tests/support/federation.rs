//! Two Prosodys for tests, a.test and b.test, that speak with each other: TLS with certificates of a CA of their own,
//! verified both ways, on free loopback ports.
#![allow(dead_code)]

use std::process::Command;

use super::prosody::{Options, Prosody, Remote, certificate, free_ports, run};

pub struct Federation {
    pub a: Prosody,
    pub b: Prosody,
    _pki: tempfile::TempDir,
}

impl Federation {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Both brokers with the same options, but for host and remote.
    pub fn with(options: Options) -> Self {
        let pki = tempfile::tempdir().expect("a directory");
        let at = |file: &str| pki.path().join(file).display().to_string();
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=a CA for tests", "-addext", "basicConstraints=critical,CA:TRUE"])
            .args(["-keyout", &at("ca.key"), "-out", &at("ca.pem")]));
        let hosts = ["a.test", "b.test"];
        for host in hosts {
            certificate(pki.path(), host, host, true);
        }
        let ports: [u16; 2] = free_ports();
        let [a, b] = [0, 1].map(|me: usize| {
            let (host, other) = (hosts[me].to_owned(), hosts[1 - me].to_owned());
            let remote = Remote { port: ports[me], host: other, host_port: ports[1 - me], pki: pki.path().to_owned() };
            Prosody::with(Options { host, remote: Some(remote), ..options.clone() })
        });
        Self { a, b, _pki: pki }
    }
}

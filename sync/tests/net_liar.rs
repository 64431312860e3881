//! ATTACKS.md N10 by a lying broker, or by somebody in between who has its certificate: what it offers and how it answers
//! is this test's own.

mod support;

use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::prosody::{HOST, certificate};
use sync::net::{BrokerConfig, ConnectError, check_login};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// How it lies.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// Offers no TLS.
    NoTls,
    /// Offers TLS and then refuses it.
    RefusesTls,
    /// Offers PLAIN alone, inside TLS.
    PlainOnly,
    /// Wants one iteration only: cheap to guess the password with.
    OneIteration,
    /// Does not know the password, and says that all is well.
    WrongSignature,
    NoSignature,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Reads until `wanted` was said and its element's tag ended, or the end; everything that came.
async fn hear(stream: &mut dyn Stream, wanted: &str) -> String {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    let done = |all: &[u8]| {
        String::from_utf8_lossy(all)
            .split_once(wanted)
            .is_some_and(|(_, rest)| wanted.ends_with('>') || rest.contains('>'))
    };
    while !done(&all) {
        match stream.read(&mut some).await {
            Ok(n) if n > 0 => all.extend_from_slice(&some[..n]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

async fn say(stream: &mut dyn Stream, text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.flush().await;
}

async fn features(stream: &mut dyn Stream, features: &str) -> String {
    let heard = hear(stream, "<stream:stream").await;
    let open =
        "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";
    say(stream, &format!("{open} id='1' from='{HOST}' version='1.0'><stream:features>{features}</stream:features>"))
        .await;
    heard
}

const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
const TLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>";

fn mechanisms(name: &str) -> String {
    format!("<mechanisms {SASL}><mechanism>{name}</mechanism></mechanisms>")
}

/// One client; everything that it said.
async fn serve(listener: TcpListener, dir: &Path, lie: Lie) -> String {
    let (mut tcp, _) = listener.accept().await.unwrap();
    if lie == Lie::NoTls {
        return features(&mut tcp, &mechanisms("PLAIN")).await + &hear(&mut tcp, "</stream:stream>").await;
    }
    let mut said = features(&mut tcp, TLS).await + &hear(&mut tcp, "<starttls").await;
    if lie == Lie::RefusesTls {
        say(&mut tcp, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        return said + &hear(&mut tcp, "</stream:stream>").await;
    }
    say(&mut tcp, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    let chain = vec![CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join("cert.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let mut tls = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await.unwrap();
    let offered = if lie == Lie::PlainOnly { "PLAIN" } else { "SCRAM-SHA-1" };
    said += &features(&mut tls, &mechanisms(offered)).await;
    let auth = hear(&mut tls, "</auth>").await;
    said += &auth;
    let Some(first) = auth.split_once("</auth>").and_then(|(a, _)| a.rsplit_once('>')) else { return said };
    let first = String::from_utf8(BASE64.decode(first.1.as_bytes()).unwrap()).unwrap();
    // The broker offered no binding: the client says that it could, so that an honest one would notice.
    assert!(first.starts_with("y,,n=alice,r="), "{first}");
    let nonce = first.rsplit_once("r=").unwrap().1;
    let iterations = if lie == Lie::OneIteration { 1 } else { 4096 };
    let challenge = BASE64.encode(format!("r={nonce}more,s=c2FsdHNhbHQ=,i={iterations}").as_bytes());
    say(&mut tls, &format!("<challenge {SASL}>{challenge}</challenge>")).await;
    let response = hear(&mut tls, "</response>").await;
    said += &response;
    if response.contains("</response>") {
        let wrong = BASE64.encode(format!("v={}", BASE64.encode(&[7; 20])).as_bytes());
        let proof = if lie == Lie::WrongSignature { wrong.as_str() } else { "" };
        say(&mut tls, &format!("<success {SASL}>{proof}</success>")).await;
        said += &hear(&mut tls, "<iq").await;
    }
    said
}

async fn meet(lie: Lie) -> (ConnectError, String) {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), HOST, "cert", false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = BrokerConfig {
        jid: format!("alice@{HOST}"),
        password: "a password".to_owned().into(),
        server: Some(listener.local_addr().unwrap().to_string()),
        ca: Some(dir.path().join("cert.pem")),
        plaintext: false,
    };
    let at = dir.path().to_owned();
    let server = tokio::spawn(async move { serve(listener, &at, lie).await });
    let error = check_login(&config).await.expect_err("it was believed");
    (error, server.await.unwrap())
}

#[tokio::test]
async fn n10_tls_taken_out_of_the_offer_or_refused_gets_no_login() {
    for lie in [Lie::NoTls, Lie::RefusesTls] {
        let (error, said) = meet(lie).await;
        assert!(!said.contains("<auth"), "{said}");
        assert!(matches!(error, ConnectError::NoTls | ConnectError::Stream(_) | ConnectError::Tls(_)), "{error}");
    }
}

#[tokio::test]
async fn n10_a_broker_that_offers_plain_only_is_not_told_the_password() {
    let (error, said) = meet(Lie::PlainOnly).await;
    assert!(matches!(error, ConnectError::NoScram), "{error}");
    assert!(!said.contains("<auth"), "{said}");
}

#[tokio::test]
async fn n10_a_broker_that_makes_the_password_cheap_to_guess_gets_no_proof() {
    let (error, said) = meet(Lie::OneIteration).await;
    assert!(!said.contains("<response"), "{error}: {said}");
}

#[tokio::test]
async fn n10_a_broker_that_does_not_know_the_password_is_not_believed() {
    for lie in [Lie::WrongSignature, Lie::NoSignature] {
        let (error, said) = meet(lie).await;
        assert!(matches!(error, ConnectError::FalseBroker), "{error}");
        assert!(said.contains("<response") && !said.contains("<iq"), "{said}");
    }
}

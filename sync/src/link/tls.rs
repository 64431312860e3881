//! TLS 1.3 by raw public keys (RFC 7250), both sides pinned: the device list is the only authority.
//!
//! X25519MLKEM768 only, no session tickets, no resumption, no early data: a removed device has nothing to resume.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use keymgr::device::DeviceKeys;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use tokio::time::timeout;

use super::{BoxedDuplex, LinkError};

/// Spoken inside TLS; a change of the wire is a change of this name.
const ALPN: &[u8] = b"kith/1";
const HANDSHAKE: Duration = Duration::from_secs(30);
/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4): this and the 32 bytes.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// This device's side of every link.
#[derive(Clone)]
pub struct Identity {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
}

impl Identity {
    pub fn new(keys: &DeviceKeys) -> Result<Self, LinkError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256],
            kx_groups: vec![kx_group::X25519MLKEM768],
            ..rustls::crypto::aws_lc_rs::default_provider()
        });
        let secret = keys.tls_pkcs8();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.as_slice()));
        let key = rustls::crypto::aws_lc_rs::sign::any_eddsa_type(match &der {
            PrivateKeyDer::Pkcs8(der) => der,
            _ => return Err(LinkError::Key("not PKCS#8".into())),
        })
        .map_err(|e| LinkError::Key(e.to_string()))?;
        let public = key.public_key().ok_or_else(|| LinkError::Key("no public half".into()))?.to_vec();
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
        Ok(Self { provider, key })
    }

    fn client(&self, peer: &[u8; 32]) -> Result<ClientConfig, LinkError> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| LinkError::Key(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(peer, &self.provider)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        Ok(config)
    }

    /// As the client of a link, to the device that holds `peer`.
    pub async fn connect(&self, io: BoxedDuplex, peer: &[u8; 32]) -> Result<BoxedDuplex, LinkError> {
        let config = self.client(peer)?;
        // Never sent, never looked at: the key alone is checked.
        let name = ServerName::try_from("kith.invalid").map_err(|e| LinkError::Key(e.to_string()))?;
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io);
        let tls = in_time(connecting).await?;
        spoken(tls.get_ref().1.alpn_protocol())?;
        Ok(Box::new(tls))
    }

    /// As the server of a link, for the device that holds `peer` and no other.
    pub async fn accept(&self, io: BoxedDuplex, peer: &[u8; 32]) -> Result<BoxedDuplex, LinkError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| LinkError::Key(e.to_string()))?
            .with_client_cert_verifier(Arc::new(Pinned::new(peer, &self.provider)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let tls = in_time(tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(io)).await?;
        spoken(tls.get_ref().1.alpn_protocol())?;
        Ok(Box::new(tls))
    }
}

async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, LinkError> {
    timeout(HANDSHAKE, handshake).await.map_err(|_| LinkError::Slow)?.map_err(LinkError::Tls)
}

fn spoken(alpn: Option<&[u8]>) -> Result<(), LinkError> {
    if alpn == Some(ALPN) { Ok(()) } else { Err(LinkError::Tls(io::Error::other("the peer speaks no kith/1"))) }
}

/// Accepts one key.
#[derive(Debug)]
struct Pinned {
    spki: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(key: &[u8; 32], provider: &CryptoProvider) -> Self {
        Self { spki: [&SPKI[..], key].concat(), algorithms: provider.signature_verification_algorithms }
    }

    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        // Public values: no need for constant time.
        if shown.as_ref() == self.spki { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn signed(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// What the verifiers of both sides have in common: TLS 1.3, Ed25519, raw keys.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(PeerIncompatible::Tls12NotOffered.into())
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.signed(message, cert, dss)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end).map(|()| ServerCertVerified::assertion())
    }
    signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end).map(|()| ClientCertVerified::assertion())
    }
    signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn meet(
        client: (&DeviceKeys, [u8; 32]),
        server: (&DeviceKeys, [u8; 32]),
    ) -> (Result<BoxedDuplex, LinkError>, Result<BoxedDuplex, LinkError>) {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (left, right) = (Identity::new(client.0).unwrap(), Identity::new(server.0).unwrap());
        tokio::join!(async { left.connect(Box::new(a), &client.1).await }, async {
            right.accept(Box::new(b), &server.1).await
        })
    }

    #[tokio::test]
    async fn two_that_pin_each_other_meet() {
        let (a, b) = (DeviceKeys::generate(), DeviceKeys::generate());
        let (left, right) = meet((&a, b.public().tls), (&b, a.public().tls)).await;
        let (mut left, mut right) = (left.unwrap(), right.unwrap());
        left.write_all(b"ping").await.unwrap();
        left.flush().await.unwrap();
        let mut got = [0; 4];
        right.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
    }

    /// ATTACKS.md N11.
    #[tokio::test]
    async fn n11_a_key_that_is_not_pinned_is_refused_by_either_side() {
        let (a, b, other) = (DeviceKeys::generate(), DeviceKeys::generate(), DeviceKeys::generate());
        let (left, _) = meet((&a, other.public().tls), (&b, a.public().tls)).await;
        assert!(matches!(left, Err(LinkError::Tls(_))), "the client takes a server that it did not pin");

        let (left, right) = meet((&other, b.public().tls), (&b, a.public().tls)).await;
        assert!(matches!(right, Err(LinkError::Tls(_))), "the server takes a client that it did not pin");
        // TLS 1.3 tells the client only afterwards: nothing may be believed before the first bytes are read.
        if let Ok(mut left) = left {
            assert!(left.read_u8().await.is_err());
        }
    }

    /// ATTACKS.md N11: a peer that would resume or send early gets no ticket to do it with.
    #[tokio::test]
    async fn n11_no_ticket_is_given_and_nothing_is_taken_before_the_handshake_ends() {
        let (a, b) = (DeviceKeys::generate(), DeviceKeys::generate());
        let (left, right) = (Identity::new(&a).unwrap(), Identity::new(&b).unwrap());
        let mut config = left.client(&b.public().tls).unwrap();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        config.enable_early_data = true;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        for _ in 0..3 {
            let (near, far) = tokio::io::duplex(1 << 16);
            let name = ServerName::try_from("kith.invalid").unwrap();
            let key = a.public().tls;
            let (near, far) = tokio::join!(connector.connect(name, near), right.accept(Box::new(far), &key));
            let (mut near, mut far) = (near.unwrap(), far.unwrap());
            far.write_all(b"x").await.unwrap();
            far.flush().await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'x');
            let session = near.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(session.tls13_tickets_received(), 0);
            assert!(!session.is_early_data_accepted());
        }
    }
}

//! The way to the broker: TCP, STARTTLS or direct TLS, SCRAM, resource binding. Every failure is told at once.
//!
//! tokio-xmpp's own connectors are not used: they fall back to PLAIN, know no private CA and hide their errors.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sasl::common::ChannelBinding;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_xmpp::connect::DnsConfig;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::parsers::bind::{BindQuery, BindResponse};
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::ns::JABBER_CLIENT;
use tokio_xmpp::parsers::sasl_cb;
use tokio_xmpp::parsers::stanza::Stanza;
use tokio_xmpp::parsers::starttls;
use tokio_xmpp::parsers::stream_error::{DefinedCondition, ReceivedStreamError};
use tokio_xmpp::parsers::stream_features::StreamFeatures;
use tokio_xmpp::xmlstream::{
    FallibleStreamElement, PendingFeaturesRecv, ReadError, StreamHeader, Timeouts, XmppStream, XmppStreamElement,
    initiate_stream,
};
use zeroize::Zeroizing;

use super::meter::Metered;
use super::scram;
use crate::link::{BoxedDuplex, Duplex};

/// From the first packet to the bound resource.
const LOGIN: Duration = Duration::from_secs(30);
/// Silence after which the broker is asked, and after which it counts as gone.
const TIMEOUTS: Timeouts =
    Timeouts { read_timeout: Duration::from_secs(60), response_timeout: Duration::from_secs(20) };

/// The broker account of this device. No Debug: it holds a password.
#[derive(Clone)]
pub struct BrokerConfig {
    /// Bare, or full where a resource is wanted.
    pub jid: String,
    pub password: Zeroizing<String>,
    /// `host:port` (STARTTLS) or `xmpps://host:port` (direct TLS); None: DNS says.
    pub server: Option<String>,
    /// A certificate authority of one's own (PEM) instead of the machine's.
    pub ca: Option<PathBuf>,
    /// Without TLS, and then to a loopback address only.
    pub plaintext: bool,
}

impl From<&keymgr::keyring::Login> for BrokerConfig {
    fn from(login: &keymgr::keyring::Login) -> Self {
        Self {
            jid: login.jid.clone(),
            password: login.password.clone(),
            server: login.server.clone(),
            ca: login.ca.clone(),
            plaintext: login.plaintext,
        }
    }
}

/// Why there is no session with the broker.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0:?} is not a JID with a user name")]
    BadJid(String),
    #[error("{0:?} is not host:port")]
    BadServer(String),
    #[error("no such host: {0}")]
    NoSuchHost(String),
    #[error("{0} refuses connections")]
    Refused(String),
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, io::Error),
    #[error("{0} cannot be used as a certificate authority: {1}")]
    Ca(PathBuf, String),
    #[error("the broker's certificate is not valid for {0}: {1}")]
    Certificate(String, String),
    #[error("TLS with the broker failed: {0}")]
    Tls(String),
    #[error("the broker offers no TLS")]
    NoTls,
    #[error("plaintext is for a broker on this machine only, and {0} is not on it")]
    NotLoopback(SocketAddr),
    #[error("wrong user name or password")]
    WrongPassword,
    #[error("the broker refuses the account: {0}")]
    AccountRefused(String),
    #[error("the broker offers no SCRAM, and the password is given to nobody in the clear")]
    NoScram,
    #[error("the broker does not know the password that it asks for")]
    FalseBroker,
    #[error("the broker did not answer in time")]
    Slow,
    #[error("the broker allows no registration here: {0}")]
    NoRegistration(String),
    #[error("the broker ended the stream: {0}")]
    Ended(String),
    #[error("another program took the place of this device's session")]
    Replaced,
    #[error("the broker's stream: {0}")]
    Stream(#[from] io::Error),
}

impl ConnectError {
    pub(super) fn ended(error: &ReceivedStreamError) -> Self {
        match error.0.condition {
            DefinedCondition::Conflict => Self::Replaced,
            _ => Self::Ended(error.to_string()),
        }
    }

    /// Whether trying again with the same settings can never help, or would lock the account.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::BadJid(_)
                | Self::BadServer(_)
                | Self::Ca(..)
                | Self::NotLoopback(_)
                | Self::WrongPassword
                | Self::AccountRefused(_)
                | Self::FalseBroker
        )
    }
}

pub(super) type Io = BufReader<Metered>;

/// A session with a bound resource.
pub(super) struct Session {
    pub stream: XmppStream<Io>,
    pub jid: Jid,
    /// The address by which this machine reaches the broker: what others may reach it by.
    pub local: SocketAddr,
}

/// What `config` says, checked without any traffic.
pub(super) struct Checked {
    pub jid: Jid,
    user: String,
    tls: Option<Arc<ClientConfig>>,
    way: Way,
}

enum Way {
    Srv,
    StartTls(String, u16),
    Direct(String, u16),
}

impl Checked {
    pub fn new(config: &BrokerConfig) -> Result<Self, ConnectError> {
        let bad = || ConnectError::BadJid(config.jid.clone());
        let jid = Jid::new(&config.jid).map_err(|_| bad())?;
        let user = jid.node().ok_or_else(bad)?.as_str().to_owned();
        let way = match &config.server {
            None => Way::Srv,
            Some(text) => {
                let (direct, rest) = match text.strip_prefix("xmpps://") {
                    Some(rest) => (true, rest),
                    None => (false, text.as_str()),
                };
                let bad = || ConnectError::BadServer(text.clone());
                let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let port = port.parse().map_err(|_| bad())?;
                if host.is_empty() {
                    return Err(bad());
                }
                if direct { Way::Direct(host, port) } else { Way::StartTls(host, port) }
            }
        };
        let tls = if config.plaintext { None } else { Some(tls_config(config)?) };
        Ok(Self { jid, user, tls, way })
    }

    fn domain(&self) -> &str {
        self.jid.domain().as_str()
    }
}

/// The broker's certificate is checked against the given CA, or the machine's.
fn tls_config(config: &BrokerConfig) -> Result<Arc<ClientConfig>, ConnectError> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(path) => {
            let bad = |e: String| ConnectError::Ca(path.clone(), e);
            let certs = rustls::pki_types::CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
            for cert in certs {
                roots.add(cert.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("it holds no certificate".into()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ConnectError::Tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(tls))
}

/// A bound session, or the reason why there is none.
pub(super) async fn login(config: &BrokerConfig, resource: &str) -> Result<Session, ConnectError> {
    let checked = Checked::new(config)?;
    let work = async {
        let (features, stream, binding, local) = open(&checked).await?;
        let stream = scram::authenticate(stream, &features, binding, &checked.user, &config.password).await?;
        let stream = stream.send_header(header(checked.domain())).await?;
        let (_, stream) = recv_features(stream).await?;
        let resource = checked.jid.resource().map_or(resource, |r| r.as_str());
        bind(stream, resource).await.map(|(stream, jid)| Session { stream, jid, local })
    };
    tokio::time::timeout(LOGIN, work).await.map_err(|_| ConnectError::Slow)?
}

/// An encrypted stream (or, where asked for, one on loopback), before authentication.
pub(super) async fn open(
    checked: &Checked,
) -> Result<(StreamFeatures, XmppStream<Io>, ChannelBinding, SocketAddr), ConnectError> {
    let domain = checked.domain();
    let (tcp, direct) = reach(checked).await?;
    // Stanzas are small and each is waited for.
    tcp.set_nodelay(true)?;
    let (local, remote) = (tcp.local_addr()?, tcp.peer_addr()?);
    let Some(tls) = &checked.tls else {
        if !remote.ip().to_canonical().is_loopback() {
            return Err(ConnectError::NotLoopback(remote));
        }
        let (features, stream) = start(Box::new(tcp), domain).await?;
        return Ok((features, stream, ChannelBinding::None, local));
    };
    let tcp = if direct { tcp } else { starttls(tcp, domain).await? };
    let name = ServerName::try_from(domain.to_owned()).map_err(|e| ConnectError::Tls(e.to_string()))?;
    let stream =
        tokio_rustls::TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|e| tls_error(domain, e))?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).ok();
    let tls13 = stream.get_ref().1.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let (features, stream) = start(Box::new(stream), domain).await?;
    let binding = match exporter {
        Some(key) if tls13 => choose_binding(&features, key),
        _ => ChannelBinding::None,
    };
    Ok((features, stream, binding, local))
}

/// RFC 5802, section 6, with RFC 9266: bound where the broker can; `y` where it offers no binding at all, so that
/// a broker whose offer was taken out on the way refuses.
fn choose_binding(features: &StreamFeatures, exporter: [u8; 32]) -> ChannelBinding {
    let plus = features.sasl_mechanisms.iter().any(|m| m.starts_with("SCRAM-") && m.ends_with("-PLUS"));
    let can = features.sasl_cb.as_ref().is_some_and(|cb| cb.types.contains(&sasl_cb::Type::TlsExporter));
    match (plus, can) {
        (true, true) => ChannelBinding::TlsExporter(exporter.to_vec()),
        // It binds by something that TLS 1.3 does not have.
        (true, false) => ChannelBinding::None,
        (false, _) => ChannelBinding::Unsupported,
    }
}

async fn reach(checked: &Checked) -> Result<(TcpStream, bool), ConnectError> {
    let direct = |host: &str, port: u16| (host.to_owned(), port);
    let ((host, port), tls_first) = match &checked.way {
        Way::StartTls(host, port) => (direct(host, *port), false),
        Way::Direct(host, port) => (direct(host, *port), true),
        Way::Srv => {
            let domain = checked.domain();
            let first = match DnsConfig::srv_default_client(domain).resolve().await {
                Ok(tcp) => return Ok((tcp, false)),
                Err(e) => e,
            };
            if checked.tls.is_some()
                && let Ok(tcp) = DnsConfig::srv_xmpps(domain).resolve().await
            {
                return Ok((tcp, true));
            }
            return Err(match first {
                tokio_xmpp::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    ConnectError::Refused(domain.to_owned())
                }
                tokio_xmpp::Error::Io(e) => ConnectError::Unreachable(domain.to_owned(), e),
                _ => ConnectError::NoSuchHost(domain.to_owned()),
            });
        }
    };
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses: Vec<SocketAddr> = match tokio::net::lookup_host(&shown).await {
        Ok(found) => found.collect(),
        Err(_) => return Err(ConnectError::NoSuchHost(host)),
    };
    if checked.tls.is_none()
        && let Some(far) = addresses.iter().find(|a| !a.ip().to_canonical().is_loopback())
    {
        return Err(ConnectError::NotLoopback(*far));
    }
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok((tcp, tls_first)),
            Err(e) => last = Some(e),
        }
    }
    Err(match last {
        None => ConnectError::NoSuchHost(host),
        Some(e) if e.kind() == io::ErrorKind::ConnectionRefused => ConnectError::Refused(shown),
        Some(e) => ConnectError::Unreachable(shown, e),
    })
}

fn header(domain: &str) -> StreamHeader<'_> {
    StreamHeader { to: Some(domain.into()), from: None, id: None }
}

async fn start(io: BoxedDuplex, domain: &str) -> Result<(StreamFeatures, XmppStream<Io>), ConnectError> {
    let io = BufReader::new(Metered::new(io));
    let pending = initiate_stream(io, JABBER_CLIENT, header(domain), TIMEOUTS).await?;
    recv_features(pending).await
}

async fn recv_features(pending: PendingFeaturesRecv<Io>) -> Result<(StreamFeatures, XmppStream<Io>), ConnectError> {
    use tokio_xmpp::xmlstream::RecvFeaturesError as E;
    match pending.recv_features::<FallibleStreamElement>().await {
        Ok(both) => Ok(both),
        Err(E::Io(e)) => Err(e.into()),
        Err(E::StreamError(e)) => Err(ConnectError::ended(&e)),
    }
}

async fn starttls(tcp: TcpStream, domain: &str) -> Result<TcpStream, ConnectError> {
    let io = BufReader::new(tcp);
    let pending = initiate_stream(io, JABBER_CLIENT, header(domain), TIMEOUTS).await?;
    let (features, mut stream) = match pending.recv_features::<FallibleStreamElement>().await {
        Ok(both) => both,
        Err(e) => return Err(ConnectError::Ended(e.to_string())),
    };
    if !features.can_starttls() {
        return Err(ConnectError::NoTls);
    }
    let request = starttls::Nonza::Request(starttls::Request);
    stream.send(&XmppStreamElement::Starttls(request)).await?;
    loop {
        match next(&mut stream).await? {
            XmppStreamElement::Starttls(starttls::Nonza::Proceed(_)) => break,
            XmppStreamElement::Starttls(_) => return Err(ConnectError::NoTls),
            _ => {}
        }
    }
    let io = stream.into_inner();
    if !io.buffer().is_empty() {
        // Somebody put clear text where TLS has to begin.
        return Err(ConnectError::NoTls);
    }
    Ok(io.into_inner())
}

/// The next element during negotiation.
pub(super) async fn next<S>(stream: &mut XmppStream<S>) -> Result<XmppStreamElement, ConnectError>
where
    S: tokio::io::AsyncBufRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match stream.next().await {
            Some(Ok(FallibleStreamElement::Ok(XmppStreamElement::StreamError(e)))) => {
                return Err(ConnectError::ended(&e));
            }
            Some(Ok(FallibleStreamElement::Ok(element))) => return Ok(element),
            Some(Ok(FallibleStreamElement::Err(e))) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string()).into());
            }
            Some(Err(ReadError::SoftTimeout)) => {}
            Some(Err(ReadError::HardError(e))) => return Err(e.into()),
            Some(Err(e)) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string()).into()),
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

async fn bind(mut stream: XmppStream<Io>, resource: &str) -> Result<(XmppStream<Io>, Jid), ConnectError> {
    let iq = Iq::from_set("bind", BindQuery::new(Some(resource.to_owned())));
    stream.send(&XmppStreamElement::Stanza(Stanza::Iq(iq))).await?;
    loop {
        match next(&mut stream).await? {
            XmppStreamElement::Stanza(Stanza::Iq(Iq::Result { id, payload: Some(payload), .. })) if id == "bind" => {
                let bound = BindResponse::try_from(payload)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                return Ok((stream, bound.into()));
            }
            XmppStreamElement::Stanza(Stanza::Iq(Iq::Error { id, error, .. })) if id == "bind" => {
                return Err(ConnectError::AccountRefused(format!("{:?}", error.defined_condition)));
            }
            _ => {}
        }
    }
}

fn tls_error(domain: &str, e: io::Error) -> ConnectError {
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            ConnectError::Certificate(domain.to_owned(), format!("{why:?}"))
        }
        _ => ConnectError::Tls(e.to_string()),
    }
}

const _: fn() = || {
    fn is_duplex<T: Duplex>() {}
    is_duplex::<tokio_rustls::client::TlsStream<TcpStream>>();
};

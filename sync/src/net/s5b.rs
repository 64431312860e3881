//! SOCKS5 byte streams (XEP-0065, XEP-0260): this device's listener, the way to a candidate, the addresses to offer.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::sha1::{Digest, Sha1};

use super::jingle::JINGLE_S5B;
use super::xml::{self, Build};

/// From the first byte to the end of the SOCKS5 exchange.
const HANDSHAKE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(4);
/// Between the starts of two attempts, so that a better candidate wins where both work.
const STAGGER: Duration = Duration::from_millis(120);
/// How much later proxies are tried than direct candidates.
const PROXY_LATER: Duration = Duration::from_millis(400);
/// Connections that have not said yet what they want.
const MAX_UNKNOWN: usize = 64;
const TOKEN: usize = 40;
/// XEP-0260, section 2.3: type preference in the upper bits.
const DIRECT: u32 = 126 << 16;
const PROXY: u32 = 10 << 16;
const MAX_ADDRESSES: usize = 8;

/// One way to reach who offers it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    pub cid: String,
    pub host: String,
    pub port: u16,
    pub jid: Jid,
    pub priority: u32,
    pub proxy: bool,
}

impl Candidate {
    pub fn direct(address: SocketAddr, me: &Jid, rank: u32) -> Self {
        Self {
            cid: xml::random_id(),
            host: address.ip().to_string(),
            port: address.port(),
            jid: me.clone(),
            priority: DIRECT + 0xff - rank.min(0xff),
            proxy: false,
        }
    }

    pub fn through(proxy: &StreamHost, rank: u32) -> Self {
        Self {
            cid: xml::random_id(),
            host: proxy.host.clone(),
            port: proxy.port,
            jid: proxy.jid.clone(),
            priority: PROXY + 0xff - rank.min(0xff),
            proxy: true,
        }
    }

    pub fn read(e: &Element) -> Option<Self> {
        let short = |name: &str| e.attr(name).filter(|v| !v.is_empty() && v.len() <= 255).map(str::to_owned);
        Some(Self {
            cid: short("cid")?,
            host: short("host")?,
            port: e.attr("port")?.parse().ok().filter(|port| *port != 0)?,
            jid: Jid::new(e.attr("jid")?).ok()?,
            priority: e.attr("priority")?.parse().ok()?,
            proxy: match e.attr("type") {
                None | Some("direct" | "assisted" | "tunnel") => false,
                Some("proxy") => true,
                Some(_) => return None,
            },
        })
    }

    pub fn write(&self) -> Element {
        xml::element("candidate", JINGLE_S5B)
            .with("cid", &self.cid)
            .with("host", &self.host)
            .with("port", self.port.to_string())
            .with("jid", self.jid.as_str())
            .with("priority", self.priority.to_string())
            .with("type", if self.proxy { "proxy" } else { "direct" })
    }

    /// Whether it may be dialled. Loopback only by a device whose own broker is on loopback: else a peer could make
    /// it knock at services of its own machine.
    fn allowed(&self, loopback: bool) -> bool {
        match self.host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_loopback() => loopback,
            Ok(IpAddr::V4(ip)) => {
                !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local())
            }
            Ok(IpAddr::V6(ip)) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()),
            // Names only for proxies.
            Err(_) => self.proxy,
        }
    }
}

/// A broker's proxy (XEP-0065).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StreamHost {
    pub jid: Jid,
    pub host: String,
    pub port: u16,
}

/// XEP-0065, section 5.3.2: what the SOCKS5 request names instead of an address. Who offers a candidate comes first.
pub(super) fn token(sid: &str, offers: &Jid, other: &Jid) -> String {
    let mut hash = Sha1::new();
    hash.update(sid.as_bytes());
    hash.update(offers.as_str().as_bytes());
    hash.update(other.as_str().as_bytes());
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

/// The addresses that peers may reach this machine by; the one that reaches the broker first.
pub(super) fn addresses(broker_side: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![broker_side.to_canonical()];
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        let usable = match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
        };
        if usable && !all.contains(&ip) {
            all.push(ip);
        }
    }
    all.truncate(MAX_ADDRESSES);
    all
}

type Waiting = Arc<Mutex<HashMap<String, mpsc::Sender<TcpStream>>>>;

/// Takes connections of peers that name a token; everybody else is dropped.
pub(super) struct Listener {
    pub port: u16,
    waiting: Waiting,
    task: AbortHandle,
}

impl Listener {
    pub async fn bind() -> io::Result<Self> {
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        };
        let port = listener.local_addr()?.port();
        let waiting = Waiting::default();
        let task = tokio::spawn(listen(listener, waiting.clone())).abort_handle();
        Ok(Self { port, waiting, task })
    }

    pub fn expect(&self, token: String) -> Expected {
        let (tx, rx) = mpsc::channel(8);
        self.waiting.lock().insert(token.clone(), tx);
        Expected { token, waiting: self.waiting.clone(), rx }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that is expected; no longer when dropped.
pub(super) struct Expected {
    token: String,
    waiting: Waiting,
    rx: mpsc::Receiver<TcpStream>,
}

impl Expected {
    /// The newest that came: an older one is of an attempt that the peer gave up.
    pub fn take(&mut self) -> Option<TcpStream> {
        let mut last = None;
        while let Ok(stream) = self.rx.try_recv() {
            last = Some(stream);
        }
        last
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
    }
}

async fn listen(listener: TcpListener, waiting: Waiting) {
    // Where too many say nothing, the oldest goes: silence keeps nobody out.
    let mut unknown: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, or the like: not in a busy loop.
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        unknown.retain(|task| !task.is_finished());
        if unknown.len() >= MAX_UNKNOWN
            && let Some(oldest) = unknown.pop_front()
        {
            oldest.abort();
        }
        let waiting = waiting.clone();
        let task = tokio::spawn(async move {
            if let Ok(Ok((token, stream))) = timeout(HANDSHAKE, answer(stream, &waiting)).await
                && let Some(tx) = waiting.lock().get(&token)
            {
                let _ = tx.try_send(stream);
            }
        });
        unknown.push_back(task.abort_handle());
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, format!("SOCKS5: {why}"))
}

async fn answer(mut stream: TcpStream, waiting: &Waiting) -> io::Result<(String, TcpStream)> {
    stream.set_nodelay(true)?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let [5, methods] = head else { return Err(refused("not version 5")) };
    let mut offered = vec![0; usize::from(methods)];
    stream.read_exact(&mut offered).await?;
    if !offered.contains(&0) {
        return Err(refused("wants to authenticate"));
    }
    stream.write_all(&[5, 0]).await?;
    let mut request = [0; 5 + TOKEN + 2];
    stream.read_exact(&mut request).await?;
    let [5, 1, 0, 3, 40, rest @ ..] = &request else { return Err(refused("not a byte stream")) };
    let token = std::str::from_utf8(&rest[..TOKEN]).map_err(|_| refused("not a token"))?.to_owned();
    if !waiting.lock().contains_key(&token) {
        return Err(refused("nobody waits for that"));
    }
    let mut reply = request;
    reply[1] = 0;
    stream.write_all(&reply).await?;
    Ok((token, stream))
}

/// The client's side of the exchange. Each message in one write: Prosody reads each in one piece.
async fn request(stream: &mut TcpStream, token: &str) -> io::Result<()> {
    let mut request = vec![5, 1, 0, 3, 40];
    request.extend_from_slice(token.as_bytes());
    request.extend_from_slice(&[0, 0]);
    if request.len() != 5 + TOKEN + 2 {
        return Err(refused("a token of another length"));
    }
    stream.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [5, 0] {
        return Err(refused("authentication wanted"));
    }
    stream.write_all(&request).await?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let rest = match head {
        [5, 0, _, 3, n] => usize::from(n) + 2,
        [5, 0, _, 1, _] => 3 + 2,
        [5, 0, _, 4, _] => 15 + 2,
        _ => return Err(refused("refused")),
    };
    let mut bound = vec![0; rest];
    stream.read_exact(&mut bound).await?;
    Ok(())
}

pub(super) async fn dial(host: &str, port: u16, token: &str) -> io::Result<TcpStream> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut stream = timeout(CONNECT, TcpStream::connect((host, port))).await.map_err(late)??;
    stream.set_nodelay(true)?;
    timeout(HANDSHAKE, request(&mut stream, token)).await.map_err(late)??;
    Ok(stream)
}

/// Tries candidates of a listed peer, the best first; the first that works.
pub(super) async fn reach(theirs: &[Candidate], token: &str, loopback: bool) -> Option<(Candidate, TcpStream)> {
    let mut order: Vec<_> = theirs.iter().filter(|c| c.allowed(loopback)).collect();
    order.sort_by_key(|c| std::cmp::Reverse(c.priority));
    let any_direct = order.iter().any(|c| !c.proxy);
    // One exchange at a time: only the connection that is used may have ended it, so that the other side knows which.
    let exchange = tokio::sync::Mutex::new(());
    let mut tries: FuturesUnordered<_> = order
        .into_iter()
        .enumerate()
        .map(|(i, candidate)| {
            let exchange = &exchange;
            let wait = STAGGER * u32::try_from(i).unwrap_or(u32::MAX).min(32)
                + if candidate.proxy && any_direct { PROXY_LATER } else { Duration::ZERO };
            async move {
                sleep(wait).await;
                let connecting = TcpStream::connect((candidate.host.as_str(), candidate.port));
                let mut stream = timeout(CONNECT, connecting).await.ok()?.ok()?;
                stream.set_nodelay(true).ok()?;
                let _one = exchange.lock().await;
                timeout(HANDSHAKE, request(&mut stream, token)).await.ok()?.ok()?;
                Some((candidate.clone(), stream))
            }
        })
        .collect();
    while let Some(result) = tries.next().await {
        if result.is_some() {
            return result;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(host: &str, port: u16, proxy: bool) -> Candidate {
        Candidate { cid: "c".into(), host: host.into(), port, jid: Jid::new("a@b/c").unwrap(), priority: 1, proxy }
    }

    #[tokio::test]
    async fn a_connection_with_the_token_arrives_and_another_does_not() {
        let listener = Listener::bind().await.unwrap();
        let (good, bad) = ("a".repeat(40), "b".repeat(40));
        let mut expected = listener.expect(good.clone());
        assert!(dial("127.0.0.1", listener.port, &bad).await.is_err());
        let here = candidate("127.0.0.1", listener.port, false);
        let closed = candidate("127.0.0.1", 1, false);
        let (used, mut near) = reach(&[closed, here.clone()], &good, true).await.unwrap();
        assert_eq!(used, here);
        near.write_all(b"x").await.unwrap();
        let mut far = loop {
            match expected.take() {
                Some(far) => break far,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        drop(expected);
        assert!(dial("127.0.0.1", listener.port, &good).await.is_err());
    }

    /// ATTACKS.md N2: slow streams.
    #[tokio::test]
    async fn silent_connections_keep_nobody_out() {
        let listener = Listener::bind().await.unwrap();
        let token = "c".repeat(40);
        let mut expected = listener.expect(token.clone());
        let mut silent = Vec::new();
        for _ in 0..3 * MAX_UNKNOWN {
            silent.push(TcpStream::connect(("127.0.0.1", listener.port)).await.unwrap());
        }
        dial("127.0.0.1", listener.port, &token).await.unwrap();
        while expected.take().is_none() {
            tokio::task::yield_now().await;
        }
    }

    /// XEP-0065's own construction: SHA-1 over the three, nothing between them.
    #[test]
    fn a_token_is_the_hash_of_id_and_both_jids() {
        let (a, b) = (Jid::new("a@x/1").unwrap(), Jid::new("b@y/2").unwrap());
        assert_eq!(token("sid", &a, &b), "ba95e303c24edf8482da3f108e7ca07d6d800419");
        assert_ne!(token("sid", &a, &b), token("sid", &b, &a));
    }

    #[test]
    fn addresses_that_no_peer_can_have_are_not_dialled() {
        for bad in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"] {
            assert!(!candidate(bad, 1, false).allowed(false), "{bad}");
            assert!(!candidate(bad, 1, true).allowed(false), "{bad}");
        }
        assert!(!candidate("localhost", 1, false).allowed(true));
        assert!(candidate("127.0.0.1", 1, false).allowed(true));
        assert!(candidate("192.168.1.5", 1, false).allowed(false));
        assert!(candidate("proxy.example.org", 1, true).allowed(false));
    }
}

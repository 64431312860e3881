//! The broker's SOCKS5 proxy (XEP-0065): found by service discovery, asked for its address, told to connect two sides.

use std::time::Duration;

use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;

use super::s5b::StreamHost;
use super::stream::{IqError, Line};
use super::xml::{self, Build, DISCO_INFO, DISCO_ITEMS};

const BYTESTREAMS: &str = "http://jabber.org/protocol/bytestreams";
const ANSWER: Duration = Duration::from_secs(10);
/// Services of the broker that are asked what they are.
const MAX_ITEMS: usize = 32;

/// The proxies that the domain of `me` names. None found is no error: then streams go in-band.
pub(super) async fn find(line: &Line, me: &Jid) -> Vec<StreamHost> {
    let Ok(domain) = Jid::new(me.domain().as_str()) else { return Vec::new() };
    let items = xml::get(Some(domain), xml::element("query", DISCO_ITEMS));
    let Ok(Some(items)) = line.iq(items, ANSWER).await else { return Vec::new() };
    let services = items.children().filter(|e| e.is("item", DISCO_ITEMS));
    let services = services.filter_map(|e| Jid::new(e.attr("jid")?).ok()).take(MAX_ITEMS);
    let asked = services.map(|service| async move {
        let info = line.iq(xml::get(Some(service.clone()), xml::element("query", DISCO_INFO)), ANSWER).await;
        let is_proxy = info.ok().flatten().is_some_and(|info| {
            let mut identities = info.children().filter(|e| e.is("identity", DISCO_INFO));
            identities.any(|e| e.attr("category") == Some("proxy") && e.attr("type") == Some("bytestreams"))
        });
        if !is_proxy {
            return None;
        }
        let query = xml::get(Some(service.clone()), xml::element("query", BYTESTREAMS));
        let answer = line.iq(query, ANSWER).await.ok()??;
        read(&answer, service)
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// The service's own JID is kept: ejabberd names one with a resource, at which it does not listen.
fn read(answer: &Element, service: Jid) -> Option<StreamHost> {
    let host = answer.children().find(|e| e.is("streamhost", BYTESTREAMS))?;
    Some(StreamHost {
        jid: service,
        host: host.attr("host").filter(|h| !h.is_empty() && h.len() <= 255)?.to_owned(),
        port: host.attr("port")?.parse().ok().filter(|port| *port != 0)?,
    })
}

/// Both sides are connected to the proxy: it may begin.
pub(super) async fn activate(line: &Line, proxy: &Jid, sid: &str, peer: &Jid) -> Result<(), IqError> {
    let target = xml::element("activate", BYTESTREAMS).text_of(peer.as_str());
    let query = xml::element("query", BYTESTREAMS).with("sid", sid).holding(target);
    line.iq(xml::set(Some(proxy.clone()), query), ANSWER).await.map(|_| ())
}

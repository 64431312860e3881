//! Nodes of accounts (XEP-0060, XEP-0163): where an account shows its device list, and where others leave it notes.

use std::time::Duration;

use tokio_xmpp::jid::{BareJid, Jid};
use tokio_xmpp::minidom::Element;

use super::stream::{IqError, Line};
use super::xml::{self, Build};

const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
const OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
const OPTIONS: &str = "http://jabber.org/protocol/pubsub#publish-options";
const CONFIG: &str = "http://jabber.org/protocol/pubsub#node_config";
const DATA: &str = "jabber:x:data";
const ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, thiserror::Error)]
pub enum PepError {
    #[error("{0} is not a JID")]
    BadJid(String),
    #[error("there is no server for {0}, or it cannot be reached")]
    NoServer(String),
    #[error("{0} shows no device list: there is no such account, or it does not use kith")]
    NotThere(String),
    #[error("{0} takes no notes from other accounts: its server does not let it, or it does not use kith")]
    NoInbox(String),
    #[error("the device list that {jid} shows cannot be used: {why}")]
    BadList { jid: String, why: String },
    #[error("a device list of {0} bytes is too long to be shown")]
    TooLong(usize),
    #[error("the server: {0}")]
    Server(#[from] IqError),
}

/// A node's settings, as far as they are not the server's.
pub(super) struct Settings {
    pub access: &'static str,
    pub publish: &'static str,
    pub max_items: &'static str,
}

/// An item of a node.
pub(super) struct Item {
    pub id: String,
    /// Who put it there, where the server says so.
    pub publisher: Option<BareJid>,
    pub payload: Element,
}

pub(super) fn bare(jid: &str) -> Result<BareJid, PepError> {
    let bare = Jid::new(jid).map_err(|_| PepError::BadJid(jid.to_owned()))?.to_bare();
    // A domain has no devices.
    if bare.node().is_some() { Ok(bare) } else { Err(PepError::BadJid(jid.to_owned())) }
}

fn field(var: &str, value: &str) -> Element {
    let value = xml::element("value", DATA).text_of(value);
    xml::element("field", DATA).with("var", var).holding(value)
}

fn form(of: &str, settings: &Settings) -> Element {
    let kind = field("FORM_TYPE", of).with("type", "hidden");
    xml::element("x", DATA)
        .with("type", "submit")
        .holding(kind)
        .holding(field("pubsub#persist_items", "true"))
        .holding(field("pubsub#max_items", settings.max_items))
        .holding(field("pubsub#access_model", settings.access))
        .holding(field("pubsub#publish_model", settings.publish))
}

/// Makes a node of the own account, or sets it up anew.
pub(super) async fn set_up(line: &Line, node: &str, settings: &Settings) -> Result<(), IqError> {
    let create = xml::element("create", PUBSUB).with("node", node);
    let configure = xml::element("configure", PUBSUB).holding(form(CONFIG, settings));
    let made = line.iq(xml::set(None, xml::element("pubsub", PUBSUB).holding(create).holding(configure)), ANSWER).await;
    match made {
        Ok(_) => Ok(()),
        Err(IqError::Refused(why)) if why == "Conflict" => {
            let configure = xml::element("configure", OWNER).with("node", node).holding(form(CONFIG, settings));
            line.iq(xml::set(None, xml::element("pubsub", OWNER).holding(configure)), ANSWER).await.map(|_| ())
        }
        Err(e) => Err(e),
    }
}

/// Puts an item into a node, of the own account or (`to`) of another. With `settings` it is made so where it is new,
/// and refused where it is otherwise.
pub(super) async fn publish(
    line: &Line,
    to: Option<&BareJid>,
    node: &str,
    id: &str,
    payload: Element,
    settings: Option<&Settings>,
) -> Result<(), IqError> {
    let item = xml::element("item", PUBSUB).with("id", id).holding(payload);
    let publish = xml::element("publish", PUBSUB).with("node", node).holding(item);
    let mut pubsub = xml::element("pubsub", PUBSUB).holding(publish);
    if let Some(settings) = settings {
        pubsub = pubsub.holding(xml::element("publish-options", PUBSUB).holding(form(OPTIONS, settings)));
    }
    let to = to.map(|bare| bare.clone().into());
    line.iq(xml::set(to, pubsub), ANSWER).await.map(|_| ())
}

/// What is in a node, at most `most` of it.
pub(super) async fn items(line: &Line, of: Option<&BareJid>, node: &str, most: usize) -> Result<Vec<Item>, IqError> {
    let items = xml::element("items", PUBSUB).with("node", node);
    let to = of.map(|bare| bare.clone().into());
    let answer = line.iq(xml::get(to, xml::element("pubsub", PUBSUB).holding(items)), ANSWER).await?;
    let items = answer.as_ref().and_then(|a| a.get_child("items", PUBSUB));
    let read = |item: &Element| {
        let publisher = item.attr("publisher").and_then(|p| Jid::new(p).ok()).map(|p| p.to_bare());
        Some(Item { id: item.attr("id")?.to_owned(), publisher, payload: item.children().next()?.clone() })
    };
    Ok(items.into_iter().flat_map(Element::children).filter_map(read).take(most).collect())
}

/// Takes an item out of a node of the own account.
pub(super) async fn retract(line: &Line, node: &str, id: &str) -> Result<(), IqError> {
    let item = xml::element("item", PUBSUB).with("id", id);
    let retract = xml::element("retract", PUBSUB).with("node", node).holding(item);
    match line.iq(xml::set(None, xml::element("pubsub", PUBSUB).holding(retract)), ANSWER).await {
        Err(IqError::Refused(why)) if why == "ItemNotFound" => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// What a refusal of another account's server means.
pub(super) fn told(jid: &BareJid, e: IqError, otherwise: fn(String) -> PepError) -> PepError {
    match e {
        IqError::Refused(why) => match why.as_str() {
            "RemoteServerNotFound" | "RemoteServerTimeout" => PepError::NoServer(jid.domain().as_str().to_owned()),
            _ => otherwise(jid.as_str().to_owned()),
        },
        e => PepError::Server(e),
    }
}

//! Pairing: to come in the next commit.

use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::presence::Presence;

use super::core::Core;

#[derive(Default)]
pub(super) struct Desk;

impl Desk {
    pub fn presence(&self, _: &Core, _: &Jid, _: &Presence) -> bool {
        false
    }
    pub fn asked(&self, _: &Core, _: &Jid, _: &str, _: &Element, _: bool) -> bool {
        false
    }
}

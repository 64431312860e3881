//! How accounts find each other: each shows its device list in a node of its own (PEP), and leaves notes (an invitation,
//! say) in a node of the other, where they wait until a device of it is online.
//!
//! Nothing here is believed for more than it is: a list is signed by the account that it names, and whether that is
//! the contact's is for the person who compares safety numbers. A note says who may be asked, and what for.

use std::collections::HashSet;
use std::time::Duration;

use data_encoding::BASE64;
use keymgr::devices::DeviceList;
use keymgr::ids::{AccountId, ShareId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_xmpp::minidom::Element;

use super::core::Core;
use super::pep::{self, Item, PepError, Settings};
use super::stream::IqError;
use super::xml::{self, Build, KITH};
use super::{Net, NetEvent};

const DEVICES: &str = "urn:kith:1:devices";
const INBOX: &str = "urn:kith:1:inbox";
const OPEN: Settings = Settings { access: "open", publish: "publishers", max_items: "1" };
/// Anybody may put something in, only the account's own devices read it; the server drops the oldest.
const LETTERS: Settings = Settings { access: "whitelist", publish: "open", max_items: "64" };
const MAX_NOTES: usize = 64;
/// In base64 it must fit into a stanza: servers take 256 KiB.
const MAX_LIST: usize = 180 << 10;
/// Notes are looked for when this device comes online, when somebody knocks, and after this.
const LOOK: Duration = Duration::from_secs(600);
/// Whoever knocks, and however often: the inbox is read once in this time.
const REST: Duration = Duration::from_secs(3);

/// What one account says to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Note {
    /// The account is a member of this share now; it may ask the sender's devices for it.
    Invited {
        account: AccountId,
        share: ShareId,
    },
    /// No.
    Declined {
        share: ShareId,
    },
    Left {
        share: ShareId,
    },
}

/// A note, and the bare JID that it claims to come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Letter {
    pub from: String,
    pub note: Note,
}

/// What of the inbox was told already.
#[derive(Default)]
pub(super) struct Desk {
    told: Mutex<HashSet<Letter>>,
    knock: Notify,
    /// When somebody's new device was last told of.
    asked: Mutex<Option<std::time::Instant>>,
}

impl Desk {
    /// Somebody who is no peer says that it is there.
    pub fn knock(&self) {
        self.knock.notify_one();
    }

    /// However often somebody knocks, lists are read once in a while.
    pub fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock();
        let may = asked.is_none_or(|at| at.elapsed() >= REST);
        if may {
            *asked = Some(std::time::Instant::now());
        }
        may
    }
}

impl Net {
    /// Shows the own account's device list to everybody; what is shown already, and the given list does not know, is
    /// merged into it. The list that is shown then.
    pub async fn show_list(&self, list: &DeviceList) -> Result<DeviceList, PepError> {
        let line = self.core.line();
        let shown = pep::items(line, None, DEVICES, 1).await.unwrap_or_default();
        let shown = shown.first().and_then(|item| read_list(item, Some(&list.account())).ok());
        let merged = match &shown {
            Some(shown) => list.merge(shown).unwrap_or_else(|_| list.clone()),
            None => list.clone(),
        };
        if shown.is_some_and(|shown| shown.knows(&merged)) {
            return Ok(merged);
        }
        let bytes = merged.to_bytes();
        if bytes.len() > MAX_LIST {
            return Err(PepError::TooLong(bytes.len()));
        }
        let payload =
            xml::element("devices", KITH).with("account", merged.account().to_string()).text_of(&BASE64.encode(&bytes));
        match pep::publish(line, None, DEVICES, "current", payload.clone(), Some(&OPEN)).await {
            // It was there with other settings.
            Err(IqError::Refused(_)) => {
                pep::set_up(line, DEVICES, &OPEN).await?;
                pep::publish(line, None, DEVICES, "current", payload, None).await?;
            }
            published => published?,
        }
        Ok(merged)
    }

    /// The device list that an account shows; with `account`, of that account and no other. Without, whatever account
    /// it names is believed: for the first use, until it is verified.
    pub async fn list_of(&self, jid: &str, account: Option<&AccountId>) -> Result<DeviceList, PepError> {
        let bare = pep::bare(jid)?;
        let items = pep::items(self.core.line(), Some(&bare), DEVICES, 1).await;
        let items = items.map_err(|e| pep::told(&bare, e, PepError::NotThere))?;
        let Some(item) = items.first() else { return Err(PepError::NotThere(bare.as_str().to_owned())) };
        read_list(item, account).map_err(|why| PepError::BadList { jid: bare.as_str().to_owned(), why })
    }

    /// Leaves a note for an account; once more where it was left before. It is there until the account takes it away.
    pub async fn leave_note(&self, jid: &str, note: &Note) -> Result<(), PepError> {
        let bare = pep::bare(jid)?;
        let Some((me, _)) = self.core.here() else { return Err(IqError::Offline.into()) };
        let letter = Letter { from: me.to_bare().as_str().to_owned(), note: note.clone() };
        let put = pep::publish(self.core.line(), Some(&bare), INBOX, &letter.id(), letter.write(), None).await;
        put.map_err(|e| pep::told(&bare, e, PepError::NoInbox))?;
        // Who is online looks at once.
        self.core.announce(vec![bare]).await;
        Ok(())
    }

    /// The account has seen it: no device of it is told of it any more.
    pub async fn clear_note(&self, letter: &Letter) -> Result<(), PepError> {
        self.core.contacts.told.lock().remove(letter);
        pep::retract(self.core.line(), INBOX, &letter.id()).await.map_err(PepError::Server)
    }
}

/// Sets up the inbox, and reads it whenever there may be something new.
pub(super) async fn read_inbox(core: std::sync::Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let mut here = strong.watch_here();
        drop(strong);
        if here.wait_for(Option::is_some).await.is_err() {
            return;
        }
        here.mark_unchanged();
        let Some(strong) = core.upgrade() else { return };
        if let Err(e) = pep::set_up(strong.line(), INBOX, &LETTERS).await {
            tracing::info!("this account takes no notes from others: {e}");
        }
        drop(strong);
        loop {
            let Some(strong) = core.upgrade() else { return };
            strong.look().await;
            let wait = async {
                tokio::select! {
                    () = strong.contacts.knock.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            };
            tokio::select! {
                () = wait => {}
                _ = here.changed() => break,
            }
            drop(strong);
            tokio::time::sleep(REST).await;
        }
    }
}

impl Core {
    async fn look(&self) {
        let items = match pep::items(self.line(), None, INBOX, MAX_NOTES).await {
            Ok(items) => items,
            Err(e) => return tracing::debug!("the inbox: {e}"),
        };
        let letters: HashSet<Letter> = items.iter().filter_map(Letter::read).collect();
        let new: Vec<Letter> = {
            let mut told = self.contacts.told.lock();
            // What was taken away and comes again is told again.
            told.retain(|letter| letters.contains(letter));
            letters.into_iter().filter(|letter| told.insert(letter.clone())).collect()
        };
        new.into_iter().for_each(|letter| self.tell(NetEvent::Letter(letter)));
    }
}

impl Letter {
    /// A sender has one note for each share: a newer one takes the place of the older.
    fn id(&self) -> String {
        let share = match &self.note {
            Note::Invited { share, .. } | Note::Declined { share } | Note::Left { share } => share,
        };
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 note");
        hasher.update(self.from.as_bytes());
        hasher.update(share.as_bytes());
        hasher.finalize().to_hex().chars().take(32).collect()
    }

    fn write(&self) -> Element {
        let note = xml::element("note", KITH).with("from", self.from.as_str());
        match &self.note {
            Note::Invited { account, share } => {
                note.with("is", "invited").with("share", share.to_string()).with("account", account.to_string())
            }
            Note::Declined { share } => note.with("is", "declined").with("share", share.to_string()),
            Note::Left { share } => note.with("is", "left").with("share", share.to_string()),
        }
    }

    /// `None` for what is no note, or claims to come from somebody else than who put it there.
    fn read(item: &Item) -> Option<Self> {
        let note = Some(&item.payload).filter(|p| p.is("note", KITH))?;
        let from = pep::bare(note.attr("from")?).ok()?;
        if item.publisher.as_ref().is_some_and(|publisher| *publisher != from) {
            return None;
        }
        let share = note.attr("share")?.parse().ok()?;
        let account = || note.attr("account")?.parse().ok();
        let said = match note.attr("is")? {
            "invited" => Note::Invited { account: account()?, share },
            "declined" => Note::Declined { share },
            "left" => Note::Left { share },
            _ => return None,
        };
        let letter = Self { from: from.as_str().to_owned(), note: said };
        // Another id would let one sender have many.
        (item.id == letter.id()).then_some(letter)
    }
}

fn read_list(item: &Item, account: Option<&AccountId>) -> Result<DeviceList, String> {
    let devices = Some(&item.payload).filter(|p| p.is("devices", KITH)).ok_or("not a device list")?;
    let named = devices.attr("account").and_then(|a| a.parse::<AccountId>().ok()).ok_or("it names no account")?;
    if account.is_some_and(|account| *account != named) {
        return Err("it is of another account".into());
    }
    let bytes = BASE64.decode(devices.text().as_bytes()).map_err(|e| e.to_string())?;
    DeviceList::parse_and_verify(&bytes, &named).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(letter: &Letter, publisher: Option<&str>) -> Item {
        let publisher = publisher.map(|p| pep::bare(p).unwrap());
        Item { id: letter.id(), publisher, payload: letter.write() }
    }

    #[test]
    fn a_note_reads_back_and_one_in_anothers_name_does_not() {
        let share = ShareId::from_bytes([1; 16]);
        let account = AccountId::from_bytes([2; 32]);
        for note in [Note::Invited { account, share }, Note::Declined { share }, Note::Left { share }] {
            let letter = Letter { from: "alice@a.example".into(), note };
            assert_eq!(Letter::read(&item(&letter, None)), Some(letter.clone()));
            assert_eq!(Letter::read(&item(&letter, Some("alice@a.example/x"))), Some(letter.clone()));
            assert_eq!(Letter::read(&item(&letter, Some("mallory@a.example"))), None);
            let other = Item { id: "other".into(), ..item(&letter, None) };
            assert_eq!(Letter::read(&other), None);
            let sent = Letter { from: "mallory@a.example".into(), ..letter.clone() };
            assert_ne!(sent.id(), letter.id());
        }
    }
}

//! What the commands about shares do: share, accept, decline, leave, unshare, verify.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs::mount::{Forest, Found};
use fs::volume::{Shown, Who};
use keymgr::circle::{Access, Circle, Error as CircleError, Member, MemberList};
use keymgr::contacts::{Contact, Contacts};
use keymgr::devices::DeviceList;
use keymgr::ids::AccountId;
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use serde_json::{Value, json};
use sync::members::Kept;
use sync::net::Note;

use super::contacts::{Invited, bare};
use super::share::{Running, place};
use super::{Daemon, contacts};
use crate::error::{Code, Error, Result, printable};

/// Whom a folder is shared with, and how.
pub struct Wish {
    pub path: PathBuf,
    pub jid: String,
    pub access: Access,
    pub may_invite: bool,
}

impl Daemon {
    fn forest(&self) -> Result<Forest> {
        self.forest.clone().ok_or_else(|| {
            Error::new(Code::Usage, "This device is blind: it knows no folders.", "Do it on a device that holds keys.")
        })
    }

    /// A path as it is within the vault.
    fn within<'a>(&self, path: &'a Path) -> Result<&'a Path> {
        match (&self.mountpoint, path.is_absolute()) {
            (Some(at), true) => path.strip_prefix(at).map_err(|_| {
                Error::new(
                    Code::Usage,
                    format!("{} is not in the folder of this vault.", printable(&path.to_string_lossy())),
                    format!("Name a folder below {}.", at.display()),
                )
            }),
            (_, false) => Ok(path),
            (None, true) => {
                Err(Error::new(Code::NotRunning, "The vault is not mounted.", "Mount it: kith mount MOUNTPOINT"))
            }
        }
    }

    /// What a path in the mount, or below it, leads to.
    async fn find(self: &Arc<Self>, path: &Path) -> Result<Found> {
        let forest = self.forest()?;
        let within = self.within(path)?;
        let (within, shown) = (within.to_owned(), path.to_owned());
        let found = tokio::task::spawn_blocking(move || forest.find(&within)).await;
        found.map_err(|_| interrupted())?.map_err(|e| Error::io(&shown, &std::io::Error::from_raw_os_error(e.errno())))
    }

    /// The share that begins at this path.
    async fn share_at(self: &Arc<Self>, path: &Path) -> Result<Arc<Running>> {
        let found = self.find(path).await?;
        let share = found.volume.share();
        if found.ino != fs::volume::ROOT || share == self.root {
            return Err(Error::new(
                Code::NotShared,
                format!("{} is not shared.", printable(&path.to_string_lossy())),
                "`kith status` lists what is shared.",
            ));
        }
        self.set.get(share).ok_or_else(interrupted)
    }

    /// Shares a folder with a contact; a folder that is no share yet becomes one.
    pub async fn share(self: &Arc<Self>, wish: Wish) -> Result<Value> {
        let found = self.find(&wish.path).await?;
        let shown = printable(&wish.path.to_string_lossy());
        if !matches!(found.kind, Shown::Folder) && found.ino != fs::volume::ROOT {
            return Err(Error::new(Code::Usage, format!("{shown} is no folder."), "Share the folder that it is in."));
        }
        let share = found.volume.share();
        let within = self.set.get(share).ok_or_else(interrupted)?;
        if found.ino == fs::volume::ROOT && share == self.root {
            return Err(Error::new(
                Code::Usage,
                "The whole vault cannot be shared.",
                "Share a folder in it; `kith pair` lets another device of your own in.",
            ));
        }
        if !within.replica.access().may_write() && found.ino != fs::volume::ROOT {
            return Err(Error::new(
                Code::ReadOnlyShare,
                format!("{shown} lies in a share that you may only read."),
                "Copy it to a place of your own and share that.",
            ));
        }
        let (contact, list) = self.contact(&wish.jid).await?;
        let own = self.keyring.lock().account_id;
        if contact.account == own {
            return Err(Error::new(
                Code::Usage,
                format!("{} is your own account.", printable(&wish.jid)),
                "`kith pair` lets another device of yours in.",
            ));
        }
        let member = Member {
            account: contact.account,
            jid: wish.jid.clone(),
            access: wish.access,
            may_invite: wish.may_invite,
            added: crate::vault::now(),
        };
        let _changing = self.set.changing.lock().await;
        let running = if found.ino == fs::volume::ROOT {
            self.let_in(&within, member, list).await?;
            within
        } else {
            self.make_share(&within, found.ino, member, list).await?
        };
        let net = self.net().await?;
        let note = Note::Invited { account: own, share: running.share };
        net.leave_note(&wish.jid, &note).await.map_err(|e| contacts::told(&e))?;
        Ok(json!({
            "share": running.share.to_string(),
            "with": wish.jid,
            "verified": contact.verified,
            "safety_number": contact.account.safety_number(),
        }))
    }

    /// One member more in a share that is there.
    async fn let_in(self: &Arc<Self>, running: &Arc<Running>, member: Member, list: DeviceList) -> Result<()> {
        let before = running.replica.circle().borrow().clone();
        let device = self.keyring.lock().device.clone();
        let mut circle = before.with_member(&device, member.clone()).map_err(refused)?;
        let same = |m: &&Member| m.access == member.access && m.may_invite == member.may_invite;
        if before.member(&member.account).filter(same).is_some() {
            return Err(Error::new(
                Code::AlreadyShared,
                format!("It is shared with {} already, in just this way.", printable(&member.jid)),
                "`kith status` says whether they have accepted.",
            ));
        }
        circle.learn(list).map_err(refused)?;
        running.replica.take_circle(&circle);
        let (this, running) = (self.clone(), running.clone());
        tokio::task::spawn_blocking(move || this.tend(&running, true)).await.map_err(|_| interrupted())?
    }

    /// A folder becomes a share with its first member.
    async fn make_share(
        self: &Arc<Self>,
        within: &Arc<Running>,
        folder: u64,
        member: Member,
        list: DeviceList,
    ) -> Result<Arc<Running>> {
        let keyring = self.keyring.lock().clone();
        let own = keyring.list.clone().ok_or_else(interrupted)?;
        let jid = keyring.login.as_ref().map(|l| bare(&l.jid).to_owned()).unwrap_or_default();
        let members = MemberList::found(&own, &keyring.device, &jid, crate::vault::now()).map_err(refused)?;
        let share = members.share();
        let keys = ShareKeys::create(share);
        let circle = Circle::of_share(members, [own]);
        let mut circle = circle.with_member(&keyring.device, member).map_err(refused)?;
        circle.learn(list).map_err(refused)?;
        let shelf = Shelf::first(&keys, &keyring.device, &circle)
            .map_err(|e| Error::new(Code::Other, format!("The key could not be made: {e}."), "Try again."))?;
        let (this, within) = (self.clone(), within.clone());
        let made = tokio::task::spawn_blocking(move || {
            // The keys are durable before anything is under them.
            this.keep_keys(keys.clone())?;
            let made = this.carve(&within, folder, &keys, circle, shelf);
            if made.is_err() && this.set.get(share).is_none() {
                let mut keyring = this.keyring.lock();
                keyring.shares.retain(|held| held.share() != share);
                let _ = this.vault.save(&keyring);
            }
            made
        });
        made.await.map_err(|_| interrupted())?
    }

    /// Makes the folder a share on the disk, and begins it before any program sees it.
    fn carve(
        &self,
        within: &Running,
        folder: u64,
        keys: &ShareKeys,
        mut circle: Circle,
        mut shelf: Shelf,
    ) -> Result<Arc<Running>> {
        let volume = within.volume.as_ref().ok_or_else(interrupted)?;
        let share = keys.share();
        let into = place(&self.store, share).with_extension("new");
        std::fs::create_dir_all(&into).map_err(|e| Error::io(&into, &e))?;
        let before = within.replica.junctions().borrow().clone();
        let mut carving = volume.carve(folder, &into, keys, |_| true).map_err(|e| super::told(&e))?;
        Kept::open(&into, &mut circle, &mut shelf)
            .map_err(|e| Error::new(Code::Other, e.to_string(), "Check the disk, then share the folder again."))?;
        let session = self.keyring.lock().mark.session;
        let mut began = Err(interrupted());
        // No observation may be on its way to the records.
        let observing = within.observing.lock();
        let committed = carving.commit(|| {
            let opened = self.open_share(share, within.share, None, session, false);
            began = opened
                .and_then(|running| running.ok_or_else(interrupted))
                .and_then(|running| self.begin_share(&running, false).map(|()| running));
        });
        drop(observing);
        committed.map_err(|e| match e {
            fs::volume::Error::Busy { .. } => Error::new(
                Code::AlreadyRunning,
                format!("{}.", printable(&e.to_string())),
                "Close the files in that folder that are open for writing, then share it again.",
            ),
            e => super::told(&e),
        })?;
        if let Some(forest) = &self.forest {
            // Shares within it came along with their junctions.
            let moved = before.into_iter().filter(|inner| volume.junction(*inner).is_none());
            moved.for_each(|inner| forest.reparent(inner, share));
        }
        began
    }

    /// Invitations, each with what is known of it.
    pub async fn invites(&self) -> Value {
        let mut all = Vec::new();
        let own = self.keyring.lock().account_id;
        for invited in self.invitations() {
            let offer = self.offer(&invited).await;
            let contact = self.with_contacts(|c| c.by_account(&invited.account).cloned()).ok().flatten();
            let member = offer.as_ref().and_then(|o| o.circle.member(&own).cloned());
            all.push(json!({
                "share": invited.share.to_string(),
                "from": invited.from,
                "title": offer.as_ref().map(|o| o.title.clone()),
                "role": member.map(|m| role(m.access)),
                "verified": contact.is_some_and(|c| c.verified),
            }));
        }
        json!({ "invitations": all })
    }

    fn invitation(&self, which: Option<&str>) -> Result<Invited> {
        let all = self.invitations();
        let mut fits = all.iter().filter(|i| {
            which.is_none_or(|which| i.from == which || i.share.to_string().starts_with(which) && which.len() >= 4)
        });
        match (fits.next(), fits.next()) {
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(Error::new(
                Code::NotShared,
                "There is no such invitation.",
                "`kith invites` lists those that there are.",
            )),
            (Some(_), Some(_)) => Err(Error::new(
                Code::Usage,
                "There are several invitations.",
                "Say which: kith accept JID, or the share's number that `kith invites` shows.",
            )),
        }
    }

    /// Takes an invitation: the share appears in this account's own tree.
    pub async fn accept(self: &Arc<Self>, which: Option<&str>, at: Option<&Path>) -> Result<Value> {
        let invited = self.invitation(which)?;
        let contact = self.with_contacts(|c| c.by_account(&invited.account).cloned())?;
        if self.with_contacts(|c| c.get(&invited.from).is_some_and(|c| c.changed.is_some()))? {
            return Err(contacts::changed(&invited.from));
        }
        let Some(offer) = self.offer(&invited).await else {
            return Err(Error::new(
                Code::NotShared,
                format!("No device of {} is here to give the share.", printable(&invited.from)),
                "Try again when one is online; the invitation stays.",
            ));
        };
        let own = self.keyring.lock().account_id;
        let Some(member) = offer.circle.member(&own).cloned() else {
            self.change_invitations(|all| all.retain(|i| i.share != invited.share))?;
            return Err(Error::new(
                Code::NotShared,
                "The invitation was taken back.",
                "Ask who sent it for a new one.",
            ));
        };
        let title = clean(&offer.title);
        let path = match at {
            Some(at) => self.within(at)?.to_owned(),
            None => PathBuf::from("Shared").join(clean(&invited.from)).join(&title),
        };
        let _changing = self.set.changing.lock().await;
        let (this, share, at) = (self.clone(), invited.share, path.clone());
        let has_keys = member.access.has_keys();
        let began = tokio::task::spawn_blocking(move || {
            let session = this.keyring.lock().mark.session;
            let given = Some((offer.circle, offer.shelf));
            let forest = this.forest()?;
            // Where it is to be is looked at first: nothing is begun for a name that is taken.
            let (parent, name) = make_way(&forest, &at)?;
            if this.set.get(share).is_none()
                && let Some(running) = this.open_share(share, this.root, given, session, false)?
            {
                if has_keys && running.volume.is_none() {
                    tracing::info!("the keys of the share are not here yet");
                }
                this.begin_share(&running, false)?;
            }
            forest
                .root()
                .make_junction(parent, name.as_bytes(), share)
                .map_err(|e| Error::io(&at, &std::io::Error::from_raw_os_error(e.errno())))
        });
        began.await.map_err(|_| interrupted())??;
        self.change_invitations(|all| all.retain(|i| i.share != invited.share))?;
        if let Ok(net) = self.net().await {
            let _ = net.clear_note(&invited.letter()).await;
        }
        self.seat_guests();
        Ok(json!({
            "share": invited.share.to_string(),
            "from": invited.from,
            "path": self.mountpoint.as_ref().map_or(path.clone(), |m| m.join(&path)),
            "role": role(member.access),
            "verified": contact.is_some_and(|c| c.verified),
        }))
    }

    pub async fn decline(&self, which: Option<&str>) -> Result<Value> {
        let invited = self.invitation(which)?;
        self.change_invitations(|all| all.retain(|i| i.share != invited.share))?;
        if let Ok(net) = self.net().await {
            let _ = net.clear_note(&invited.letter()).await;
            let _ = net.leave_note(&invited.from, &Note::Declined { share: invited.share }).await;
        }
        self.seat_guests();
        Ok(json!({ "declined": invited.share.to_string(), "from": invited.from }))
    }

    /// Leaves a share: it goes from this account's tree, on all devices.
    pub async fn leave(self: &Arc<Self>, path: &Path) -> Result<Value> {
        let running = self.share_at(path).await?;
        let device = self.keyring.lock().device.clone();
        let circle = running.replica.circle().borrow().clone();
        if circle.owner() == self.keyring.lock().account_id {
            return Err(Error::new(
                Code::NotAllowed,
                "The share is your own: it cannot be left.",
                "`kith unshare DIR --all` takes it from everybody else; the folder stays with you.",
            ));
        }
        // Who was removed already has nothing to say, and goes all the same.
        if let Ok(left) = circle.with_left(&device) {
            running.replica.take_circle(&left);
        }
        if let (Ok(net), Some(owner)) = (self.net().await, circle.accounts().next()) {
            let _ = net.leave_note(&owner.jid, &Note::Left { share: running.share }).await;
        }
        // What says so is on its way while the share still runs.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let _changing = self.set.changing.lock().await;
        let this = self.clone();
        let share = running.share;
        let done = tokio::task::spawn_blocking(move || {
            let parent = running.parent.and_then(|p| this.set.get(p));
            if let Some(volume) = parent.as_ref().and_then(|p| p.volume.as_ref()) {
                volume.remove_junction(share).map_err(|e| super::told(&e))?;
            }
            this.end_share(share)?;
            this.put_away(share)
        });
        done.await.map_err(|_| interrupted())??;
        Ok(json!({ "left": share.to_string() }))
    }

    /// Takes a share from a member, or from all: a new key for those who stay.
    pub async fn unshare(self: &Arc<Self>, path: &Path, jid: Option<&str>) -> Result<Value> {
        let running = self.share_at(path).await?;
        let device = self.keyring.lock().device.clone();
        let mut circle = running.replica.circle().borrow().clone();
        let owner = circle.owner();
        let out: Vec<Member> =
            circle.accounts().filter(|m| m.account != owner && jid.is_none_or(|jid| m.jid == jid)).cloned().collect();
        if out.is_empty() {
            return Err(Error::new(
                Code::NotShared,
                format!("It is not shared with {}.", jid.map_or("anybody".into(), printable)),
                "`kith status` lists who belongs to it.",
            ));
        }
        for member in &out {
            circle = circle.with_removed(&device, member.account).map_err(refused)?;
        }
        running.replica.take_circle(&circle);
        let (this, share) = (self.clone(), running.clone());
        tokio::task::spawn_blocking(move || this.tend(&share, true)).await.map_err(|_| interrupted())??;
        Ok(json!({
            "share": running.share.to_string(),
            "removed": out.iter().map(|m| m.jid.clone()).collect::<Vec<_>>(),
        }))
    }

    /// The safety numbers of this account and of a contact.
    pub async fn safety(&self, jid: &str) -> Result<Value> {
        let net = self.net().await?;
        let known = self.with_contacts(|c| c.get(jid).cloned())?;
        let shown = match (net.list_of(jid, None).await, &known) {
            (Ok(list), _) => list,
            (Err(_), Some(known)) => {
                known.devices().map_err(|e| Error::new(Code::Damaged, e.to_string(), "Report this."))?
            }
            (Err(e), None) => return Err(contacts::told(&e)),
        };
        self.saw(jid, &shown)?;
        let own = self.keyring.lock().account_id;
        Ok(json!({
            "jid": jid,
            "own": own.safety_number(),
            "own_account": own.to_string(),
            "theirs": shown.account().safety_number(),
            "account": shown.account().to_string(),
            "verified": known.as_ref().is_some_and(|c| c.verified && c.account == shown.account()),
            "changed": known.is_some_and(|c| c.account != shown.account()),
            "devices": shown.devices().map(|d| d.name.clone()).collect::<Vec<_>>(),
        }))
    }

    /// A person compared the numbers: this account is the contact's.
    pub async fn verified(self: &Arc<Self>, jid: &str, account: &str) -> Result<Value> {
        let account: AccountId =
            account.parse().map_err(|_| Error::new(Code::Usage, "That is no account.", "Run `kith verify JID`."))?;
        let net = self.net().await?;
        let list = match net.list_of(jid, Some(&account)).await {
            Ok(list) => list,
            Err(e) => {
                let known =
                    self.with_contacts(|c| c.get(jid).filter(|c| c.account == account).map(Contact::devices))?;
                known.and_then(std::result::Result::ok).ok_or_else(|| contacts::told(&e))?
            }
        };
        let before = self.with_contacts(|c| c.get(jid).map(|c| c.account))?;
        if !self.with_contacts(|c| c.verify(jid, &list))? {
            return Err(Error::new(Code::KeyChanged, "The account changed meanwhile.", "Compare the numbers again."));
        }
        // Another account takes the place of the old one in what this account owns.
        if let Some(old) = before.filter(|old| *old != account) {
            self.replace(old, account, &list).await?;
        }
        self.stop_changed();
        self.seat_guests();
        Ok(json!({ "jid": jid, "verified": true }))
    }

    async fn replace(self: &Arc<Self>, old: AccountId, new: AccountId, list: &DeviceList) -> Result<()> {
        let device = self.keyring.lock().device.clone();
        for running in self.set.all() {
            let circle = running.replica.circle().borrow().clone();
            let Some(member) = circle.member(&old).filter(|_| circle.is_admin(&device.id())).cloned() else { continue };
            let Ok(circle) = circle.with_removed(&device, old) else { continue };
            let mut circle = circle
                .with_member(&device, Member { account: new, added: crate::vault::now(), ..member.clone() })
                .map_err(refused)?;
            circle.learn(list.clone()).map_err(refused)?;
            running.replica.take_circle(&circle);
            let this = self.clone();
            let share = running.clone();
            tokio::task::spawn_blocking(move || this.tend(&share, true)).await.map_err(|_| interrupted())??;
            if let Ok(net) = self.net().await {
                let own = self.keyring.lock().account_id;
                let _ = net.leave_note(&member.jid, &Note::Invited { account: own, share: running.share }).await;
            }
        }
        Ok(())
    }

    /// Shares as `kith status` lists them.
    pub fn shares_told(&self) -> Vec<Value> {
        let contacts = Contacts::of(&self.keyring.lock());
        let own = self.keyring.lock().account_id;
        let tell = |running: Arc<Running>| {
            let circle = running.replica.circle().borrow().clone();
            let status = running.replica.status();
            let members: Vec<Value> = circle
                .accounts()
                .filter(|m| m.account != own)
                .map(|m| {
                    let contact = contacts.by_account(&m.account);
                    json!({
                        "jid": m.jid,
                        "role": role(m.access),
                        "verified": contact.is_some_and(|c| c.verified),
                        "stopped": contact.is_some_and(|c| c.changed.is_some()),
                    })
                })
                .collect();
            json!({
                "share": running.share.to_string(),
                "title": self.title(&running),
                "role": circle.member(&own).map(|m| role(m.access)),
                "members": members,
                "keys": running.volume.is_some(),
                "pending": { "files": status.files, "bytes": status.bytes },
                "conflicts": status.conflicts,
                "notices": status.notices,
            })
        };
        self.set.all().into_iter().filter(|r| r.share != self.root).map(tell).collect()
    }
}

/// The folders down to where a junction is to be; the last one's inode, and the junction's name.
fn make_way(forest: &Forest, at: &Path) -> Result<(u64, String)> {
    let io = |e: fs::volume::Error| Error::io(at, &std::io::Error::from_raw_os_error(e.errno()));
    let name = at.file_name().map(|n| n.to_string_lossy().into_owned()).ok_or_else(|| {
        Error::new(Code::Usage, "The share needs a name.", "Give --at PATH with a new name in your own folder.")
    })?;
    let mut so_far = PathBuf::new();
    for part in at.parent().into_iter().flat_map(Path::components) {
        let parent = forest.find(&so_far).map_err(io)?;
        so_far.push(part);
        if let Err(e) = forest.find(&so_far) {
            if e.errno() != libc::ENOENT {
                return Err(io(e));
            }
            let std::path::Component::Normal(part) = part else { return Err(io(e)) };
            let made = parent.volume.mkdir(parent.ino, part.as_encoded_bytes(), 0o755, Who::me()).map_err(io)?;
            parent.volume.forget(made.ino, 1);
        }
    }
    let parent = forest.find(&so_far).map_err(io)?;
    if parent.volume.share() != forest.root().share() {
        return Err(Error::new(
            Code::Usage,
            format!("{} lies in a share.", printable(&at.to_string_lossy())),
            "Give --at PATH with a place that is yours alone.",
        ));
    }
    match forest.find(at) {
        Ok(_) => Err(Error::new(
            Code::NotEmpty,
            format!("{} is there already.", printable(&at.to_string_lossy())),
            "Give --at PATH with a name that is free.",
        )),
        Err(_) => Ok((parent.ino, name)),
    }
}

/// A name from elsewhere as one of a folder of ours.
fn clean(name: &str) -> String {
    let bad = |c: char| c == '/' || c.is_control();
    let text: String = name.chars().filter(|c| !bad(*c)).take(100).collect();
    if text.trim_matches('.').trim().is_empty() { "shared".to_owned() } else { text }
}

pub fn role(access: Access) -> &'static str {
    match access {
        Access::Owner => "owner",
        Access::Writer => "writer",
        Access::Reader => "reader",
        Access::Blind => "blind",
    }
}

fn refused(error: CircleError) -> Error {
    let what = format!("{}.", printable(&error.to_string()));
    match error {
        CircleError::NotAllowed | CircleError::Removed => {
            Error::new(Code::NotAllowed, what, "Ask the owner of the share, or use a device of yours that is an admin.")
        }
        _ => Error::new(Code::Other, what, "Nothing was changed."),
    }
}

fn interrupted() -> Error {
    Error::new(Code::Other, "It was interrupted.", "Try it again.")
}

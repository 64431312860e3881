//! The keyring: everything secret that one device keeps for one vault, sealed as one blob under the vault key; and
//! the mark of the last session, in it and outside the store.
//!
//! File: `kithring`, format version (u16), vault id, then nonce, ciphertext and tag. All before the nonce is
//! associated data. Inside: postcard of `Stored`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::account::AccountKey;
use crate::device::{DeviceKeys, DeviceSecrets};
pub use crate::devices::Role;
use crate::devices::{DeviceList, Listed};
use crate::ids::{AccountId, DeviceId, Epoch, Incarnation, RecordHash, ShareId, VaultId};
use crate::seal;
use crate::secret::{Secret32, random_bytes};
use crate::share::ShareKeys;

/// Newer formats are refused, never guessed at.
const FORMAT: u16 = 1;
const RING_MAGIC: &[u8; 8] = b"kithring";
const MARK_MAGIC: &[u8; 8] = b"kithmark";
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// Why sealed bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not what it should be, damaged, or of another vault")]
    Damaged,
    #[error("format {0} is newer than this program; use a newer kith")]
    Newer(u16),
}

/// The broker account of this device. No Debug: it holds a password.
#[derive(Clone)]
pub struct Login {
    pub jid: String,
    pub password: Zeroizing<String>,
    /// A certificate authority other than the machine's, in PEM.
    pub ca: Option<PathBuf>,
    /// host:port, where it is not to be looked up.
    pub server: Option<String>,
    /// Without TLS: to a broker on this machine only.
    pub plaintext: bool,
}

/// The newest record of an author's log that this device had made durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Head {
    pub share: ShareId,
    pub device: DeviceId,
    pub incarnation: Incarnation,
    pub number: u64,
    pub hash: RecordHash,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MarkState {
    /// Everything is recorded, and the logs end at the heads.
    Clean,
    /// A session runs, or ended without a mark.
    Open,
}

/// How the last session ended. Sealed in the keyring and again outside the store, so that an older store put back
/// is told from the present one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub state: MarkState,
    /// Counts sessions; never falls.
    pub session: u64,
    pub heads: Vec<Head>,
}

impl Mark {
    /// Of a vault that had no session yet.
    pub fn first() -> Self {
        Self { state: MarkState::Clean, session: 0, heads: Vec::new() }
    }
}

/// Everything secret that one device keeps for one vault. No Debug.
#[derive(Clone)]
pub struct Keyring {
    pub device: DeviceKeys,
    pub role: Role,
    /// Until the recovery sheet is printed.
    pub account: Option<AccountKey>,
    pub account_id: AccountId,
    /// None until this device is paired.
    pub list: Option<DeviceList>,
    /// None of them on a blind device.
    pub shares: Vec<ShareKeys>,
    pub root: ShareId,
    pub incarnation: Incarnation,
    pub mark: Mark,
    pub login: Option<Login>,
    /// What other parts keep sealed here, by name; unknown names are kept as they are.
    pub extra: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl Keyring {
    /// A new account's first device: new keys, a new root share, a list of one.
    ///
    /// `jid` is empty until the device has one; `now` in seconds since 1970 is what the list shows.
    pub fn first(name: &str, jid: &str, now: u64) -> Result<Self, crate::devices::Error> {
        let device = DeviceKeys::generate();
        let account = AccountKey::generate();
        let root = ShareId::random();
        let listed = Listed::new(device.public(), Role::Full, name, jid, now);
        let list = DeviceList::create(&account, &device, listed)?;
        let mut keyring = Self::joining(device, Role::Full, account.id(), root);
        keyring.account = Some(account);
        keyring.list = Some(list);
        keyring.shares.push(ShareKeys::create(root));
        Ok(keyring)
    }

    /// A device that joins an account: no list and no share's keys yet.
    pub fn joining(device: DeviceKeys, role: Role, account_id: AccountId, root: ShareId) -> Self {
        Self {
            device,
            role,
            account: None,
            account_id,
            list: None,
            shares: Vec::new(),
            root,
            incarnation: Incarnation::random(),
            mark: Mark::first(),
            login: None,
            extra: BTreeMap::new(),
        }
    }

    /// The keys of a share, where this device holds any.
    pub fn share(&self, share: ShareId) -> Option<&ShareKeys> {
        self.shares.iter().find(|keys| keys.share() == share)
    }

    pub fn share_mut(&mut self, share: ShareId) -> Option<&mut ShareKeys> {
        self.shares.iter_mut().find(|keys| keys.share() == share)
    }

    pub(crate) fn seal(&self, vault_key: &Secret32, vault: VaultId) -> Vec<u8> {
        self.seal_with(vault_key, vault, random_bytes())
    }

    fn seal_with(&self, vault_key: &Secret32, vault: VaultId, nonce: [u8; seal::NONCE]) -> Vec<u8> {
        let mut out = head(RING_MAGIC, vault);
        let plain = self.to_stored().to_bytes();
        let sealed = seal::seal_with(&ring_key(vault_key, vault), &out, &plain, nonce);
        out.extend_from_slice(&sealed);
        out
    }

    pub(crate) fn open(vault_key: &Secret32, vault: VaultId, bytes: &[u8]) -> Result<Self, Error> {
        let sealed = strip_head(RING_MAGIC, vault, bytes)?;
        let head = head(RING_MAGIC, vault);
        let plain = seal::open(&ring_key(vault_key, vault), &head, sealed).ok_or(Error::Damaged)?;
        match postcard::take_from_bytes::<Stored>(&plain) {
            Ok((stored, [])) => stored.into_keyring(),
            _ => Err(Error::Damaged),
        }
    }

    fn to_stored(&self) -> Stored {
        Stored {
            device: self.device.secrets(),
            role: self.role,
            account: self.account.as_ref().map(|key| *key.secret().expose()),
            account_id: *self.account_id.as_bytes(),
            list: self.list.as_ref().map(DeviceList::to_bytes),
            shares: self
                .shares
                .iter()
                .map(|keys| StoredShare {
                    share: *keys.share().as_bytes(),
                    keys: keys.epochs().filter_map(|e| Some((e.0, *keys.key(e)?.expose()))).collect(),
                })
                .collect(),
            root: *self.root.as_bytes(),
            incarnation: *self.incarnation.as_bytes(),
            mark: self.mark.clone(),
            login: self.login.as_ref().map(|login| StoredLogin {
                jid: login.jid.clone(),
                password: login.password.to_string(),
                ca: login.ca.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec()),
                server: login.server.clone(),
                plaintext: login.plaintext,
            }),
            extra: self.extra.iter().map(|(name, value)| (name.clone(), value.to_vec())).collect(),
        }
    }
}

/// The keyring inside its seal. A field is never removed or reordered: a change is a new format version.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    device: DeviceSecrets,
    #[zeroize(skip)]
    role: Role,
    account: Option<[u8; 32]>,
    account_id: [u8; 32],
    list: Option<Vec<u8>>,
    shares: Vec<StoredShare>,
    root: [u8; 16],
    incarnation: [u8; 8],
    #[zeroize(skip)]
    mark: Mark,
    login: Option<StoredLogin>,
    extra: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredShare {
    share: [u8; 16],
    keys: Vec<(u32, [u8; 32])>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct StoredLogin {
    jid: String,
    password: String,
    ca: Option<Vec<u8>>,
    server: Option<String>,
    plaintext: bool,
}

impl Stored {
    /// Into a buffer that is large enough from the start: a vector that grows leaves the secrets in what it frees.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut room = 64 * 1024;
        loop {
            let mut buffer = Zeroizing::new(vec![0; room]);
            match postcard::to_slice(self, &mut buffer).map(|used| used.len()) {
                Ok(used) => {
                    buffer.truncate(used);
                    return buffer;
                }
                Err(_) => room *= 2,
            }
        }
    }

    fn into_keyring(mut self) -> Result<Keyring, Error> {
        let account_id = AccountId::from_bytes(self.account_id);
        let account = self.account.as_ref().map(|bytes| AccountKey::from_secret(&Secret32::from_bytes(*bytes)));
        if account.as_ref().is_some_and(|key| key.id() != account_id) {
            return Err(Error::Damaged);
        }
        let list = match &self.list {
            Some(bytes) => Some(DeviceList::parse_and_verify(bytes, &account_id).map_err(|_| Error::Damaged)?),
            None => None,
        };
        let shares = self.shares.iter().map(|stored| {
            let mut keys = ShareKeys::empty(ShareId::from_bytes(stored.share));
            for (epoch, key) in &stored.keys {
                keys.insert(Epoch(*epoch), Secret32::from_bytes(*key));
            }
            keys
        });
        Ok(Keyring {
            device: DeviceKeys::from_secrets(&self.device),
            role: self.role,
            account,
            account_id,
            list,
            shares: shares.collect(),
            root: ShareId::from_bytes(self.root),
            incarnation: Incarnation::from_bytes(self.incarnation),
            mark: self.mark.clone(),
            login: self.login.as_mut().map(|login| Login {
                jid: std::mem::take(&mut login.jid),
                password: Zeroizing::new(std::mem::take(&mut login.password)),
                ca: login.ca.take().map(path_from),
                server: login.server.take(),
                plaintext: login.plaintext,
            }),
            extra: std::mem::take(&mut self.extra).into_iter().map(|(k, v)| (k, Zeroizing::new(v))).collect(),
        })
    }
}

fn path_from(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn head(magic: &[u8; 8], vault: VaultId) -> Vec<u8> {
    [magic.as_slice(), &FORMAT.to_le_bytes(), vault.as_bytes()].concat()
}

fn strip_head<'a>(magic: &[u8; 8], vault: VaultId, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    let rest = bytes.strip_prefix(magic).ok_or(Error::Damaged)?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(Error::Damaged)?;
    match u16::from_le_bytes(*version) {
        FORMAT => {}
        0 => return Err(Error::Damaged),
        newer => return Err(Error::Newer(newer)),
    }
    rest.strip_prefix(vault.as_bytes()).ok_or(Error::Damaged)
}

fn ring_key(vault_key: &Secret32, vault: VaultId) -> Secret32 {
    vault_key.derive("kith.v1 keyring", &[vault.as_bytes()])
}

fn mark_key(vault_key: &Secret32, vault: VaultId) -> Secret32 {
    vault_key.derive("kith.v1 mark", &[vault.as_bytes()])
}

/// The mark as it lies outside the store: sealed, since heads tell who the peers are.
pub(crate) fn seal_mark(mark: &Mark, vault_key: &Secret32, vault: VaultId) -> Vec<u8> {
    seal_mark_with(mark, vault_key, vault, random_bytes())
}

fn seal_mark_with(mark: &Mark, vault_key: &Secret32, vault: VaultId, nonce: [u8; seal::NONCE]) -> Vec<u8> {
    let mut out = head(MARK_MAGIC, vault);
    let plain = postcard::to_allocvec(mark).unwrap_or_default();
    let sealed = seal::seal_with(&mark_key(vault_key, vault), &out, &plain, nonce);
    out.extend_from_slice(&sealed);
    out
}

pub(crate) fn open_mark(vault_key: &Secret32, vault: VaultId, bytes: &[u8]) -> Result<Mark, Error> {
    let sealed = strip_head(MARK_MAGIC, vault, bytes)?;
    let head = head(MARK_MAGIC, vault);
    let plain = seal::open(&mark_key(vault_key, vault), &head, sealed).ok_or(Error::Damaged)?;
    match postcard::take_from_bytes(&plain) {
        Ok((mark, [])) => Ok(mark),
        _ => Err(Error::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Cut, Listed};

    /// Every field set, every byte chosen.
    fn keyring() -> Keyring {
        let device =
            |n| DeviceKeys::from_secrets(&DeviceSecrets { sign: [n; 32], tls: [n + 1; 32], receive: [n + 2; 32] });
        let (own, other, gone) = (device(1), device(11), device(21));
        let account = AccountKey::from_secret(&Secret32::from_bytes([4; 32]));
        let listed = |d: &DeviceKeys, role, name| Listed::new(d.public(), role, name, "me@example.org", 1_790_000_000);
        let list = DeviceList::create(&account, &own, listed(&own, Role::Full, "laptop"))
            .and_then(|list| list.with_added(&own, listed(&other, Role::Blind, "pi")))
            .and_then(|list| list.with_added(&own, listed(&gone, Role::Full, "old")))
            .and_then(|list| list.with_removed(&own, gone.id(), Cut::Lost(Vec::new())))
            .unwrap();
        let root = ShareId::from_bytes([5; 16]);
        let mut keyring = Keyring::joining(own, Role::Full, account.id(), root);
        keyring.account = Some(account);
        keyring.list = Some(list);
        let mut share = ShareKeys::new(root, Secret32::from_bytes([6; 32]));
        share.insert(Epoch(0x1_0203), Secret32::from_bytes([7; 32]));
        keyring.shares.push(share);
        keyring.incarnation = Incarnation::from_bytes([8; 8]);
        keyring.mark = Mark {
            state: MarkState::Open,
            session: 9,
            heads: vec![Head {
                share: root,
                device: keyring.device.id(),
                incarnation: keyring.incarnation,
                number: 300,
                hash: RecordHash::from_bytes([10; 32]),
            }],
        };
        keyring.login = Some(Login {
            jid: "me@example.org".into(),
            password: Zeroizing::new("password".into()),
            ca: Some("/ca.pem".into()),
            server: Some("localhost:5222".into()),
            plaintext: true,
        });
        keyring.extra.insert("name".into(), Zeroizing::new(b"value".to_vec()));
        keyring
    }

    #[test]
    fn vectors() {
        use crate::vectors::hex;
        let (vault, key) = (VaultId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]));
        let keyring = keyring();
        let sealed = keyring.seal_with(&key, vault, [3; 12]);
        let mark = seal_mark_with(&keyring.mark, &key, vault, [3; 12]);
        let made = serde_json::json!({
            "about": "vault 01.., vault key 02.., nonces 03..; the values stand in keymgr/src/keyring.rs",
            "keyring": hex(&sealed),
            "mark": hex(&mark),
            "device list": hex(&keyring.list.as_ref().unwrap().to_bytes()),
        });
        crate::vectors::check("keyring", made);
        let read = Keyring::open(&key, vault, &sealed).unwrap();
        assert_eq!(read.to_stored().to_bytes(), keyring.to_stored().to_bytes());
        assert_eq!(open_mark(&key, vault, &mark), Ok(keyring.mark));
    }

    #[test]
    fn a_keyring_larger_than_the_first_buffer_is_sealed_whole() {
        let mut keyring = keyring();
        keyring.extra.insert("large".into(), Zeroizing::new(vec![1; 200_000]));
        let (vault, key) = (VaultId::random(), Secret32::random());
        let read = Keyring::open(&key, vault, &keyring.seal(&key, vault)).unwrap();
        assert_eq!(read.extra, keyring.extra);
    }

    #[test]
    fn an_account_key_of_another_account_is_refused() {
        let mut keyring = keyring();
        keyring.account = Some(AccountKey::generate());
        let (vault, key) = (VaultId::random(), Secret32::random());
        assert_eq!(Keyring::open(&key, vault, &keyring.seal(&key, vault)).err(), Some(Error::Damaged));
    }

    #[test]
    fn a_mark_is_no_keyring_and_a_keyring_no_mark() {
        let (vault, key) = (VaultId::random(), Secret32::random());
        let mut mark = seal_mark(&Mark::first(), &key, vault);
        mark[..8].copy_from_slice(RING_MAGIC);
        assert_eq!(Keyring::open(&key, vault, &mark).err(), Some(Error::Damaged));
        let mut ring = keyring().seal(&key, vault);
        ring[..8].copy_from_slice(MARK_MAGIC);
        assert_eq!(open_mark(&key, vault, &ring), Err(Error::Damaged));
    }
}

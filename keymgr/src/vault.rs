//! A vault on the disk: `STORE/kith.toml`, and the slots and the sealed keyring in `STORE/keys/` or elsewhere.
//!
//! kith.toml is authenticated by BLAKE3 keyed with a key derived from the vault key. Its bytes are exactly what its
//! values render to, so that no byte of it can differ unseen. It is written last when a vault is made: without it
//! there is no vault, and where it is, a missing keyring or slot is an error, never a reason to make new ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::durable;
use crate::ids::{ShareId, VaultId};
use crate::keyring::{self, Keyring, Mark};
pub use crate::keyring::{Login, MarkState, Role};
use crate::secret::Secret32;
use crate::slot;
pub use crate::slot::{Cost, Slot, Unlock};

/// The version of the store's format that this program writes and reads.
pub const VERSION: u32 = 1;
const CONFIG: &str = "kith.toml";
const KEYS: &str = "keys";
const KEYRING: &str = "keyring";
const SLOT_SUFFIX: &str = ".slot";
const CONFIG_MAX: u64 = 4096;
const MARK_MAX: u64 = 16 << 20;
const MAX_SLOTS: usize = 64;

/// Why a vault is not opened, made or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: no vault here", .0.display())]
    NoVault(PathBuf),
    #[error("{}: there is a vault already", .0.display())]
    Exists(PathBuf),
    #[error("{}: keys lie here already; move them away or name another directory", .0.display())]
    KeysExist(PathBuf),
    #[error("{}: the store's format {found} is newer than this program reads ({VERSION}); use a newer kith", .path.display())]
    NewerStore { path: PathBuf, found: u64 },
    #[error("{}: changed, or not written by kith", .0.display())]
    ConfigChanged(PathBuf),
    #[error("{}: no slot; without its slots a vault cannot be opened", .0.display())]
    NoSlots(PathBuf),
    #[error("{}: no keyring; without it a vault cannot be opened", .0.display())]
    NoKeyring(PathBuf),
    #[error("{}: the passphrase or key file opens no slot", .0.display())]
    WrongKey(PathBuf),
    #[error("{}: {source}", .path.display())]
    Slot { path: PathBuf, source: slot::Error },
    #[error("{}: {source}", .path.display())]
    Sealed { path: PathBuf, source: keyring::Error },
    #[error("no such slot: {0}")]
    NoSuchSlot(String),
    #[error("the last slot stays: without one the vault could never be opened again")]
    LastSlot,
    #[error("too many slots")]
    TooManySlots,
    #[error(transparent)]
    Io(#[from] durable::Error),
}

/// An unlocked vault. The vault key zeroizes when it is dropped; no Debug.
pub struct Vault {
    store: PathBuf,
    keys: PathBuf,
    config: Config,
    key: Secret32,
}

impl Vault {
    /// Makes a vault: a first slot, the keyring, kith.toml. Nothing that exists is overwritten.
    pub fn create(
        store: &Path,
        keys: Option<&Path>,
        unlock: &Unlock,
        keyring: &Keyring,
        cost: Cost,
    ) -> Result<Self, Error> {
        let keys = keys.map_or_else(|| store.join(KEYS), Path::to_owned);
        if Self::is_vault(store) {
            return Err(Error::Exists(store.to_owned()));
        }
        if keys.join(KEYRING).exists() || !slot_paths(&keys)?.is_empty() {
            return Err(Error::KeysExist(keys));
        }
        durable::make_dir(store)?;
        durable::make_dir(&keys)?;
        let config = Config { vault: VaultId::random(), root: keyring.root, role: keyring.role };
        let vault = Self { store: store.to_owned(), keys, config, key: Secret32::random() };
        vault.add_slot("first", unlock, cost)?;
        vault.save(keyring)?;
        vault.save_config(None)?;
        Ok(vault)
    }

    /// Opens a vault and its keyring.
    pub fn open(store: &Path, keys: Option<&Path>, unlock: &Unlock) -> Result<(Self, Keyring), Error> {
        let keys = keys.map_or_else(|| store.join(KEYS), Path::to_owned);
        let path = store.join(CONFIG);
        if !Self::is_vault(store) {
            return Err(Error::NoVault(store.to_owned()));
        }
        let (config, macs) = Config::parse(&path, &durable::load(&path, CONFIG_MAX)?)?;
        let ring_path = keys.join(KEYRING);
        if !ring_path.exists() {
            return Err(Error::NoKeyring(ring_path));
        }
        let ring = durable::load(&ring_path, keyring::MAX_BYTES)?;
        // A slot left by an interrupted rotation may open with this passphrase and not be the keyring's: go on.
        let mut refused = None;
        for key in open_slots(&keys, config.vault, unlock)? {
            match Keyring::open(&key, config.vault, &ring) {
                Ok(keyring) => {
                    let mac = config.mac(&key);
                    let authentic = macs.iter().any(|have| bool::from(have.ct_eq(&mac)));
                    if !authentic || keyring.root != config.root || keyring.role != config.role {
                        return Err(Error::ConfigChanged(path));
                    }
                    return Ok((Self { store: store.to_owned(), keys, config, key }, keyring));
                }
                Err(source) => refused = Some(source),
            }
        }
        match refused {
            Some(source) => Err(Error::Sealed { path: ring_path, source }),
            None => Err(Error::WrongKey(keys)),
        }
    }

    /// Whether a vault was made here.
    pub fn is_vault(store: &Path) -> bool {
        store.join(CONFIG).symlink_metadata().is_ok()
    }

    /// Which vault is there, as kith.toml says; authenticated only once the vault is open.
    pub fn id_of(store: &Path) -> Result<VaultId, Error> {
        let path = store.join(CONFIG);
        if !Self::is_vault(store) {
            return Err(Error::NoVault(store.to_owned()));
        }
        Ok(Config::parse(&path, &durable::load(&path, CONFIG_MAX)?)?.0.vault)
    }

    pub fn id(&self) -> VaultId {
        self.config.vault
    }

    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Where slots and keyring lie.
    pub fn keys_dir(&self) -> &Path {
        &self.keys
    }

    /// Replaces the sealed keyring: durable when this returns, the old or the new one after a crash.
    pub fn save(&self, keyring: &Keyring) -> Result<(), Error> {
        Ok(durable::save(&self.keys.join(KEYRING), &keyring.seal(&self.key, self.config.vault))?)
    }

    /// The keyring as it lies on the disk now.
    pub fn load(&self) -> Result<Keyring, Error> {
        let path = self.keys.join(KEYRING);
        let bytes = durable::load(&path, keyring::MAX_BYTES)?;
        Keyring::open(&self.key, self.config.vault, &bytes).map_err(|source| Error::Sealed { path, source })
    }

    /// Writes the mark to a file outside the store, durably.
    pub fn save_mark(&self, path: &Path, mark: &Mark) -> Result<(), Error> {
        if let Some(dir) = path.parent() {
            durable::make_dir(dir)?;
        }
        Ok(durable::save(path, &keyring::seal_mark(mark, &self.key, self.config.vault))?)
    }

    /// The mark outside the store; None where none was written yet. One that is not authentic is an error: the
    /// caller treats the vault as not clean and says so.
    pub fn load_mark(&self, path: &Path) -> Result<Option<Mark>, Error> {
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let bytes = durable::load(path, MARK_MAX)?;
        keyring::open_mark(&self.key, self.config.vault, &bytes)
            .map(Some)
            .map_err(|source| Error::Sealed { path: path.to_owned(), source })
    }

    /// A key of this vault for something sealed that never leaves this device.
    pub fn derive(&self, context: &'static str) -> Secret32 {
        self.key.derive(context, &[self.config.vault.as_bytes()])
    }

    /// The slots, by id.
    pub fn slots(&self) -> Result<Vec<Slot>, Error> {
        let slots = slot_paths(&self.keys)?.into_iter().map(|path| load_slot(&path));
        let mut slots = slots.collect::<Result<Vec<_>, _>>()?;
        slots.sort_by_key(Slot::id);
        Ok(slots)
    }

    /// Adds a slot; its id.
    pub fn add_slot(&self, label: &str, unlock: &Unlock, cost: Cost) -> Result<String, Error> {
        if slot_paths(&self.keys)?.len() >= MAX_SLOTS {
            return Err(Error::TooManySlots);
        }
        let slot = Slot::seal(self.config.vault, label, unlock, cost, &self.key)
            .map_err(|source| Error::Slot { path: self.keys.clone(), source })?;
        let id = slot.id();
        durable::save(&self.slot_path(&id), &slot.to_bytes())?;
        Ok(id)
    }

    /// Removes a slot, not the last one. A copy of it made earlier still opens this vault key, until [`Vault::rotate`].
    pub fn remove_slot(&self, id: &str) -> Result<(), Error> {
        let path = self.slot_path(id);
        let paths = slot_paths(&self.keys)?;
        if !paths.contains(&path) {
            return Err(Error::NoSuchSlot(id.to_owned()));
        }
        if paths.len() < 2 {
            return Err(Error::LastSlot);
        }
        Ok(durable::remove(&path)?)
    }

    /// A new vault key, with one slot; every older slot, and every copy of one, opens nothing that is written from
    /// now on. The caller saves the mark outside the store again.
    ///
    /// The keyring's rename is what commits: before it the old slots open the old keyring, after it the new slot the
    /// new one, and kith.toml carries both keys' authentication in between.
    pub fn rotate(&self, keyring: &Keyring, label: &str, unlock: &Unlock, cost: Cost) -> Result<Self, Error> {
        let old = slot_paths(&self.keys)?;
        let next = Self {
            store: self.store.clone(),
            keys: self.keys.clone(),
            config: self.config.clone(),
            key: Secret32::random(),
        };
        next.add_slot(label, unlock, cost)?;
        next.save_config(Some(&self.key))?;
        next.save(keyring)?;
        next.save_config(None)?;
        for path in old {
            durable::remove(&path)?;
        }
        Ok(next)
    }

    fn save_config(&self, also: Option<&Secret32>) -> Result<(), Error> {
        let macs: Vec<_> = also.into_iter().chain([&self.key]).map(|key| self.config.mac(key)).collect();
        Ok(durable::save(&self.store.join(CONFIG), self.config.render(&macs).as_bytes())?)
    }

    fn slot_path(&self, id: &str) -> PathBuf {
        self.keys.join(format!("{id}{SLOT_SUFFIX}"))
    }
}

/// What kith.toml says.
#[derive(Clone)]
struct Config {
    vault: VaultId,
    root: ShareId,
    role: Role,
}

/// kith.toml's fields, no other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code)] // Checked before the rest, which a newer version may have changed.
    version: u64,
    vault: String,
    root: String,
    role: String,
    authentication: Vec<String>,
}

impl Config {
    fn parse(path: &Path, bytes: &[u8]) -> Result<(Self, Vec<[u8; 32]>), Error> {
        let changed = || Error::ConfigChanged(path.to_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| changed())?;
        let table: BTreeMap<String, toml::Value> = toml::from_str(text).map_err(|_| changed())?;
        let version = table.get("version").and_then(toml::Value::as_integer).ok_or_else(changed)?;
        match u64::try_from(version) {
            Ok(found) if found > u64::from(VERSION) => {
                return Err(Error::NewerStore { path: path.to_owned(), found });
            }
            Ok(found) if found == u64::from(VERSION) => {}
            _ => return Err(changed()),
        }
        let file: File = toml::from_str(text).map_err(|_| changed())?;
        let config = Self {
            vault: file.vault.parse().map_err(|_| changed())?,
            root: file.root.parse().map_err(|_| changed())?,
            role: match file.role.as_str() {
                "full" => Role::Full,
                "blind" => Role::Blind,
                _ => return Err(changed()),
            },
        };
        let mut macs = Vec::new();
        for text in &file.authentication {
            let mac = HEXLOWER.decode(text.as_bytes()).map_err(|_| changed())?;
            macs.push(<[u8; 32]>::try_from(mac).map_err(|_| changed())?);
        }
        // One form only: what the values do not say cannot be said.
        if macs.len() > 2 || config.render(&macs) != text {
            return Err(changed());
        }
        Ok((config, macs))
    }

    /// What is authenticated: the file up to its last line.
    fn body(&self) -> String {
        let role = match self.role {
            Role::Full => "full",
            Role::Blind => "blind",
        };
        format!(
            "# Written by kith and authenticated: a change by hand is refused.\n\
             version = {VERSION}\nvault = \"{}\"\nroot = \"{}\"\nrole = \"{role}\"\n",
            self.vault, self.root
        )
    }

    fn render(&self, macs: &[[u8; 32]]) -> String {
        let macs: Vec<_> = macs.iter().map(|mac| format!("\"{}\"", HEXLOWER.encode(mac))).collect();
        format!("{}authentication = [{}]\n", self.body(), macs.join(", "))
    }

    fn mac(&self, vault_key: &Secret32) -> [u8; 32] {
        let key = vault_key.derive("kith.v1 kith.toml", &[]);
        *blake3::keyed_hash(key.expose(), self.body().as_bytes()).as_bytes()
    }
}

/// The slot files, sorted; none where the directory is not there.
fn slot_paths(keys: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| durable::Error { path: keys.to_owned(), source };
    let dir = match std::fs::read_dir(keys) {
        Ok(dir) => dir,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(e).into()),
    };
    let mut paths = Vec::new();
    for entry in dir {
        let name = entry.map_err(io)?.file_name();
        if name.to_str().is_some_and(|n| n.ends_with(SLOT_SUFFIX) && !n.starts_with('.')) {
            paths.push(keys.join(name));
        }
    }
    paths.sort();
    Ok(paths)
}

fn load_slot(path: &Path) -> Result<Slot, Error> {
    let bytes = durable::load(path, slot::MAX_BYTES)?;
    Slot::parse(&bytes).map_err(|source| Error::Slot { path: path.to_owned(), source })
}

/// The vault keys that this passphrase or key file gives. A damaged slot does not shut out the others; where none
/// opens, it is what the error tells.
fn open_slots(keys: &Path, vault: VaultId, unlock: &Unlock) -> Result<Vec<Secret32>, Error> {
    let paths = slot_paths(keys)?;
    if paths.is_empty() {
        return Err(Error::NoSlots(keys.to_owned()));
    }
    let (mut opened, mut damaged) = (Vec::new(), None);
    for path in paths.into_iter().take(MAX_SLOTS) {
        let slot = match load_slot(&path) {
            Ok(slot) => slot,
            Err(e) => {
                damaged.get_or_insert(e);
                continue;
            }
        };
        match slot.open(vault, unlock) {
            Ok(key) => opened.push(key),
            Err(slot::Error::Wrong) => {}
            Err(source) => {
                damaged.get_or_insert(Error::Slot { path, source });
            }
        }
    }
    match (opened.is_empty(), damaged) {
        (true, Some(damaged)) => Err(damaged),
        _ => Ok(opened),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        let config =
            Config { vault: VaultId::from_bytes([1; 16]), root: ShareId::from_bytes([2; 16]), role: Role::Full };
        let text = config.render(&[config.mac(&Secret32::from_bytes([3; 32]))]);
        let (read, macs) = Config::parse(Path::new("kith.toml"), text.as_bytes()).unwrap();
        assert_eq!(macs, [read.mac(&Secret32::from_bytes([3; 32]))]);
        let made = serde_json::json!({ "about": "vault key 03..", "kith.toml": text });
        crate::vectors::check("vault", made);
    }
}

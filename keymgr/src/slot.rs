//! A slot: the vault key wrapped under a passphrase (Argon2id, RFC 9106) or a key file.
//!
//! A slot file is `kithslot`, a format version and the postcard of `Body`. Everything before the commitment is
//! bound into it and into the wrap, so that a slot of another vault or with other parameters opens nothing. The
//! commitment to the wrapping key is compared before the cipher sees anything: AES-GCM-SIV alone would let one slot
//! open under many passphrases (Len, Grubbs, Ristenpart: Partitioning Oracle Attacks, 2021).

use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::ids::VaultId;
use crate::seal;
use crate::secret::{Secret32, random_bytes};

const MAGIC: &[u8; 8] = b"kithslot";
const FORMAT: u16 = 1;
/// A slot file is some 200 bytes.
pub(crate) const MAX_BYTES: u64 = 4096;
const LABEL_MAX: usize = 64;

/// Why a slot, a cost or a way to unlock is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a kith slot, or damaged")]
    Damaged,
    #[error("the slot's format {0} is newer than this program; use a newer kith")]
    Newer(u16),
    #[error("the slot belongs to another vault")]
    OtherVault,
    #[error("Argon2id parameters outside the bounds: {0}")]
    Cost(&'static str),
    #[error("the passphrase or key file does not open this slot")]
    Wrong,
    #[error("an empty passphrase")]
    EmptyPassphrase,
    #[error("a key file holds at least 32 bytes")]
    ShortKeyFile,
    #[error("not enough memory for this slot's Argon2id: {0} MiB")]
    Memory(u32),
}

/// What opens a vault. Zeroized when dropped; no Debug.
#[derive(Clone)]
pub enum Unlock {
    /// As it was typed or read, without the line's end.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The content of a key file: at least 32 bytes that nobody can guess.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl Unlock {
    pub fn passphrase(text: &str) -> Self {
        Self::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// The content of a new key file: 32 random bytes.
    pub fn new_key_file() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(random_bytes::<32>().to_vec())
    }
}

/// The cost of Argon2id. Stored in the slot; bounded below, so that nobody makes guessing cheap, and above, so that
/// nobody makes unlocking impossible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// OWASP's least for Argon2id: 19 MiB, two passes, one lane.
    const MIN_MEMORY: u32 = 19 * 1024;
    const MIN_PASSES: u32 = 2;
    const MAX_MEMORY: u32 = 1024 * 1024;
    const MAX_PASSES: u32 = 16;
    const MAX_LANES: u32 = 4;
    /// What calibration starts from: RFC 9106's second choice, memory 64 MiB, three passes.
    const CALIBRATED_MEMORY: u32 = 64 * 1024;
    const CALIBRATED_PASSES: u32 = 3;

    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, Error> {
        let cost = Self { memory_kib, passes, lanes };
        cost.check()?;
        Ok(cost)
    }

    /// The floor. For tests, and for machines on which nothing more is possible.
    pub fn minimum() -> Self {
        Self { memory_kib: Self::MIN_MEMORY, passes: Self::MIN_PASSES, lanes: 1 }
    }

    /// What takes about half a second here: memory between 64 MiB and 1 GiB, and no more than a quarter of what
    /// this machine has.
    pub fn calibrate() -> Self {
        Self::calibrate_to(Duration::from_millis(500), physical_memory_kib())
    }

    fn calibrate_to(goal: Duration, machine_kib: Option<u64>) -> Self {
        let start = Self { memory_kib: Self::CALIBRATED_MEMORY, passes: Self::CALIBRATED_PASSES, lanes: 1 };
        let begun = Instant::now();
        // A measurement: its result is thrown away, its failure means that memory is short.
        if start.hash(b"calibration", &[0; 16]).is_err() {
            return Self::minimum();
        }
        start.scaled(begun.elapsed(), goal, machine_kib)
    }

    /// `self` took `took`; time grows with the memory.
    fn scaled(self, took: Duration, goal: Duration, machine_kib: Option<u64>) -> Self {
        let most = machine_kib.map_or(Self::MAX_MEMORY, |kib| u32::try_from(kib / 4).unwrap_or(u32::MAX));
        let most = most.clamp(Self::MIN_MEMORY, Self::MAX_MEMORY);
        let factor = goal.as_secs_f64() / took.as_secs_f64().max(0.001);
        let scaled = (f64::from(self.memory_kib) * factor) as u32;
        // Whole 16 MiB: the figures in a slot then do not tell one run's jitter.
        let memory_kib = (scaled / 16_384 * 16_384).max(Self::CALIBRATED_MEMORY).min(most);
        Self { memory_kib, ..self }
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            c if c.memory_kib < Self::MIN_MEMORY => Err(Error::Cost("less than 19 MiB of memory")),
            c if c.memory_kib > Self::MAX_MEMORY => Err(Error::Cost("more than 1 GiB of memory")),
            c if c.passes < Self::MIN_PASSES => Err(Error::Cost("less than two passes")),
            c if c.passes > Self::MAX_PASSES => Err(Error::Cost("more than 16 passes")),
            c if c.lanes < 1 => Err(Error::Cost("no lane")),
            c if c.lanes > Self::MAX_LANES => Err(Error::Cost("more than four lanes")),
            _ => Ok(()),
        }
    }

    fn hash(&self, secret: &[u8], salt: &[u8; 16]) -> Result<Secret32, Error> {
        self.check()?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| Error::Cost("not accepted by Argon2id"))?;
        let count = params.block_count();
        let no_memory = || Error::Memory(self.memory_kib / 1024);
        let mut blocks: Vec<Block> = Vec::new();
        blocks.try_reserve_exact(count).map_err(|_| no_memory())?;
        blocks.resize(count, Block::default());
        let mut out = [0; 32];
        let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
            secret,
            salt,
            &mut out,
            &mut blocks,
        );
        // The first blocks alone give the result away to whoever finds them in a core dump.
        blocks.iter_mut().for_each(Zeroize::zeroize);
        let key = Secret32::from_bytes(out);
        out.zeroize();
        hashed.map_err(|_| no_memory())?;
        Ok(key)
    }
}

/// /proc/meminfo's MemTotal.
fn physical_memory_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How a slot's wrapping key is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    Passphrase(Cost),
    KeyFile,
}

/// The clear part: bound into the commitment and the wrap.
#[derive(Clone, Serialize, Deserialize)]
struct Head {
    vault: VaultId,
    id: [u8; 8],
    label: String,
    kind: Kind,
    salt: [u8; 16],
}

#[derive(Clone, Serialize, Deserialize)]
struct Body {
    head: Head,
    commitment: [u8; 32],
    /// nonce, the vault key, tag.
    wrapped: Vec<u8>,
}

/// A slot as it lies on the disk; nothing in it is secret by itself.
#[derive(Clone)]
pub struct Slot(Body);

impl Slot {
    pub(crate) fn seal(
        vault: VaultId,
        label: &str,
        unlock: &Unlock,
        cost: Cost,
        vault_key: &Secret32,
    ) -> Result<Self, Error> {
        let kind = match unlock {
            Unlock::Passphrase(p) if p.is_empty() => return Err(Error::EmptyPassphrase),
            Unlock::Passphrase(_) => Kind::Passphrase(cost),
            Unlock::KeyFile(_) => Kind::KeyFile,
        };
        let label: String = label.chars().filter(|c| !c.is_control()).take(LABEL_MAX / 4).collect();
        let head = Head { vault, id: random_bytes(), label, kind, salt: random_bytes() };
        Self::seal_head(head, unlock, vault_key, random_bytes())
    }

    fn seal_head(head: Head, unlock: &Unlock, vault_key: &Secret32, nonce: [u8; seal::NONCE]) -> Result<Self, Error> {
        let bytes = head.bytes();
        let key = head.wrapping_key(unlock)?.ok_or(Error::Wrong)?;
        let commitment = commitment(&key, &bytes);
        let wrapped = seal::seal_with(&wrap_key(&key, &bytes), &bytes, vault_key.expose(), nonce);
        Ok(Self(Body { head, commitment, wrapped }))
    }

    /// The vault key. [`Error::Wrong`] where this is not the slot's passphrase or key file.
    pub(crate) fn open(&self, vault: VaultId, unlock: &Unlock) -> Result<Secret32, Error> {
        let Body { head, commitment: committed, wrapped } = &self.0;
        if head.vault != vault {
            return Err(Error::OtherVault);
        }
        let bytes = head.bytes();
        let key = head.wrapping_key(unlock)?.ok_or(Error::Wrong)?;
        if !bool::from(commitment(&key, &bytes).ct_eq(committed)) {
            return Err(Error::Wrong);
        }
        let plain = seal::open(&wrap_key(&key, &bytes), &bytes, wrapped).ok_or(Error::Damaged)?;
        let bytes: &[u8; 32] = plain.as_slice().try_into().map_err(|_| Error::Damaged)?;
        Ok(Secret32::from_bytes(*bytes))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&FORMAT.to_le_bytes());
        // Serialising plain values into a vector does not fail.
        out.extend_from_slice(&postcard::to_allocvec(&self.0).unwrap_or_default());
        out
    }

    /// Strict: every parameter inside its bounds, the one encoding of what it holds.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Error::Damaged)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(Error::Damaged)?;
        match u16::from_le_bytes(*version) {
            FORMAT => {}
            0 => return Err(Error::Damaged),
            newer => return Err(Error::Newer(newer)),
        }
        let slot = Self(postcard::from_bytes(rest).map_err(|_| Error::Damaged)?);
        if slot.0.head.label.len() > LABEL_MAX || slot.to_bytes() != bytes {
            return Err(Error::Damaged);
        }
        if let Kind::Passphrase(cost) = slot.0.head.kind {
            cost.check()?;
        }
        Ok(slot)
    }

    /// Eight bytes in hex: what `kith key remove` takes.
    pub fn id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0.head.id)
    }

    pub fn label(&self) -> &str {
        &self.0.head.label
    }

    pub fn kind(&self) -> Kind {
        self.0.head.kind
    }
}

impl Head {
    fn bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// None where the slot is of the other kind.
    fn wrapping_key(&self, unlock: &Unlock) -> Result<Option<Secret32>, Error> {
        match (self.kind, unlock) {
            (Kind::Passphrase(cost), Unlock::Passphrase(passphrase)) => cost.hash(passphrase, &self.salt).map(Some),
            (Kind::KeyFile, Unlock::KeyFile(content)) => {
                if content.len() < 32 {
                    return Err(Error::ShortKeyFile);
                }
                let mut hasher = blake3::Hasher::new_derive_key("kith.v1 key file");
                hasher.update(content);
                hasher.update(&self.salt);
                let key = Secret32::from_bytes(*hasher.finalize().as_bytes());
                hasher.zeroize();
                Ok(Some(key))
            }
            _ => Ok(None),
        }
    }
}

fn commitment(key: &Secret32, head: &[u8]) -> [u8; 32] {
    *key.derive("kith.v1 slot commitment", &[head]).expose()
}

fn wrap_key(key: &Secret32, head: &[u8]) -> Secret32 {
    key.derive("kith.v1 slot wrap", &[head])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(kind: Kind) -> Slot {
        let head = Head { vault: VaultId::from_bytes([1; 16]), id: [2; 8], label: "x".into(), kind, salt: [3; 16] };
        let unlock = match kind {
            Kind::Passphrase(_) => Unlock::passphrase("right"),
            Kind::KeyFile => Unlock::KeyFile(Zeroizing::new(vec![9; 40])),
        };
        Slot::seal_head(head, &unlock, &Secret32::from_bytes([4; 32]), [5; 12]).unwrap()
    }

    #[test]
    fn s10_parameters_outside_the_bounds_are_refused_before_any_hashing() {
        for (memory_kib, passes, lanes) in [
            (8, 2, 1),
            (19 * 1024 - 1, 2, 1),
            (19 * 1024, 1, 1),
            (19 * 1024, 0, 1),
            (1024 * 1024 + 1, 2, 1),
            (u32::MAX, 2, 1),
            (19 * 1024, 17, 1),
            (19 * 1024, u32::MAX, 1),
            (19 * 1024, 2, 0),
            (19 * 1024, 2, 5),
        ] {
            assert!(matches!(Cost::new(memory_kib, passes, lanes), Err(Error::Cost(_))));
            let mut slot = sealed(Kind::KeyFile);
            slot.0.head.kind = Kind::Passphrase(Cost { memory_kib, passes, lanes });
            assert!(matches!(Slot::parse(&slot.to_bytes()), Err(Error::Cost(_))), "{memory_kib} {passes} {lanes}");
            assert!(matches!(slot.open(slot.0.head.vault, &Unlock::passphrase("x")), Err(Error::Cost(_))));
        }
        assert!(Cost::new(1024 * 1024, 16, 4).is_ok());
    }

    #[test]
    fn s10_a_slot_opens_with_its_own_parameters_only() {
        let slot = sealed(Kind::Passphrase(Cost::minimum()));
        let right = Unlock::passphrase("right");
        let vault = slot.0.head.vault;
        assert!(slot.open(vault, &right).unwrap() == Secret32::from_bytes([4; 32]));
        let mut cheaper = slot.clone();
        cheaper.0.head.kind = Kind::Passphrase(Cost::new(19 * 1024, 3, 1).unwrap());
        assert_eq!(cheaper.open(vault, &right).err(), Some(Error::Wrong));
        assert_eq!(slot.open(vault, &Unlock::passphrase("Right")).err(), Some(Error::Wrong));
        assert_eq!(slot.open(VaultId::random(), &right).err(), Some(Error::OtherVault));
    }

    #[test]
    fn s10_a_wrap_that_two_keys_open_is_refused_by_the_commitment() {
        // Whoever makes a slot by hand may make the wrap fit any key; the commitment fits one.
        let mut slot = sealed(Kind::KeyFile);
        let other = Unlock::KeyFile(Zeroizing::new(vec![8; 40]));
        let bytes = slot.0.head.bytes();
        let key = slot.0.head.wrapping_key(&other).unwrap().unwrap();
        slot.0.wrapped = seal::seal(&wrap_key(&key, &bytes), &bytes, &[6; 32]);
        let vault = slot.0.head.vault;
        assert_eq!(slot.open(vault, &other).err(), Some(Error::Wrong));
        let own = Unlock::KeyFile(Zeroizing::new(vec![9; 40]));
        assert_eq!(slot.open(vault, &own).err(), Some(Error::Damaged));
    }

    #[test]
    fn only_one_encoding_of_a_slot_is_read() {
        let slot = sealed(Kind::KeyFile);
        let bytes = slot.to_bytes();
        assert_eq!(Slot::parse(&bytes).map(|s| s.id()), Ok("0202020202020202".into()));
        for cut in 0..bytes.len() {
            assert!(Slot::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Slot::parse(&[&bytes[..], &[0]].concat()).err(), Some(Error::Damaged));
    }

    #[test]
    fn what_nobody_should_use_is_refused() {
        let seal = |unlock| Slot::seal(VaultId::random(), "", &unlock, Cost::minimum(), &Secret32::random()).err();
        assert_eq!(seal(Unlock::passphrase("")), Some(Error::EmptyPassphrase));
        assert_eq!(seal(Unlock::KeyFile(Zeroizing::new(vec![0; 31]))), Some(Error::ShortKeyFile));
        assert_eq!(seal(Unlock::KeyFile(Unlock::new_key_file())), None);
    }

    #[test]
    fn calibration_stays_between_its_bounds_whatever_the_machine() {
        let start = Cost::new(64 * 1024, 3, 1).unwrap();
        let goal = Duration::from_millis(500);
        let gib = |n: u64| Some(n << 20);
        let scaled = |took, machine| start.scaled(Duration::from_millis(took), goal, machine).memory_kib / 1024;
        assert_eq!(scaled(100, gib(16)), 320);
        assert_eq!(scaled(1, gib(64)), 1024, "the cap");
        assert_eq!(scaled(100_000, gib(16)), 64, "no less on a slow machine");
        assert_eq!(scaled(100, gib(1)), 256, "a quarter of the machine");
        assert_eq!(scaled(0, Some(1)), 19, "the floor, however little there is");
        assert_eq!(scaled(100, None), 320);
    }

    #[test]
    fn vectors() {
        use crate::vectors::hex;
        let passphrase = sealed(Kind::Passphrase(Cost::minimum()));
        let key_file = sealed(Kind::KeyFile);
        let with = |memory_kib, passes, lanes| {
            let mut bad = passphrase.clone();
            bad.0.head.kind = Kind::Passphrase(Cost { memory_kib, passes, lanes });
            hex(&bad.to_bytes())
        };
        let mut uncommitted = key_file.clone();
        uncommitted.0.commitment = [0; 32];
        let newer = hex(&[&MAGIC[..], &[2, 0], &key_file.to_bytes()[10..]].concat());
        let made = serde_json::json!({
            "about": "vault 01.., slot id 02.., salt 03.., vault key 04.., nonce 05..; passphrase 'right' at 19 MiB, \
                      two passes, one lane; key file 40 bytes 09",
            "passphrase": hex(&passphrase.to_bytes()),
            "key file": hex(&key_file.to_bytes()),
            "refused": {
                "8 KiB of memory": with(8, 2, 1),
                "4 TiB of memory": with(u32::MAX, 2, 1),
                "one pass": with(19 * 1024, 1, 1),
                "2^32 - 1 passes": with(19 * 1024, u32::MAX, 1),
                "commitment of zeros": hex(&uncommitted.to_bytes()),
                "newer": newer,
            },
        });
        for (what, bytes) in made["refused"].as_object().unwrap() {
            let bytes = data_encoding::HEXLOWER.decode(bytes.as_str().unwrap().as_bytes()).unwrap();
            let unlock = Unlock::KeyFile(Zeroizing::new(vec![9; 40]));
            let opened = Slot::parse(&bytes).and_then(|slot| slot.open(VaultId::from_bytes([1; 16]), &unlock));
            assert!(opened.is_err(), "{what}");
        }
        crate::vectors::check("slot", made);
    }
}

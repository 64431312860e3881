//! The account key: it names the admins of the device list, and beats whatever they sign. It is the recovery
//! sheet's; until the sheet is printed it lies in the first keyring.

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, Zeroizing};

use crate::device::{self, DeviceKeys, DeviceSecrets, Domain, Signature};
pub use crate::ids::AccountId;
use crate::secret::{Secret32, random_bytes};

/// Why the words of a recovery sheet are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadWords {
    #[error("a recovery sheet has 24 words, not {0}")]
    Count(usize),
    #[error("word {0} is on no recovery sheet; look for a slip of the pen")]
    Unknown(usize),
    #[error("the words are no recovery sheet: one of them is wrong, or two are swapped")]
    Checksum,
}

/// The account's secret key; it zeroizes when dropped. No Debug.
#[derive(Clone)]
pub struct AccountKey(SigningKey);

impl AccountKey {
    pub fn generate() -> Self {
        let mut seed = random_bytes();
        let key = Self(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// From the 32 bytes of a recovery sheet.
    pub fn from_secret(secret: &Secret32) -> Self {
        Self(SigningKey::from_bytes(secret.expose()))
    }

    /// The 32 bytes that a recovery sheet carries.
    pub fn secret(&self) -> Secret32 {
        Secret32::from_bytes(*self.0.as_bytes())
    }

    /// The recovery sheet: 24 English words, the 32 bytes and a checksum (BIP-39's encoding, not its seed).
    pub fn words(&self) -> Zeroizing<String> {
        let secret = self.secret();
        let mut words = Zeroizing::new(String::with_capacity(24 * 9));
        // 32 bytes are an entropy that BIP-39 knows; an empty text would be refused by `from_words`.
        if let Ok(mnemonic) = bip39::Mnemonic::from_entropy(secret.expose()) {
            for word in mnemonic.words() {
                if !words.is_empty() {
                    words.push(' ');
                }
                words.push_str(word);
            }
        }
        words
    }

    /// From the words of a recovery sheet, in whatever case and spacing they were typed.
    pub fn from_words(text: &str) -> Result<Self, BadWords> {
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        for word in text.split_ascii_whitespace() {
            if !plain.is_empty() {
                plain.push(' ');
            }
            plain.extend(word.chars().map(|c| c.to_ascii_lowercase()));
        }
        let mnemonic = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &plain).map_err(|e| match e {
            bip39::Error::BadWordCount(count) => BadWords::Count(count),
            bip39::Error::UnknownWord(index) => BadWords::Unknown(index + 1),
            _ => BadWords::Checksum,
        })?;
        let (mut entropy, length) = mnemonic.to_entropy_array();
        let secret = entropy.first_chunk::<32>().filter(|_| length == 32).map(|bytes| Secret32::from_bytes(*bytes));
        entropy.zeroize();
        secret.map(|secret| Self::from_secret(&secret)).ok_or(BadWords::Count(length * 3 / 4))
    }

    /// The recovery sheet as a device of the account: epoch keys are wrapped for it, so that the words and the store of
    /// a blind device are enough to read everything. It signs nothing.
    pub fn sheet(&self) -> DeviceKeys {
        let secret = self.secret();
        let seed = |context| *secret.derive(context, &[]).expose();
        DeviceKeys::from_secrets(&DeviceSecrets {
            sign: seed("kith.v1 recovery sheet signing"),
            tls: seed("kith.v1 recovery sheet tls"),
            receive: seed("kith.v1 recovery sheet receiving"),
        })
    }

    pub fn id(&self) -> AccountId {
        AccountId::from_bytes(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        device::sign_with(&self.0, domain, bytes)
    }
}

/// Whether the account key signed these bytes for this domain.
pub fn verify(account: &AccountId, domain: Domain, bytes: &[u8], sig: &Signature) -> bool {
    device::verify_key(account.as_bytes(), domain, bytes, sig)
}

impl AccountId {
    /// What two people compare: 40 digits in groups of five, some 132 bits of a hash of the account key. Nobody finds
    /// a second key with the same digits; both sides compare both numbers.
    pub fn safety_number(&self) -> String {
        let mut bytes = [0u8; 64];
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 safety number");
        hasher.update(self.as_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        let groups: Vec<String> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| format!("{:05}", u64::from_le_bytes(*chunk) % 100_000))
            .collect();
        groups.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_safety_number_is_forty_digits_of_this_account() {
        let (a, b) = (AccountKey::generate().id(), AccountKey::generate().id());
        assert_eq!(a.safety_number().chars().filter(char::is_ascii_digit).count(), 40);
        assert_eq!(a.safety_number().split(' ').count(), 8);
        assert_ne!(a.safety_number(), b.safety_number());
    }

    #[test]
    fn a_sheet_of_words_is_read_back_and_a_wrong_one_refused() {
        let key = AccountKey::generate();
        let words = key.words();
        assert_eq!(words.split(' ').count(), 24);
        let typed = words.to_uppercase().replace(' ', "  \n");
        assert_eq!(AccountKey::from_words(&typed).map(|k| k.id()), Ok(key.id()));
        assert_eq!(AccountKey::from_words("").map(|k| k.id()), Err(BadWords::Count(0)));
        let twelve = "abandon ".repeat(11) + "about";
        assert_eq!(AccountKey::from_words(&twelve).map(|k| k.id()), Err(BadWords::Count(12)));
        let unknown = words.replacen(words.split(' ').next().unwrap(), "kith", 1);
        assert_eq!(AccountKey::from_words(&unknown).map(|k| k.id()), Err(BadWords::Unknown(1)));
        let zeros = "abandon ".repeat(24);
        assert_eq!(AccountKey::from_words(&zeros).map(|k| k.id()), Err(BadWords::Checksum));
    }

    #[test]
    fn the_account_comes_back_from_the_sheet() {
        let key = AccountKey::generate();
        let again = AccountKey::from_secret(&key.secret());
        assert_eq!(again.id(), key.id());
        assert!(verify(&key.id(), Domain::Naming, b"x", &again.sign(Domain::Naming, b"x")));
    }

    #[test]
    fn vectors() {
        let key = AccountKey::from_secret(&Secret32::from_bytes([4; 32]));
        let made = serde_json::json!({
            "about": "secret 04..",
            "id": key.id().to_string(),
            "words": key.words().as_str(),
            "safety number": key.id().safety_number(),
        });
        crate::vectors::check("account", made);
    }
}

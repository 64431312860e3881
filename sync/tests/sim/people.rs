//! Accounts in a simulated share: the owner's devices let others in, change what they may, and remove them; words of
//! that spread as devices meet, and each device judges by what it has heard.

use std::collections::BTreeSet;
use std::sync::Arc;

use keymgr::ids::DeviceId;

use super::rng::Rng;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    Writer,
    Reader,
    Blind,
}

/// What the owner said of an account. The greatest revision counts; a removal is for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Word {
    In { account: usize, revision: u64, access: Access },
    Out { account: usize },
}

/// Which account each device belongs to, and whether it is a blind one.
pub type Devices = Arc<Vec<(usize, bool)>>;

#[derive(Clone)]
pub struct View {
    devices: Devices,
    words: BTreeSet<Word>,
}

impl View {
    /// One account, to which all belong.
    pub fn alone(blind: &[bool]) -> Self {
        Self { devices: Arc::new(blind.iter().map(|b| (0, *b)).collect()), words: BTreeSet::new() }
    }

    /// Several accounts: the first device is the owner's.
    pub fn several(rng: &mut Rng, blind: &[bool]) -> Self {
        let accounts = 2 + rng.below(3);
        let account = |n: usize, rng: &mut Rng| if n == 0 { 0 } else { rng.below(accounts) };
        let devices: Vec<(usize, bool)> = blind.iter().enumerate().map(|(n, b)| (account(n, rng), *b)).collect();
        let mut view = Self { devices: Arc::new(devices), words: BTreeSet::new() };
        for account in 1..accounts {
            if rng.chance(70) {
                let access = [Access::Writer, Access::Writer, Access::Reader, Access::Blind][rng.below(4)];
                view.words.insert(Word::In { account, revision: 1, access });
            }
        }
        view
    }

    pub fn of(&self, device: &DeviceId) -> Option<Access> {
        let (account, blind) = *self.devices.get(usize::from(device.as_bytes()[0]).checked_sub(1)?)?;
        let access = self.account(account)?;
        Some(if blind { Access::Blind } else { access })
    }

    fn account(&self, account: usize) -> Option<Access> {
        if account == 0 {
            return Some(Access::Writer);
        }
        if self.words.contains(&Word::Out { account }) {
            return None;
        }
        let of = |w: &Word| match w {
            Word::In { account: a, revision, access } if *a == account => Some((*revision, *access)),
            _ => None,
        };
        self.words.iter().filter_map(of).max().map(|(_, access)| access)
    }

    pub fn may_write(&self, device: &DeviceId) -> bool {
        self.of(device) == Some(Access::Writer)
    }

    /// Whether there was ever a word that lets it write.
    pub fn ever_wrote(&self, device: &DeviceId) -> bool {
        let (account, blind) = self.devices[usize::from(device.as_bytes()[0]) - 1];
        let writer = |w: &Word| matches!(w, Word::In { account: a, access: Access::Writer, .. } if *a == account);
        !blind && (account == 0 || self.words.iter().any(writer))
    }

    pub fn is_owner(&self, n: usize) -> bool {
        self.devices[n].0 == 0
    }

    /// Whether anything was news.
    pub fn hear(&mut self, other: &View) -> bool {
        let before = self.words.len();
        self.words.extend(other.words.iter().copied());
        self.words.len() != before
    }

    /// The owner lets an account in, lets it do less or more, or removes it.
    pub fn change(&mut self, rng: &mut Rng) -> Option<Word> {
        let accounts: BTreeSet<usize> = self.devices.iter().map(|(account, _)| *account).filter(|a| *a > 0).collect();
        let accounts: Vec<usize> = accounts.into_iter().collect();
        let account = *rng.pick(&accounts)?;
        let revision = self.words.len() as u64 + 2;
        let word = match rng.below(3) {
            0 if self.account(account).is_some() => Word::Out { account },
            _ => {
                let access = [Access::Writer, Access::Reader, Access::Blind][rng.below(3)];
                Word::In { account, revision, access }
            }
        };
        self.words.insert(word);
        Some(word)
    }

    /// Those with a seat.
    pub fn seats(&self) -> Vec<DeviceId> {
        let all = (0..self.devices.len()).map(|n| DeviceId::from_bytes([n as u8 + 1; 32]));
        all.filter(|device| self.of(device).is_some()).collect()
    }
}

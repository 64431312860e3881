//! POSIX ACLs: kept as the extended attributes that the kernel speaks of them in, and always in step with the mode.
//! The kernel reads them to decide who may do what; what they do to modes, and that folders hand them down, is ours.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::tree::Tree;
use super::{Inner, attrs};
use crate::store::File;

pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 1;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An access control list as the kernel writes it: entries in order, of which it has seen that they are whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let entries = raw.strip_prefix(&VERSION)?;
        let (entries, rest) = entries.as_chunks::<8>();
        let parse = |&[t0, t1, p0, p1, id @ ..]: &[u8; 8]| Entry {
            tag: u16::from_le_bytes([t0, t1]),
            perm: u16::from_le_bytes([p0, p1]) & 7,
            id: u32::from_le_bytes(id),
        };
        let acl = Self(entries.iter().map(parse).collect());
        let whole = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| acl.0.iter().filter(|e| e.tag == *tag).count() == 1);
        (rest.is_empty() && whole).then_some(acl)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_vec();
        for entry in &self.0 {
            out.extend_from_slice(&entry.tag.to_le_bytes());
            out.extend_from_slice(&entry.perm.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    /// Whether it says more than nine bits of mode can.
    pub fn says_more(&self) -> bool {
        self.0.len() > 3
    }

    /// The nine bits of mode that it stands for: those of the group are the most that any but owner and others have.
    pub fn mode(&self) -> u32 {
        let perm = |tag| u32::from(self.0.iter().find(|e| e.tag == tag).map_or(0, |e| e.perm));
        perm(USER_OBJ) << 6 | perm(self.class()) << 3 | perm(OTHER)
    }

    pub fn set_mode(&mut self, mode: u32) {
        let class = self.class();
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => entry.perm = (mode >> 6 & 7) as u16,
                OTHER => entry.perm = (mode & 7) as u16,
                tag if tag == class => entry.perm = (mode >> 3 & 7) as u16,
                _ => {}
            }
        }
    }

    fn class(&self) -> u16 {
        if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
    }
}

/// What setting the attribute `name` to `value` comes to: what is kept, and the mode's nine bits.
pub(crate) fn set<'a>(name: &[u8], value: Option<&'a [u8]>) -> Result<(Option<&'a [u8]>, Option<u32>)> {
    match value {
        Some(raw) if name == ACCESS || name == DEFAULT => {
            let acl = Acl::parse(raw).ok_or(Error::Errno(libc::EINVAL))?;
            if name == DEFAULT {
                return Ok((value, None));
            }
            Ok((value.filter(|_| acl.says_more()), Some(acl.mode())))
        }
        _ => Ok((value, None)),
    }
}

/// What the access list of something becomes with a new mode. `None`: there is none that says more.
pub(crate) fn after_chmod(xattrs: &Xattrs, mode: u32) -> Option<Vec<u8>> {
    let mut acl = Acl::parse(xattrs.get(ACCESS)?)?;
    acl.set_mode(mode);
    Some(acl.to_bytes())
}

impl Inner {
    /// The mode of something new in a folder, and what it inherits: where the folder says so, that counts and not the
    /// caller's umask.
    pub fn inherited(
        &self,
        tree: &mut Tree,
        parent: u64,
        folder: bool,
        mode: u32,
        umask: u32,
    ) -> Result<(u32, Xattrs)> {
        let default = self.folder_xattrs(tree, parent)?.get(DEFAULT).cloned();
        let Some((raw, mut acl)) = default.and_then(|raw| Acl::parse(&raw).map(|acl| (raw, acl))) else {
            return Ok((mode & !umask, Xattrs::new()));
        };
        acl.set_mode(acl.mode() & mode);
        let mode = mode & !0o777 | acl.mode();
        let mut xattrs = Xattrs::new();
        if acl.says_more() {
            xattrs.insert(ACCESS.to_vec(), acl.to_bytes());
        }
        if folder {
            xattrs.insert(DEFAULT.to_vec(), raw);
        }
        Ok((mode, xattrs))
    }

    pub fn write_inherited(&self, file: &dyn File, id: &[u8; 16], xattrs: &Xattrs) -> std::io::Result<()> {
        xattrs.iter().try_for_each(|(name, value)| attrs::write_xattr(file, &self.keys(), id, name, Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    #[test]
    fn a_mode_is_the_owners_the_masks_and_the_others() {
        let mut with = acl(&[(1, 7, !0), (2, 6, 1000), (4, 5, !0), (16, 6, !0), (32, 4, !0)]);
        assert_eq!(Acl::parse(&with.to_bytes()), Some(with.clone()));
        assert!(with.says_more());
        assert_eq!(with.mode(), 0o764);
        with.set_mode(0o640);
        assert_eq!(with, acl(&[(1, 6, !0), (2, 6, 1000), (4, 5, !0), (16, 4, !0), (32, 0, !0)]));
        let plain = acl(&[(1, 7, !0), (4, 5, !0), (32, 4, !0)]);
        assert!(!plain.says_more());
        assert_eq!(plain.mode(), 0o754);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let good = acl(&[(1, 7, !0), (4, 5, !0), (32, 4, !0)]).to_bytes();
        for bad in [&good[..good.len() - 1], &good[..4], &good[..12], &[][..], &good[1..]] {
            assert_eq!(Acl::parse(bad), None);
        }
    }
}

//! Reading: pages opened in runs, each read from the disk once, verified against the record before its first use.

use keymgr::root::GROUP;

use super::{Content, Error, Scratch};
use crate::format::length::{capacity, page_of, start};
use crate::format::page::{self, Clear, OVERHEAD};
use crate::format::{PAGE, Refused};

/// How many pages are read in one go.
const RUN: u64 = 256;

/// Ciphertext in memory: the bytes from `from` on.
pub(super) struct Raw {
    pub from: u64,
    pub bytes: Scratch,
}

impl Raw {
    /// The sealed part of page `page`.
    fn body(&mut self, page: u64) -> Option<&mut [u8]> {
        let at = usize::try_from((page * PAGE as u64).checked_sub(self.from)?).ok()?;
        self.bytes.get_mut(at + page::body_start(page)..at + PAGE)
    }
}

impl Content {
    /// Fills `out` from byte `offset` on as far as the file goes; how far is what comes back.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<usize, Error> {
        let end = self.size().min(offset.saturating_add(out.len() as u64));
        let mut at = offset;
        while at < end {
            let first = page_of(at);
            let last = page_of(end - 1).min(first + RUN - 1);
            let stop = end.min(start(last + 1));
            let mut raw = self.load(first * PAGE as u64, (last + 1) * PAGE as u64)?;
            for page in first..=last {
                let (from, to) = (at.max(start(page)), stop.min(start(page + 1)));
                let target = out.get_mut((from - offset) as usize..(to - offset) as usize).unwrap_or_default();
                let body = raw.body(page).ok_or_else(|| self.refused(page, Refused::Layout))?;
                let payload = self.open_page(page, body)?;
                copy_zero_padded(payload.get((from - start(page)) as usize..).unwrap_or_default(), target);
            }
            at = stop;
        }
        Ok(end.saturating_sub(offset) as usize)
    }

    /// The whole content, which is at most `most` bytes: a symlink's target.
    pub fn read_all(&self, most: u64) -> Result<Vec<u8>, Error> {
        let size = self.size();
        if size > most {
            return Err(Error::TooLarge { path: self.path.clone() });
        }
        let mut out = vec![0; size as usize];
        self.read_at(&mut out, 0)?;
        Ok(out)
    }

    /// Where data begins at or after `offset`. `None`: only a hole follows, or nothing.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>, Error> {
        if offset >= self.size() {
            return Ok(None);
        }
        let mut page = page_of(offset);
        if page == 0 {
            if self.clear(0)?.is_some() {
                return Ok(Some(offset));
            }
            page = 1;
        }
        let found = self.file.seek_data(page * PAGE as u64).map_err(|e| self.io(e))?;
        // A copying tool will never read the hole that it is told of here: this is where it is verified.
        let until = found.unwrap_or(self.length).min(self.length);
        self.verify(group_of(page * PAGE as u64)..group_of(until.saturating_sub(1)).saturating_add(1))?;
        // What lies past the last page is the hole that tells the length, or a piece of a lost page.
        Ok(found.map(|at| start(at / PAGE as u64).max(offset)).filter(|at| *at < self.size()))
    }

    /// Where a hole begins at or after `offset`, the end of the file at the latest. `None`: `offset` is past the end.
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>, Error> {
        if offset >= self.size() {
            return Ok(None);
        }
        let page = page_of(offset);
        if page == 0 && self.clear(0)?.is_none() {
            return Ok(Some(offset));
        }
        let at = self.file.seek_hole(page.max(1) * PAGE as u64).map_err(|e| self.io(e))?;
        Ok(Some(start(at.div_ceil(PAGE as u64)).clamp(offset, self.size())))
    }

    /// Bytes of the ciphertext, at least from `from` to `to`, verified where the record tells what they must be.
    /// Past the end they are zeros.
    pub(super) fn load(&self, from: u64, to: u64) -> Result<Raw, Error> {
        let Some(guard) = &self.guard else { return self.load_unverified(from, to) };
        let mut guard = guard.lock();
        let groups = guard.unseen(from, to);
        if groups.is_empty() {
            drop(guard);
            return self.load_unverified(from, to);
        }
        let (from, to) = (from.min(groups.start()), to.max(groups.end()));
        let raw = self.load_unverified(from, to)?;
        guard.check(self, groups, &raw)?;
        Ok(raw)
    }

    pub(super) fn load_unverified(&self, from: u64, to: u64) -> Result<Raw, Error> {
        let len = usize::try_from(to - from).map_err(|_| Error::TooLarge { path: self.path.clone() })?;
        let mut bytes = Scratch::new(len);
        // Not past the end: the disk would be asked once more where it lies.
        let there = usize::try_from(self.length.saturating_sub(from)).unwrap_or(usize::MAX).min(len);
        let got = self.file.read_at(bytes.get_mut(..there).unwrap_or_default(), from).map_err(|e| self.io(e))?;
        bytes.get_mut(got..).unwrap_or_default().fill(0);
        Ok(Raw { from, bytes })
    }

    /// What page `page` says in the clear; unproven.
    pub(super) fn clear(&self, page: u64) -> Result<Option<Clear>, Error> {
        let at = page * PAGE as u64 + page::body_start(page) as u64;
        let raw = self.load(at, at + OVERHEAD as u64)?;
        let head = raw.bytes.get((at - raw.from) as usize..).unwrap_or_default();
        Clear::parse(page, head).map_err(|why| self.refused(page, why))
    }

    /// Page `page`, opened, its payload only: shorter than what the page can hold where zeros follow.
    pub(super) fn payload(&self, page: u64) -> Result<Vec<u8>, Error> {
        let at = page * PAGE as u64;
        let mut raw = self.load(at, at + PAGE as u64)?;
        let body = raw.body(page).ok_or_else(|| self.refused(page, Refused::Layout))?;
        Ok(self.open_page(page, body)?.to_vec())
    }

    /// Opens the sealed part of a page in place: its payload, empty for a hole.
    fn open_page<'a>(&self, page: u64, body: &'a mut [u8]) -> Result<&'a [u8], Error> {
        let refused = |why| self.refused(page, why);
        let Some(clear) = Clear::parse(page, body).map_err(refused)? else {
            // The clear part of a hole is zeros; so must be the rest.
            return if page::is_hole(body) { Ok(&[]) } else { Err(refused(Refused::Layout)) };
        };
        let mut ciphers = self.ciphers.tagged(clear.epoch, &self.header).peekable();
        let mut result = Err(Refused::NoKey);
        while let Some(cipher) = ciphers.next() {
            let spare = ciphers.peek().map(|_| body.to_vec());
            result = page::open(cipher, &self.header.lineage, page, &clear, body);
            match (&result, spare) {
                (Err(_), Some(spare)) => body.copy_from_slice(&spare),
                _ => break,
            }
        }
        result.map_err(refused)?;
        let payload = body.get(OVERHEAD..OVERHEAD + clear.payload.min(capacity(page)));
        payload.ok_or_else(|| refused(Refused::Layout))
    }
}

fn group_of(at: u64) -> u32 {
    u32::try_from(at / GROUP).unwrap_or(u32::MAX)
}

fn copy_zero_padded(from: &[u8], to: &mut [u8]) {
    let len = from.len().min(to.len());
    let (copied, zeros) = to.split_at_mut(len);
    copied.copy_from_slice(&from[..len]);
    zeros.fill(0);
}

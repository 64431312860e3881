//! Changing: the length first, then the pages; what the last page holds too much is cut, durably, before the file grows
//! or that page is replaced or goes (kith-store(5), "Order of writes").
//!
//! These are the rules `cut`, `tail`, `bound` and `group` of `models/pages.py`, which tells what is lost without each, and
//! one more that the crash test here found missing there: a cut may not be hidden by another change of the page.

use std::ops::Range;

use keymgr::root::GROUP;
use keymgr::secret::random_bytes;

use super::{Content, Error, Scratch};
use crate::format::length::{self, capacity, page_of, start};
use crate::format::page::{self, OVERHEAD};
use crate::format::seal::NONCE;
use crate::format::{HEADER, PAGE};

/// How many pages are sealed into one write: those that 1 MiB, the most that the kernel hands over, can touch.
const RUN: u64 = 260;
const PAGE_LEN: u64 = PAGE as u64;

impl Content {
    /// Writes all of `data` at byte `offset`; the file grows where it must.
    pub fn write_at(&mut self, data: &[u8], offset: u64) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let end = self.end_of(offset, data.len() as u64)?;
        let (old_size, old_length) = (self.size(), self.length);
        self.verify(self.groups_of_write(offset, data.len() as u64))?;
        if end > old_size {
            self.tidy_up()?;
            self.set_length(length::of_size(end))?;
        } else {
            self.before_rewrite(page_of(end - 1))?;
        }
        let done = self.write_pages(data, offset, old_size);
        if done.is_err() && end > old_size {
            // A full disk: nothing was promised past the old end, and zeros there would be a lie. Best effort.
            let _ = self.set_length(old_length / PAGE_LEN * PAGE_LEN).and_then(|()| self.set_length(old_length));
        }
        done
    }

    /// Cuts the file to `size` bytes, or lets zeros follow.
    pub fn truncate(&mut self, size: u64) -> Result<(), Error> {
        self.end_of(size, 0)?;
        self.verify(self.groups_of_truncate(size))?;
        let length = length::of_size(size);
        if size > self.size() {
            self.tidy_up()?;
        } else if length / PAGE_LEN < self.length / PAGE_LEN {
            self.tidy_up()?;
            // Not in one step: a length inside a page that held data would leave a piece of it past the end.
            self.set_length(length / PAGE_LEN * PAGE_LEN)?;
        } else if size == 0 {
            self.tidy_up()?;
        } else {
            self.clean_tail()?;
        }
        self.set_length(length)?;
        if size == 0 && !self.no_excess {
            // Mostly something is written next. The cut is ordered with the truncation, that is by the same fsync, so
            // that the grow to come needs none.
            self.changed.pages(0..1);
            self.file.write_at(&[0; PAGE - HEADER], HEADER as u64).map_err(|e| self.io(e))?;
            self.no_excess = true;
        }
        Ok(())
    }

    /// Makes zeros of a range, as far as the file goes: whole pages become holes.
    pub fn punch(&mut self, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.size();
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Ok(());
        }
        self.verify(self.groups_of_write(offset, end - offset))?;
        self.before_rewrite(page_of(end - 1))?;
        let (mut first, mut last) = (page_of(offset), page_of(end - 1) + 1);
        if start(first) < offset {
            self.zero_part(first, offset, end)?;
            first += 1;
        }
        if first < last && end < start(last).min(size) {
            last -= 1;
            self.zero_part(last, offset, end)?;
        }
        if first >= last {
            return Ok(());
        }
        self.changed.pages(first..last);
        if first == 0 {
            self.file.write_at(&[0; PAGE - HEADER], HEADER as u64).map_err(|e| self.io(e))?;
            first = 1;
        }
        if first < last {
            self.file.punch(first * PAGE_LEN, (last - first) * PAGE_LEN).map_err(|e| self.io(e))?;
        }
        Ok(())
    }

    /// As [`Self::punch`]; without `keep_size` the file also grows to hold the range.
    pub fn zero(&mut self, offset: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let end = self.end_of(offset, len)?;
        self.punch(offset, len)?;
        if !keep_size && end > self.size() { self.truncate(end) } else { Ok(()) }
    }

    /// Takes room on the disk for a range; without `keep_size` the file also grows to hold it.
    pub fn allocate(&mut self, offset: u64, len: u64, keep_size: bool) -> Result<(), Error> {
        let end = self.end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let (first, last) = (page_of(offset), page_of(end - 1));
        self.file.allocate(first * PAGE_LEN, (last + 1 - first) * PAGE_LEN).map_err(|e| self.io(e))?;
        if !keep_size && end > self.size() { self.truncate(end) } else { Ok(()) }
    }

    /// The groups of the ciphertext that writing (or punching) that range will touch.
    pub fn groups_of_write(&self, offset: u64, len: u64) -> Range<u32> {
        let end = offset.saturating_add(len.max(1)).min(length::MAX_SIZE);
        let size = self.size();
        if end > size {
            let from = (self.length / PAGE_LEN).saturating_sub(1).min(page_of(offset)) * PAGE_LEN;
            groups(from, length::of_size(end).max(self.length))
        } else {
            let last = page_of(end - 1) + 1;
            // Replacing the last page may clean what follows it.
            let to = if last == self.length / PAGE_LEN { self.length } else { last * PAGE_LEN };
            groups(page_of(offset) * PAGE_LEN, to.max(last * PAGE_LEN))
        }
    }

    /// The groups of the ciphertext that [`Self::truncate`] will touch.
    pub fn groups_of_truncate(&self, size: u64) -> Range<u32> {
        let last = |length: u64| (length / PAGE_LEN).saturating_sub(1) * PAGE_LEN;
        let length = length::of_size(size.min(length::MAX_SIZE));
        groups(last(length).min(last(self.length)), length.max(self.length))
    }

    fn end_of(&self, offset: u64, len: u64) -> Result<u64, Error> {
        let end = offset.checked_add(len).and_then(|end| length::check(end).ok());
        end.ok_or_else(|| Error::TooLarge { path: self.path.clone() })
    }

    fn set_length(&mut self, length: u64) -> Result<(), Error> {
        self.changed.length(self.length.min(length));
        self.file.set_length(length).map_err(|e| self.io(e))?;
        // After a shrink the last page may hold more than counts. (A multiple of a page counts it whole, so that a
        // greater length can be a smaller size.)
        self.no_excess &= length >= self.length && length::to_size(length) >= self.size();
        self.length = length;
        Ok(())
    }

    /// Before the last page is replaced, by a write or a hole within the size. Its new version would hold no more than
    /// counts, so that a later grow had nothing to cut; but a crash could then bring back the version before it, under the
    /// greater length.
    fn before_rewrite(&mut self, last_written: u64) -> Result<(), Error> {
        if last_written + 1 == self.length / PAGE_LEN { self.tidy_up() } else { Ok(()) }
    }

    /// Before the file grows, or the last page goes: it holds no more than counts, and what follows it is a hole. Both
    /// durably, or a crash could show what was cut off, or a piece of a page that a crash took, under a greater length.
    fn tidy_up(&mut self) -> Result<(), Error> {
        self.clean_tail()?;
        if self.no_excess {
            return Ok(());
        }
        if let Some(last) = (self.length / PAGE_LEN).checked_sub(1) {
            let keep = (self.size() - start(last)) as usize;
            if self.clear(last)?.is_some_and(|clear| clear.payload > keep) {
                let mut payload = self.payload(last)?;
                payload.truncate(keep);
                self.seal_pages(last..last + 1, |_, room| {
                    room.get_mut(..keep)?.copy_from_slice(&payload);
                    Some(keep)
                })?;
                self.sync(false)?;
            }
        }
        self.no_excess = true;
        Ok(())
    }

    /// Before any change of the length: what follows the last page is a hole, durably.
    fn clean_tail(&mut self) -> Result<(), Error> {
        if self.clean_tail {
            return Ok(());
        }
        let (length, end) = (self.length, self.length / PAGE_LEN * PAGE_LEN);
        if end < length {
            let tail = self.load(end, length)?;
            if !page::is_hole(tail.bytes.get((end - tail.from) as usize..).unwrap_or_default()) {
                // Not by a shorter length: a multiple of a page would count the last page whole.
                self.changed.length(end);
                self.file.punch(end, PAGE_LEN).map_err(|e| self.io(e))?;
                self.sync(false)?;
            }
        }
        self.clean_tail = true;
        Ok(())
    }

    /// The pages of a write. `old_size` is what the file held before its length was set for it.
    fn write_pages(&mut self, data: &[u8], offset: u64, old_size: u64) -> Result<(), Error> {
        let end = offset + data.len() as u64;
        let (first, last) = (page_of(offset), page_of(end - 1));
        // Only the first and the last page can keep something of what they held.
        let kept = |page: u64| -> Result<Vec<u8>, Error> {
            let held = old_size.clamp(start(page), start(page + 1)) - start(page);
            let (from, to) = (offset.max(start(page)) - start(page), end.min(start(page + 1)) - start(page));
            if held == 0 || (from == 0 && to >= held) {
                return Ok(Vec::new());
            }
            let mut payload = self.payload(page)?;
            payload.truncate(held as usize);
            Ok(payload)
        };
        let head = kept(first)?;
        let tail = if last > first { kept(last)? } else { Vec::new() };
        let mut at = first;
        while at <= last {
            let run = at..(at + RUN).min(last + 1);
            at = run.end;
            self.seal_pages(run, |page, room| {
                let (from, to) = (offset.max(start(page)), end.min(start(page + 1)));
                let old: &[u8] = if page == first {
                    &head
                } else if page == last {
                    &tail
                } else {
                    &[]
                };
                room.get_mut(..old.len())?.copy_from_slice(old);
                let new = data.get((from - offset) as usize..(to - offset) as usize)?;
                let place = (from - start(page)) as usize;
                room.get_mut(place..place + new.len())?.copy_from_slice(new);
                Some(old.len().max(place + new.len()))
            })?;
        }
        Ok(())
    }

    /// Zeros in a part of one page.
    fn zero_part(&mut self, page: u64, offset: u64, end: u64) -> Result<(), Error> {
        let mut payload = self.payload(page)?;
        let held = (self.size().clamp(start(page), start(page + 1)) - start(page)) as usize;
        payload.truncate(held);
        let from = (offset.max(start(page)) - start(page)) as usize;
        let to = ((end.min(start(page + 1)) - start(page)) as usize).min(payload.len());
        if from >= to {
            return Ok(()); // It holds nothing there: zeros already.
        }
        payload[from..to].fill(0);
        self.seal_pages(page..page + 1, |_, room| {
            room.get_mut(..payload.len())?.copy_from_slice(&payload);
            Some(payload.len())
        })
    }

    /// Seals a run of pages and writes it at once. `fill` puts a page's payload into the room it is given, which is zeros,
    /// and tells its length; a length of zero makes a hole.
    fn seal_pages(
        &mut self,
        pages: Range<u64>,
        mut fill: impl FnMut(u64, &mut [u8]) -> Option<usize>,
    ) -> Result<(), Error> {
        let count = (pages.end - pages.start) as usize;
        let skip = page::body_start(pages.start);
        let mut bytes = Scratch::new(count * PAGE);
        bytes.fill(0);
        let mut nonces = vec![[0; NONCE]; count];
        if let [only] = nonces.as_mut_slice() {
            *only = random_bytes();
        } else if getrandom::fill(nonces.as_flattened_mut()).is_err() {
            std::process::abort(); // as keymgr does: nothing here is safe without randomness
        }
        let (tag, cipher) = self.ciphers.current(&self.header).map_err(|why| self.refused(pages.start, why))?;
        for ((page, nonce), bytes) in pages.clone().zip(&nonces).zip(bytes.chunks_exact_mut(PAGE)) {
            let body = bytes.get_mut(page::body_start(page)..).unwrap_or_default();
            let room = body.get_mut(OVERHEAD..OVERHEAD + capacity(page)).unwrap_or_default();
            // `None` is a range out of the page: not possible by how the callers reckon, and refused all the same.
            let payload = fill(page, room).ok_or_else(|| self.refused(page, crate::format::Refused::Layout))?;
            if payload > 0 {
                page::seal(cipher, tag, &self.header.lineage, page, nonce, payload, body);
            }
        }
        self.changed.pages(pages.clone());
        let bytes = bytes.get(skip..).unwrap_or_default();
        self.file.write_at(bytes, pages.start * PAGE_LEN + skip as u64).map_err(|e| self.io(e))
    }
}

/// The groups in which the bytes of a range of the ciphertext lie.
fn groups(from: u64, to: u64) -> Range<u32> {
    let group = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    group(from / GROUP)..group(to.div_ceil(GROUP))
}

//! The same bytes under the newest key: for files whose pages or header are under former ones.

use keymgr::share::ShareKeys;

use super::{Ciphers, Content, Error};
use crate::format::header::Header;
use crate::format::length::{self, page_of, start};
use crate::format::tag::EpochTag;
use crate::format::{PAGE, page};

impl Content {
    /// Whether a page with bytes of that range, which begins within the file, is under another key than `current`'s.
    pub fn has_old_pages(&self, offset: u64, len: u64, current: EpochTag) -> Result<bool, Error> {
        Ok(self.old_pages(offset, len, current)?.is_some())
    }

    /// Seals the pages with bytes of that range anew, where they are under another key than `current`'s.
    pub fn reseal_pages(&mut self, offset: u64, len: u64, current: EpochTag) -> Result<(), Error> {
        let mut at = offset;
        while let Some(number) = self.old_pages(at, (offset + len).saturating_sub(at), current)? {
            let (from, to) = (start(number), start(number + 1).min(self.size()));
            let mut data = vec![0; to.saturating_sub(from) as usize];
            self.read_at(&mut data, from)?;
            self.write_at(&data, from)?;
            at = to;
        }
        Ok(())
    }

    /// A header under the newest key, without former page keys: of a file that has no page under them any more, durably.
    pub fn renew_header(&mut self, keys: &ShareKeys) -> Result<(), Error> {
        let header = Header { epoch: keys.current(), share: keys.share(), former: Vec::new(), ..self.header.clone() };
        let sealed = header.seal(keys, &self.locator).map_err(|why| Error::Header { path: self.path.clone(), why })?;
        self.verify(0..1)?;
        self.file.write_at(&sealed, 0).map_err(|e| self.io(e))?;
        self.changed.pages(0..1);
        self.ciphers = Ciphers::new(keys, &header);
        self.header = header;
        Ok(())
    }

    /// The first page with bytes of that range that is under another key.
    fn old_pages(&self, offset: u64, len: u64, current: EpochTag) -> Result<Option<u64>, Error> {
        let end = offset.saturating_add(len).min(length::to_size(self.length));
        if offset >= end {
            return Ok(None);
        }
        let mut raw = vec![0; PAGE];
        for number in page_of(offset)..=page_of(end - 1) {
            let at = number * PAGE as u64;
            raw.fill(0);
            self.file.read_at(&mut raw, at).map_err(|e| self.io(e))?;
            let body = raw.get(page::body_start(number)..).unwrap_or_default();
            match page::Clear::parse(number, body).map_err(|why| self.refused(number, why))? {
                Some(clear) if clear.epoch != current => return Ok(Some(number)),
                _ => {}
            }
        }
        Ok(None)
    }
}

//! Copies: the same pages under another header.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{FileId, Locator};
use keymgr::share::ShareKeys;

use super::{Content, Error};
use crate::format::header::{self, Header};
use crate::format::locator::NOWHERE;
use crate::format::tag::EpochTag;
use crate::format::{HEADER, PAGE, page};
use crate::store::File;

/// Makes `to`, a new file, a copy of the ciphertext `body` with the id `file`: the same pages and lineage, and a header
/// whose bytes follow from these alone, so that all devices that make this copy make the same bytes. Its locator is
/// none until it is linked to its place. Durable when it returns.
pub fn copy_as(body: &dyn File, to: &dyn File, path: &Path, keys: &ShareKeys, file: FileId) -> Result<Header, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let refused = |why| Error::Header { path: path.to_owned(), why };
    let mut bytes = [0; HEADER];
    let length = body.length().map_err(io)?;
    let got = body.read_at(&mut bytes, 0).map_err(io)?;
    if length < PAGE as u64 || got < HEADER || header::is_missing(&bytes) {
        return Err(Error::NoHeader { path: path.to_owned() });
    }
    let (source, _) = Header::open(keys, &bytes).map_err(refused)?;
    let header = source.of_copy(file);
    let sealed = header.seal_derived(keys, &NOWHERE).map_err(refused)?;
    to.set_length(length).map_err(io)?;
    copy_data(body, to, length).map_err(io)?;
    to.write_at(&sealed, 0).map_err(io)?;
    to.sync(false).map_err(io)?;
    Ok(header)
}

impl Content {
    /// Makes of a new file a copy of this one under another id: the same pages and lineage, shared on a disk that can.
    /// What is copied is verified first, or a copy could be recorded of what the original's record refuses.
    pub fn copy_to(
        &self,
        file: Arc<dyn File>,
        path: &Path,
        keys: &ShareKeys,
        id: FileId,
        locator: &Locator,
    ) -> Result<Content, Error> {
        self.verify_all()?;
        let mut copy = Content::create_with(file, path, keys, self.header().of_copy(id), locator)?;
        let io = |source| Error::Io { path: path.to_owned(), source };
        copy.file.set_length(self.length).map_err(io)?;
        copy_data(self.file.as_ref(), copy.file.as_ref(), self.length).map_err(io)?;
        let sealed = copy.header.seal(keys, locator).map_err(|why| Error::Header { path: path.to_owned(), why })?;
        copy.file.write_at(&sealed, 0).map_err(io)?;
        (copy.length, copy.no_excess) = (self.length, false);
        Ok(copy)
    }

    /// Writes what it holds into a new file, under that one's keys; holes stay holes.
    pub fn reseal(&self, to: &mut Content) -> Result<(), Error> {
        to.truncate(self.size())?;
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        while let Some(start) = self.seek_data(at)? {
            let end = self.seek_hole(start)?.unwrap_or_else(|| self.size());
            at = start;
            while at < end {
                let want = (end - at).min(buf.len() as u64) as usize;
                let piece = buf.get_mut(..want).unwrap_or_default();
                let got = self.read_at(piece, at)?;
                if got == 0 {
                    return Ok(());
                }
                to.write_at(piece.get(..got).unwrap_or_default(), at)?;
                at += got as u64;
            }
        }
        Ok(())
    }
}

/// Under which epoch tags the pages of a ciphertext are.
pub(crate) fn tags(file: &dyn File) -> std::io::Result<HashSet<EpochTag>> {
    let length = file.length()?;
    let mut out = HashSet::new();
    let mut buf = vec![0; 64 * PAGE];
    let mut page = 0;
    while page * (PAGE as u64) < length {
        let got = file.read_at(&mut buf, page * PAGE as u64)?;
        for raw in buf.get(..got).unwrap_or_default().chunks_exact(PAGE) {
            let body = raw.get(page::body_start(page)..).unwrap_or_default();
            if let Ok(Some(clear)) = page::Clear::parse(page, body) {
                out.insert(clear.epoch);
            }
            page += 1;
        }
        if got < buf.len() {
            break;
        }
    }
    Ok(out)
}

/// Copies what is data; holes stay holes.
pub(crate) fn copy_data(from: &dyn File, to: &dyn File, length: u64) -> std::io::Result<()> {
    let mut at = 0;
    let mut buf = Vec::new();
    while let Some(start) = from.seek_data(at)? {
        let end = from.seek_hole(start)?.min(length);
        if start >= end {
            break;
        }
        if !to.clone_range(from, start, end - start)? {
            buf.resize(1 << 20, 0);
            let mut pos = start;
            while pos < end {
                let want = (end - pos).min(buf.len() as u64) as usize;
                let piece = buf.get_mut(..want).unwrap_or_default();
                let got = from.read_at(piece, pos)?;
                if got == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                to.write_at(piece.get(..got).unwrap_or_default(), pos)?;
                pos += got as u64;
            }
        }
        at = end;
    }
    Ok(())
}

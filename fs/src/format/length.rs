//! Size and ciphertext length, each from the other without a key or a read (kith-store(5), "Length").

use super::page::{FIRST_PAYLOAD, PAYLOAD};
use super::{PAGE, Refused};

/// The greatest size of a file: its ciphertext's length still fits an off_t with room to spare.
pub const MAX_SIZE: u64 = 1 << 60;

/// How much payload page `page` can hold.
pub const fn capacity(page: u64) -> usize {
    if page == 0 { FIRST_PAYLOAD } else { PAYLOAD }
}

/// Where page `page`'s payload begins in the plaintext.
pub const fn start(page: u64) -> u64 {
    if page == 0 { 0 } else { FIRST_PAYLOAD as u64 + (page - 1) * PAYLOAD as u64 }
}

/// The page in which byte `offset` of the plaintext lies.
pub const fn page_of(offset: u64) -> u64 {
    if offset < FIRST_PAYLOAD as u64 { 0 } else { 1 + (offset - FIRST_PAYLOAD as u64) / PAYLOAD as u64 }
}

/// How many pages a file of `size` bytes has: at least the one with the header.
pub const fn pages(size: u64) -> u64 {
    if size == 0 { 1 } else { page_of(size - 1) + 1 }
}

/// The ciphertext length of a file of `size` bytes: its pages whole, and 1 more than the last page's payload as a hole.
pub const fn of_size(size: u64) -> u64 {
    let pages = pages(size);
    pages * PAGE as u64 + 1 + (size - start(pages - 1))
}

/// The size of a file whose ciphertext is `length` long. A multiple of a page, which only a crash leaves, counts
/// the last page whole.
pub const fn to_size(length: u64) -> u64 {
    let (pages, rest) = (length / PAGE as u64, length % PAGE as u64);
    if pages == 0 {
        return 0;
    }
    let room = capacity(pages - 1) as u64;
    let payload = if rest == 0 || rest - 1 > room { room } else { rest - 1 };
    start(pages - 1) + payload
}

/// Refuses a size that no file may have.
pub fn check(size: u64) -> Result<u64, Refused> {
    if size > MAX_SIZE { Err(Refused::TooLong) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_comes_back_from_its_length() {
        let edges = [0, 1, 3803, 3804, 3805, 7863, 7864, 7865, 11924, 1 << 20, (1 << 40) + 7, MAX_SIZE];
        for size in edges.into_iter().chain(0..20_000) {
            assert_eq!(to_size(of_size(size)), size);
            assert!(of_size(size) > pages(size) * 4096);
        }
        assert_eq!(of_size(0), 4097);
        assert_eq!(of_size(3804), 4096 + 3805);
        assert_eq!(of_size(3805), 2 * 4096 + 2);
    }

    #[test]
    fn a_length_that_only_a_crash_leaves_counts_the_last_page_whole() {
        assert_eq!(to_size(0), 0);
        assert_eq!(to_size(4095), 0);
        assert_eq!(to_size(4096), 3804);
        assert_eq!(to_size(8192), 3804 + 4060);
        assert_eq!(to_size(8191), 3804);
    }

    #[test]
    fn pages_follow_one_another_without_gap() {
        for page in 0..50 {
            assert_eq!(start(page + 1), start(page) + capacity(page) as u64);
            assert_eq!(page_of(start(page)), page);
            assert_eq!(page_of(start(page + 1) - 1), page);
        }
    }
}

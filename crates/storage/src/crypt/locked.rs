//! Memory for a secret.

use region::LockGuard;
use zeroize::Zeroize as _;

/// Bytes of a page, on almost all machines. Where they are larger, a page has several secrets, and is unlocked with the first of
/// them.
const PAGE: usize = 4096;

/// A page that has nothing else: locks are for pages, and do not count how often one is locked.
#[repr(align(4096))]
struct Page([u8; PAGE]);

/// A secret of so many bytes, at most those of a page. It stays in memory, and is not written to the swap space, unless the system
/// does not let it: then it is as any other memory. It is overwritten when it is dropped.
pub(super) struct Locked<const BYTES: usize> {
    // Fields are dropped in this order.
    _lock: Option<LockGuard>,
    page: Box<Page>,
}

impl<const BYTES: usize> Locked<BYTES> {
    /// A copy of a secret.
    pub(super) fn new(secret: &[u8; BYTES]) -> Self {
        const { assert!(BYTES <= PAGE) };
        let mut page = Box::new(Page([0; PAGE]));
        let lock = region::lock(page.0.as_ptr(), PAGE).ok();
        page.0[..BYTES].copy_from_slice(secret);
        Locked { _lock: lock, page }
    }

    /// The secret.
    pub(super) fn bytes(&self) -> &[u8; BYTES] {
        self.page.0.first_chunk().expect("a page has as many")
    }
}

impl<const BYTES: usize> Drop for Locked<BYTES> {
    fn drop(&mut self) {
        self.page.0[..BYTES].zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system says about the memory at this address.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        let mut is_there = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let range = range.and_then(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16).ok();
                Some(number(start)?..number(end)?)
            });
            match (range, line.strip_prefix("VmFlags:")) {
                (Some(range), _) => is_there = range.contains(&address),
                (None, Some(flags)) if is_there => return flags.to_owned(),
                _ => {}
            }
        }
        panic!("{address:x} is nowhere")
    }

    #[test]
    fn a_secret_has_a_locked_page_of_its_own_and_leaves_it_unlocked() {
        let (one, other) = (Locked::new(b"secret"), Locked::new(b"others"));
        assert_eq!((one.bytes(), other.bytes()), (b"secret", b"others"));
        let places = [&one, &other].map(|locked| locked.bytes().as_ptr().addr());
        assert!(places[0].abs_diff(places[1]) >= PAGE);
        for place in places {
            assert!(flags(place).split(' ').any(|flag| flag == "lo"), "{}", flags(place));
        }
        drop(one);
        assert!(flags(places[1]).split(' ').any(|flag| flag == "lo"), "the other stays");
    }
}

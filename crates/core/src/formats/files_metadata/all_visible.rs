//! Which pages of a table were marked as visible to everybody.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The pages of one file that were all-visible when they were read, by their numbers in the file. As text: the portable
/// serialization of a Roaring bitmap (the Roaring Bitmap Format Specification), in base64; a file of 1 GB has some bytes if
/// most of its pages are marked, and 22 kB at the most.
#[derive(Clone, Default, PartialEq)]
pub struct AllVisible(RoaringBitmap);

impl AllVisible {
    /// Add a page.
    pub fn insert(&mut self, page: u32) {
        self.0.insert(page);
    }

    /// Is the page marked?
    pub fn contains(&self, page: u32) -> bool {
        self.0.contains(page)
    }

    /// Is none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// None if no page is marked: it says as much as nothing.
    pub fn into_some(self) -> Option<Self> {
        Some(self).filter(|marked| !marked.is_empty())
    }

    /// The marks of a chain whose newest increment has the pages `taken` of a file of so many: this one tells of those pages,
    /// the parent of the others.
    pub(crate) fn over(self, parent: &Self, taken: &[u32], pages: u32) -> Self {
        let taken: RoaringBitmap = taken.iter().collect();
        let mut rest = &parent.0 - &taken;
        rest.remove_range(pages..);
        AllVisible(rest | (self.0 & taken))
    }

    /// As few bytes as it can have.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut smallest = self.0.clone();
        smallest.optimize();
        let mut bytes = Vec::with_capacity(smallest.serialized_size());
        // A vector takes everything.
        let _ = smallest.serialize_into(&mut bytes);
        bytes
    }

    /// From such bytes, which need not be right. None if they are not.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        RoaringBitmap::deserialize_from(bytes).ok().map(AllVisible)
    }
}

impl Eq for AllVisible {}

impl fmt::Debug for AllVisible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.0.len())
    }
}

impl FromIterator<u32> for AllVisible {
    fn from_iter<I: IntoIterator<Item = u32>>(pages: I) -> Self {
        AllVisible(pages.into_iter().collect())
    }
}

impl Serialize for AllVisible {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for AllVisible {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        AllVisible::of_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("it is not a bitmap of pages"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_comes_back() {
        let segment = 131_072u32;
        for (marked, most) in [
            (AllVisible::default(), 8),
            ((0..segment).collect(), 30),
            ((5..segment - 3).collect(), 30),
            ((0..segment).filter(|page| page % 2 == 0).collect(), 16_500),
        ] {
            let bytes = marked.to_bytes();
            assert!(bytes.len() <= most, "{} bytes of {marked:?}", bytes.len());
            assert_eq!(AllVisible::of_bytes(&bytes), Some(marked.clone()));
            let text = serde_json::to_string(&marked).expect("JSON");
            assert_eq!(serde_json::from_str::<AllVisible>(&text).expect("read"), marked);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["5", "\"?\"", "\"\"", "\"AAAA\"", "\"OjAAAAEAAAAAAA==\""] {
            assert!(serde_json::from_str::<AllVisible>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_chain_holds_what_its_newest_step_has_and_else_what_the_parent_has() {
        let parent: AllVisible = [1, 2, 3, 7, 9].into_iter().collect();
        let read: AllVisible = [2, 4, 6].into_iter().collect();
        let expected: AllVisible = [1, 2, 4, 7].into_iter().collect();
        assert_eq!(read.over(&parent, &[2, 3, 4, 5], 9), expected);
    }
}

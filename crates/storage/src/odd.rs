//! Objects that other programs have put into the repository's place, under names that no key can have: with an empty part, a
//! part of dots, a control character, bytes that are no text. They can neither be read nor deleted from here.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// How many names are remembered, and said. If there are more, they have one reason.
const MOST: usize = 100;

/// Those that one store has met.
#[derive(Debug, Default)]
pub(crate) struct Odd(Mutex<BTreeSet<String>>);

/// All that were said in this process.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A name as a message may show it.
pub(crate) fn escaped(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => name.escape_ascii().to_string(),
    }
}

impl Odd {
    /// An object was passed over; it is said once. `place` is the bucket, the container or the directory, `name` is
    /// [`escaped`].
    pub(crate) fn meet(&self, place: &str, name: &str) {
        let name = format!("{place}/{name}");
        let mut met = self.0.lock();
        if met.len() >= MOST || !met.insert(name.clone()) {
            return;
        }
        let mut said = SAID.lock();
        if said.len() < 10 * MOST && said.insert(name.clone()) {
            tracing::warn!("the object \"{name}\" is ignored, because no object of a repository has such a name");
        }
    }

    /// The names, escaped, in order. Of many not all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_few() {
        let odd = Odd::default();
        for name in ["p//a\u{1b}[1m\t".as_bytes(), "p//a\u{1b}[1m\t".as_bytes(), b"p/\xff"] {
            odd.meet("s3://b", &escaped(name));
        }
        assert_eq!(odd.names(), ["s3://b/p//a\\u{1b}[1m\\t", "s3://b/p/\\xff"]);
        for number in 0..1000 {
            odd.meet("s3://b", &format!("//{number}"));
        }
        assert_eq!(odd.names().len(), MOST);
    }
}

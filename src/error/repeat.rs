//! A background process tries again by itself, and may fail many times per second. One line per minute is enough.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::pg::process;

/// The same text is said once in this time.
const PAUSE: Duration = Duration::from_secs(60);

/// The most texts that are remembered.
const MOST: usize = 64;

static SAID: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());

/// Has this process said it within the last minute? If not, it counts as said now. The answer is always no in a client's session.
pub(super) fn is_said(text: &str) -> bool {
    process::is_in_background() && is_repeated(&mut SAID.lock(), text, Instant::now())
}

fn is_repeated(said: &mut Vec<(String, Instant)>, text: &str, now: Instant) -> bool {
    said.retain(|(_, at)| now.duration_since(*at) < PAUSE);
    if said.iter().any(|(known, _)| known == text) {
        return true;
    }
    // With so many different texts there is no repetition.
    if said.len() < MOST {
        said.push((text.to_owned(), now));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_a_minute() {
        let (mut said, now) = (Vec::new(), Instant::now());
        assert!(!is_repeated(&mut said, "a", now) && !is_repeated(&mut said, "b", now));
        assert!(is_repeated(&mut said, "a", now + PAUSE / 2) && is_repeated(&mut said, "b", now));
        assert!(
            !is_repeated(&mut said, "a", now + PAUSE),
            "counted from when it was said"
        );
        for number in 0..1000 {
            assert!(!is_repeated(&mut said, &number.to_string(), now + PAUSE));
        }
        assert!(said.len() <= MOST);
    }
}

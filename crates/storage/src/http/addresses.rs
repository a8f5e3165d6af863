//! Names of hosts. A store with many addresses must not be asked at the first of them by everybody.

use rand::seq::SliceRandom;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Asks the system at every new connection, and shuffles what it says.
pub(super) struct Shuffled;

impl Resolve for Shuffled {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let mut found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            found.shuffle(&mut rand::rng());
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

//! How often names are looked at before a failure is believed.

use super::{Names, VerifyStatus};
use crate::repository::inventory::Inventory;

/// Each time with everything looked at anew: meanwhile a retention may have removed old WAL, or the server may have been
/// promoted.
const LOOKS: usize = 2;

/// The looks at names. Only the last one counts. A look adds its findings as long as [`Looks::go_on`].
#[derive(Debug, Default)]
pub struct Looks {
    made: usize,
    last: Option<(Inventory, Names)>,
}

impl Looks {
    /// Is another look needed?
    pub fn go_on(&self) -> bool {
        match &self.last {
            None => true,
            Some((_, names)) => names.status() == VerifyStatus::Failure && self.made < LOOKS,
        }
    }

    /// Add the findings of one look.
    pub fn add(&mut self, inventory: Inventory, names: Names) {
        self.made += 1;
        self.last = Some((inventory, names));
    }

    /// The findings of the last one; nothing if there was none.
    pub fn last(self) -> (Option<Inventory>, Option<Names>) {
        self.last.unzip()
    }
}

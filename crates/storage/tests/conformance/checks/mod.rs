//! The checks: one capability each.

mod crash;
mod list;
mod names;
mod outage;
mod read;
mod remove;
mod upload;
mod write;

use crate::suite::Check;

/// Properties that one run cannot show to be right, only to be wrong.
pub const RACE: &str = "race of 8 creators: one wins";

macro_rules! checks {
    ($($name:expr => $check:path,)+) => {
        /// Every check under the name that it has in the table. The last ones disturb others.
        pub const CHECKS: &[(&str, Check)] = &[$(($name, |room| Box::pin($check(room)))),+];
    };
}

checks! {
    "put" => write::put,
    "overwrite by put" => write::overwrite,
    "empty object" => write::empty,
    "create-only put" => write::create,
    "create again: refused" => write::create_again,
    RACE => write::race,
    "get, and of a missing key" => read::get,
    "size, and of a missing key" => read::size,
    "range" => read::range,
    "read in parts" => read::in_parts,
    "list 2500 keys" => list::pages,
    "list after a key" => list::after,
    "list one level" => list::shallow,
    "list below a folder, not a textual prefix" => list::folders,
    "list during writes: whole objects only" => list::during_writes,
    "upload in parts" => upload::parts,
    "upload: invisible until complete" => upload::invisible,
    "upload over an object" => upload::over,
    "upload given up: nothing left" => upload::given_up,
    "upload cut off by a crash: found and removed" => crash::crash,
    "100 MB in bounded memory" => upload::large,
    "delete, and of a missing key" => remove::delete,
    "delete a folder" => remove::folder,
    "delete many at a time" => remove::many,
    "names of the layout" => names::layout,
    "odd names" => names::odd,
    "two prefixes in one store" => names::prefixes,
    "an outage is no missing object" => outage::outage,
}

//! Is there room for what the standby lacks?

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::formats::Sentinel;
use crate::restore::directory::space::{self, Need};
use crate::restore::directory::tablespaces::Tablespace;

const HINT: &str = "Free some space; new tablespaces go elsewhere with --tablespace-map. If the file system compresses or grows, \
    use --no-space-check.";

/// Bytes of data, by the OID of the tablespace, those of the data directory under none.
pub(super) type Sizes = BTreeMap<Option<u32>, u64>;

/// Refuse if the data as it is on the primary does not fit into the directories. `primary` are the sizes there if a manifest tells
/// them; `there` is what the standby has: it stays, or makes room.
pub(super) fn check(
    target: &Path,
    tablespaces: &[Tablespace],
    sentinel: &Sentinel,
    primary: Option<&Sizes>,
    there: &Sizes,
) -> Result<()> {
    let of = |sizes: &Sizes, tablespace| sizes.get(&tablespace).copied().unwrap_or(0);
    let all = sentinel.data_catalog_size.unwrap_or(0);
    let need = |place: &Path, tablespace: Option<u32>| Need {
        place: place.to_owned(),
        bytes: primary.map_or(0, |primary| of(primary, tablespace)),
        room: of(there, tablespace),
        // Only the sum is known, not the place of each part.
        bytes_anywhere: match (primary, tablespace) {
            (None, None) => all,
            _ => 0,
        },
    };
    let elsewhere = tablespaces.iter().filter_map(|tablespace| {
        let oid = tablespace.oid.parse().ok()?;
        Some(need(tablespace.location.as_deref()?, Some(oid)))
    });
    let needs: Vec<Need> = std::iter::once(need(target, None)).chain(elsewhere).collect();
    space::check(&needs, HINT)
}

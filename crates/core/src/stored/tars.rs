//! The tars of a backup.

use walarchive_storage::Store;

use crate::codec::Format;
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::layout::{self, Key};

/// One tar of a backup.
#[derive(Debug, Clone)]
pub struct Tar {
    /// Its file name.
    pub name: String,
    /// Its key.
    pub key: Key,
    /// Stored bytes.
    pub size: u64,
    /// How it is compressed.
    pub format: Format,
    pub(crate) kind: TarKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TarKind {
    Label,
    Part,
    Control,
}

/// The tars of a backup: what `pg_backup_stop` returned first, `pg_control` last, and between them the large ones first.
pub(crate) async fn list_tars(store: &Store, backup: &str) -> Result<Vec<Tar>> {
    let folder = layout::tar_folder(backup);
    let mut tars = Vec::new();
    for object in store.list_shallow(&folder).await? {
        let key = Key::listed(&object);
        let name = key.file_name().to_owned();
        let (format, stem) = Format::of_key(&name);
        let kind = match stem {
            "pg_control.tar" => TarKind::Control,
            "backup_label.tar" => TarKind::Label,
            _ if stem.ends_with(".tar") => TarKind::Part,
            _ => {
                tracing::warn!(object = store.object_url(&key), "is not a tar and was ignored");
                continue;
            }
        };
        tars.push(Tar {
            name,
            key,
            size: object.size,
            format,
            kind,
        });
    }
    for (kind, what) in [(TarKind::Control, "pg_control"), (TarKind::Label, "backup_label")] {
        let count = tars.iter().filter(|tar| tar.kind == kind).count();
        if count != 1 {
            return Err(Error::damaged(
                store.object_url(&folder),
                format!(
                    "The backup has {} with {what}, there should be one.",
                    counted(count, "tar")
                ),
            ));
        }
    }
    tars.sort_by(|a, b| {
        (a.kind, std::cmp::Reverse(a.size), &a.name).cmp(&(b.kind, std::cmp::Reverse(b.size), &b.name))
    });
    Ok(tars)
}

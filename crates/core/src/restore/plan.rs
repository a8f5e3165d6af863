//! What a restore will do, before it does anything.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::chain;
use super::contents::{self, Contents, ManifestInfo};
use super::fetch::{read_with, whole};
use super::level::Level;
use super::member::{MemberPath, TABLESPACE_MAP};
use super::options::RestoreOptions;
use super::recovery::RecoverySettings;
use super::table::Table;
use super::tablespaces::{self, Tablespace};
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::layout;
use crate::storage::Store;

/// More than any tablespace map has, in bytes.
const MAP_LIMIT: u64 = 16 << 20;
/// The first version with `recovery.signal`.
const RECOVERY_SIGNAL_SINCE: u32 = 120_000;

/// A restore that was checked as far as it can be without downloading the data. [`super::apply`] carries it out; its
/// `Display` is the dry run.
#[derive(Debug)]
pub struct RestorePlan {
    /// The backup's name.
    pub backup: String,
    /// Its sentinel.
    pub sentinel: Sentinel,
    /// The data directory, absolute.
    pub target: PathBuf,
    /// Where the tablespaces go.
    pub tablespaces: Vec<Tablespace>,
    /// The backups that it is based on, the parent first, the full one last; empty for a full backup.
    pub ancestors: Vec<String>,
    /// What recovery will be told, if anything.
    pub recovery: Option<RecoverySettings>,
    /// Tars at a time.
    pub concurrency: usize,
    /// What the user should know, as sentences.
    pub notes: Vec<String>,
    /// What is taken from which backup, the newest first.
    pub(crate) levels: Vec<Level>,
    pub(crate) table: Option<Table>,
    pub(crate) manifest: Option<ManifestInfo>,
    pub(crate) store: Store,
}

/// A backup of a chain.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) backup: String,
    pub(crate) sentinel: Sentinel,
}

/// One tar of a backup.
#[derive(Debug, Clone)]
pub struct Tar {
    /// Its file name.
    pub name: String,
    /// Its key.
    pub key: String,
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

/// Find out everything about the restore of a backup into `target`, and refuse what cannot be done. Writes nothing.
pub async fn plan(store: &Store, backup: &str, target: &Path, options: RestoreOptions) -> Result<RestorePlan> {
    let mut links = chain::links(store, backup).await?;
    let sentinel = links[0].sentinel.clone();
    if options.recovery.is_some() && (1..RECOVERY_SIGNAL_SINCE).contains(&sentinel.pg_version) {
        return Err(Error::config(
            format!(
                "recovery settings are not written for a server of version {}",
                sentinel.pg_version
            ),
            "Use --no-recovery and write recovery.conf by hand, as servers before 12 want it.",
        ));
    }
    let mut notes = Vec::new();
    let Contents {
        table,
        levels,
        manifest,
    } = contents::read(store, &links, &mut notes).await?;
    if manifest.is_none() {
        notes.push("The backup has no manifest, so the content of its files cannot be compared with one.".to_owned());
    }
    let found = match &sentinel.tablespaces {
        Some(spec) => tablespaces::of_spec(spec, &store.object_url(&layout::sentinel(backup)))?,
        None => read_tablespace_map(store, &levels[0].tars).await?,
    };
    let source = store.object_url(&layout::sentinel(backup));
    let tablespaces = tablespaces::resolve(found, &options.tablespace_map, &source)?;
    let target = tablespaces::check_directories(target, &tablespaces)?;
    Ok(RestorePlan {
        backup: backup.to_owned(),
        sentinel,
        target,
        tablespaces,
        ancestors: links.drain(1..).map(|link| link.backup).collect(),
        recovery: options.recovery,
        concurrency: options.concurrency.max(1),
        notes,
        levels,
        table,
        manifest,
        store: store.clone(),
    })
}

/// The tars of a backup: what `pg_backup_stop` returned first, `pg_control` last, and between them the large ones first.
pub(crate) async fn list_tars(store: &Store, backup: &str) -> Result<Vec<Tar>> {
    let folder = layout::tar_folder(backup);
    let mut tars = Vec::new();
    for object in store.list_shallow(&folder).await? {
        let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
        let (format, stem) = Format::of_key(&name);
        let kind = match stem {
            "pg_control.tar" => TarKind::Control,
            "backup_label.tar" => TarKind::Label,
            _ if stem.ends_with(".tar") => TarKind::Part,
            _ => {
                tracing::warn!(object = store.object_url(&object.key), "is no tar and was ignored");
                continue;
            }
        };
        tars.push(Tar {
            name,
            key: object.key,
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
                format!("The backup has {count} tars with {what}, there should be one."),
            ));
        }
    }
    tars.sort_by(|a, b| {
        (a.kind, std::cmp::Reverse(a.size), &a.name).cmp(&(b.kind, std::cmp::Reverse(b.size), &b.name))
    });
    Ok(tars)
}

/// The tablespaces as `pg_backup_stop` returned them, for a sentinel that does not name any.
async fn read_tablespace_map(store: &Store, tars: &[Tar]) -> Result<Vec<(String, String)>> {
    let Some(tar) = tars.iter().find(|tar| tar.kind == TarKind::Label) else {
        return Ok(Vec::new());
    };
    let content = read_with(store, &tar.key, tar.size, |source| {
        let mut archive = tar::Archive::new(source.take(MAP_LIMIT));
        for entry in archive.entries()? {
            let mut entry = entry?;
            if MemberPath::parse(&entry.path_bytes()).is_ok_and(|path| path.is(TABLESPACE_MAP)) {
                return Ok(whole(&mut entry, MAP_LIMIT)?);
            }
        }
        Ok(Vec::new())
    });
    Ok(tablespaces::of_map_file(&String::from_utf8_lossy(&content.await?)))
}

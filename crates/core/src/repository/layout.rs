//! The keys of the repository, relative to the prefix of the storage URL. No other module builds one.
//!
//! The layout is the one that WAL-G 3.x uses for PostgreSQL ("version 005").

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use walarchive_storage::{Listed, PendingUpload};

use crate::codec::Format;
use crate::formats::manifest::hex;
use crate::wal::WalFileName;

mod tail;

pub use tail::{TAIL_EPOCHS_FOLDER, TAIL_FOLDER, TailChunk, epoch_of_tail, tail_epoch, tail_of};

/// The key of an object or of a folder, relative to the prefix of the storage URL. Only this module makes one, so a text of
/// another kind, like the name of a backup, cannot be taken for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Cow<'static, str>);

impl Key {
    const fn known(key: &'static str) -> Self {
        Key(Cow::Borrowed(key))
    }

    fn built(key: String) -> Self {
        Key(Cow::Owned(key))
    }

    /// The key of an object that the store has listed.
    pub fn listed(object: &Listed) -> Self {
        Key::built(object.key.clone())
    }

    /// The key that a pending upload is for.
    pub fn pending(upload: &PendingUpload) -> Self {
        Key::built(upload.key.clone())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last part: the name of the file.
    pub fn file_name(&self) -> &str {
        self.rsplit('/').next().unwrap_or_default()
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        self
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq<Key> for String {
    fn eq(&self, key: &Key) -> bool {
        self.as_str() == &**key
    }
}

impl PartialEq<Key> for &str {
    fn eq(&self, key: &Key) -> bool {
        *self == &**key
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, text: &&str) -> bool {
        &**self == *text
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.into_owned()
    }
}

impl From<&Key> for String {
    fn from(key: &Key) -> Self {
        (**key).to_owned()
    }
}

/// The folder of archived WAL files.
pub static WAL_FOLDER: Key = Key::known("wal_005");
/// The folder of base backups.
pub static BACKUPS_FOLDER: Key = Key::known("basebackups_005");
/// The folder of the backups that bring a standby up. In it everything is laid out as in [`BACKUPS_FOLDER`].
pub static CATCHUP_FOLDER: Key = Key::known("catchup_005");
/// Who owns the repository.
pub static CLUSTER: Key = Key::known("walarchive_005/cluster.json");

/// Everything of our own that WAL-G knows nothing of.
pub static OWN_FOLDER: Key = Key::known("walarchive_005");

/// From which segments on WAL is meant to be without gaps.
pub static CONTINUOUS: Key = Key::known("walarchive_005/continuous.json");
/// Objects that a check of the store writes, and removes again.
pub static CHECK_FOLDER: Key = Key::known("walarchive_005/check");

/// Who writes into the repository, and who did before.
pub static LEASE_FOLDER: Key = Key::known("walarchive_005/lease");

/// Notes on what was verified, and when.
static VERIFIED_FOLDER: Key = Key::known("walarchive_005/verified");

/// What restore drills have shown.
pub static DRILLS_FOLDER: Key = Key::known("walarchive_005/drills");

/// Digests of WAL files, in repositories whose server cannot read what it encrypts.
pub static DIGESTS_FOLDER: Key = Key::known("walarchive_005/digests");

/// Where the timelines come from, likewise.
pub static TIMELINES_FOLDER: Key = Key::known("walarchive_005/timelines");

/// The index of restore points and commits.
pub static POINTS_FOLDER: Key = Key::known("walarchive_005/points");

const SENTINEL_SUFFIX: &str = "_backup_stop_sentinel.json";

const CONFIGURATION_SUFFIX: &str = "/configuration.tar";

/// One archived WAL file.
pub fn wal(name: &WalFileName, format: Format) -> Key {
    Key::built(format!("{WAL_FOLDER}/{name}{}", format.suffix()))
}

/// The WAL file and the compression of an object, if its key is that of an archived WAL file.
pub fn wal_of_object(key: &str) -> Option<(WalFileName, Format)> {
    let (format, key) = Format::of_key(key);
    let name = key.strip_prefix(&*WAL_FOLDER)?.strip_prefix('/')?;
    Some((name.parse().ok()?, format))
}

/// Is it an object of the kind that is encrypted in a repository that is: an archived WAL file or a part of one, or a tar of a backup
/// or of its configuration? What is said about them is not.
pub fn is_encrypted_where_anything_is(key: &str) -> bool {
    let is_configuration = || Format::of_key(key).1.ends_with(CONFIGURATION_SUFFIX);
    wal_of_object(key).is_some()
        || TailChunk::of_key(key).is_some()
        || key.contains("/tar_partitions/")
        || is_configuration()
}

/// Does such an object describe what is encrypted where anything is: a backup and its files, or what was verified, shown by a drill or
/// found in WAL? It is encrypted where that is asked for, and tells so by its first line. Who writes, and what takes part in that, has
/// to be read without a key: it is not of this kind.
pub fn is_metadata(key: &str) -> bool {
    let is_below = |folder: &Key| {
        let rest = key.strip_prefix(&**folder);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    if let Some(place) = backup_of_object(key) {
        return [metadata(place), files_metadata(place), backup_manifest(place)]
            .iter()
            .any(|known| key == &**known);
    }
    backup_of_sentinel(key).is_some()
        || catchup_of_sentinel(key).is_some()
        || [&VERIFIED_FOLDER, &DRILLS_FOLDER, &POINTS_FOLDER]
            .into_iter()
            .any(is_below)
}

/// An object of a check; `id` tells one check from another.
pub fn check(id: &str) -> Key {
    Key::built(format!("{CHECK_FOLDER}/{id}"))
}

/// Who took the lease as that epoch.
pub fn lease_holder(epoch: u64) -> Key {
    Key::built(format!("{LEASE_FOLDER}/{epoch:08}.json"))
}

/// The sign of life of the holder of that epoch.
pub fn lease_alive(epoch: u64) -> Key {
    Key::built(format!("{LEASE_FOLDER}/{epoch:08}.alive.json"))
}

/// The epoch of an object of the lease, and whether it is the sign of life.
pub fn epoch_of_lease(key: &str) -> Option<(u64, bool)> {
    let name = key
        .strip_prefix(&*LEASE_FOLDER)?
        .strip_prefix('/')?
        .strip_suffix(".json")?;
    match name.strip_suffix(".alive") {
        Some(epoch) => Some((epoch.parse().ok()?, true)),
        None => Some((name.parse().ok()?, false)),
    }
}

/// The digest of a WAL file whose object has this SHA-256.
pub fn digest(name: &WalFileName, object: &[u8; 32]) -> Key {
    Key::built(format!("{DIGESTS_FOLDER}/{name}.{}", hex(&object[..8])))
}

/// The WAL file of a digest, if the key is that of one.
pub fn wal_of_digest(key: &str) -> Option<WalFileName> {
    let name = key.strip_prefix(&*DIGESTS_FOLDER)?.strip_prefix('/')?;
    name.rsplit_once('.')?.0.parse().ok()
}

/// Where a timeline comes from.
pub fn timeline(timeline: u32) -> Key {
    Key::built(format!("{TIMELINES_FOLDER}/{timeline:08X}.json"))
}

/// The timeline, if the key is that of a note on where one comes from.
pub fn timeline_of_note(key: &str) -> Option<u32> {
    let name = key.strip_prefix(&*TIMELINES_FOLDER)?.strip_prefix('/')?;
    u32::from_str_radix(name.strip_suffix(".json")?, 16).ok()
}

/// Which segments were verified.
pub fn verified_wal() -> Key {
    Key::built(format!("{VERIFIED_FOLDER}/wal.json"))
}

/// That a base backup was verified.
pub fn verified_backup(backup: &str) -> Key {
    Key::built(format!("{VERIFIED_FOLDER}/backups/{backup}.json"))
}

/// The index of a block of segments.
pub fn points(timeline: u32, block: u64) -> Key {
    Key::built(format!("{POINTS_FOLDER}/{timeline:08X}/{block:010X}.json"))
}

/// What drills have shown of a base backup.
pub fn drills_of(backup: &str) -> Key {
    Key::built(format!("{DRILLS_FOLDER}/{backup}"))
}

/// What one of them has shown.
pub fn drill(backup: &str, name: &str) -> Key {
    Key::built(format!("{}/{name}.json", drills_of(backup)))
}

/// The backup and the name of a drill, if the key is that of one.
pub fn drill_of_object(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix(&*DRILLS_FOLDER)?.strip_prefix('/')?;
    let (backup, name) = rest.strip_suffix(".json")?.split_once('/')?;
    (!name.contains('/')).then_some((backup, name))
}

/// Where a backup of that name is in [`CATCHUP_FOLDER`]. The functions here take this in place of the name of a base backup.
pub fn catchup_place(name: &str) -> String {
    format!("{CATCHUP_FOLDER}/{name}")
}

/// The name of the backup of a place, which is that of a base backup if it is no [`catchup_place`].
pub fn backup_name(place: &str) -> &str {
    catchup_name(place).unwrap_or(place)
}

/// The name, if it is the place of a backup in [`CATCHUP_FOLDER`].
fn catchup_name(place: &str) -> Option<&str> {
    place.strip_prefix(&*CATCHUP_FOLDER)?.strip_prefix('/')
}

/// The commit point of a base backup.
pub fn sentinel(backup: &str) -> Key {
    Key::built(format!("{}{SENTINEL_SUFFIX}", backup_folder(backup)))
}

/// The name of the backup in [`CATCHUP_FOLDER`] whose sentinel has this key, if it is a sentinel's.
pub fn catchup_of_sentinel(key: &str) -> Option<&str> {
    let name = catchup_name(key)?.strip_suffix(SENTINEL_SUFFIX)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The name of the backup whose sentinel has this key, if it is a sentinel's.
pub fn backup_of_sentinel(key: &str) -> Option<&str> {
    let name = key
        .strip_prefix(&*BACKUPS_FOLDER)?
        .strip_prefix('/')?
        .strip_suffix(SENTINEL_SUFFIX)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The backup in whose folder this key is, if it is in one; of one that brings a standby up its [`catchup_place`].
pub fn backup_of_object(key: &str) -> Option<&str> {
    let (rest, is_catchup) = match catchup_name(key) {
        Some(rest) => (rest, true),
        None => (key.strip_prefix(&*BACKUPS_FOLDER)?.strip_prefix('/')?, false),
    };
    let (name, below) = rest.split_once('/').filter(|(name, _)| !name.is_empty())?;
    Some(match is_catchup {
        true => &key[..key.len() - below.len() - 1],
        false => name,
    })
}

/// The backup whose folder this is, if it is one.
pub fn backup_of_folder(key: &str) -> Option<&str> {
    let name = key.strip_prefix(&*BACKUPS_FOLDER)?.strip_prefix('/')?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The folder that holds everything of a backup but its sentinel.
pub fn backup_folder(backup: &str) -> Key {
    Key::built(match catchup_name(backup) {
        Some(name) => format!("{CATCHUP_FOLDER}/{name}"),
        None => format!("{BACKUPS_FOLDER}/{backup}"),
    })
}

/// The extended metadata of a backup.
pub fn metadata(backup: &str) -> Key {
    Key::built(format!("{}/metadata.json", backup_folder(backup)))
}

/// The entry of each file of a backup, and which tar holds it.
pub fn files_metadata(backup: &str) -> Key {
    Key::built(format!("{}/files_metadata.json", backup_folder(backup)))
}

/// PostgreSQL's backup manifest.
pub fn backup_manifest(backup: &str) -> Key {
    Key::built(format!("{}/backup_manifest", backup_folder(backup)))
}

/// The configuration files outside of the data directory, without the suffix of the compression. Of our own; WAL-G does
/// not look at it.
pub fn configuration(backup: &str) -> Key {
    Key::built(format!("{}{CONFIGURATION_SUFFIX}", backup_folder(backup)))
}

/// The same, as it is compressed.
pub fn configuration_in(backup: &str, format: Format) -> Key {
    Key::built(format!("{}{}", configuration(backup), format.suffix()))
}

/// Written first and create-only, so that two servers cannot take a backup of one name at a time; removed at the end.
pub fn backup_claim(backup: &str) -> Key {
    Key::built(format!("{}/walarchive_claim.json", backup_folder(backup)))
}

/// Written before a backup's sentinel is removed, and removed after everything else: a folder that has it, and no sentinel, is
/// a deletion that was interrupted.
pub fn backup_deletion(backup: &str) -> Key {
    Key::built(format!("{}/walarchive_deleted.json", backup_folder(backup)))
}

/// The folder of a backup's tars.
pub fn tar_folder(backup: &str) -> Key {
    Key::built(format!("{}/tar_partitions", backup_folder(backup)))
}

/// One tar of a backup.
pub fn tar(backup: &str, file_name: &str) -> Key {
    Key::built(format!("{}/{file_name}", tar_folder(backup)))
}

/// The file name of the numbered tar, counted from 1.
pub fn part_name(number: usize, format: Format) -> String {
    format!("part_{number:03}.tar{}", format.suffix())
}

/// The file name of the tar that holds `pg_control` alone.
pub fn pg_control_name(format: Format) -> String {
    format!("pg_control.tar{}", format.suffix())
}

/// The file name of the tar that holds what `pg_backup_stop` returned.
pub fn backup_label_name(format: Format) -> String {
    format!("backup_label.tar{}", format.suffix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinels_key_gives_the_backup_back() {
        assert_eq!(backup_of_sentinel(&sentinel("base_1")), Some("base_1"));
        for key in [
            "basebackups_005/_backup_stop_sentinel.json",
            "basebackups_005/base_1/metadata.json",
            "x",
        ] {
            assert_eq!(backup_of_sentinel(key), None, "{key}");
        }
        assert_eq!(backup_of_object(&tar("base_1", "x.tar")), Some("base_1"));
        let place = catchup_place("base_1");
        assert_eq!(sentinel(&place), "catchup_005/base_1_backup_stop_sentinel.json");
        assert_eq!(tar(&place, "x.tar"), "catchup_005/base_1/tar_partitions/x.tar");
        assert_eq!(
            (catchup_of_sentinel(&sentinel(&place)), backup_name(&place)),
            (Some("base_1"), "base_1")
        );
        assert_eq!(backup_of_sentinel(&sentinel(&place)), None);
        assert_eq!(backup_of_object(&tar(&place, "x.tar")), Some(&*place));
        assert_eq!(backup_of_object(&sentinel(&place)), None);
        assert_eq!(
            (catchup_of_sentinel(&sentinel("base_1")), backup_name("base_1")),
            (None, "base_1")
        );
        assert_eq!(backup_of_object(&sentinel("base_1")), None);
        assert_eq!(epoch_of_lease(&lease_holder(7)), Some((7, false)));
        assert_eq!(epoch_of_lease(&lease_alive(123_456_789)), Some((123_456_789, true)));
        assert_eq!(epoch_of_lease(&CLUSTER), None);
    }

    #[test]
    fn what_is_needed_without_a_key_is_no_metadata() {
        let name: WalFileName = "000000010000000000000001".parse().expect("a name");
        for place in ["base_1".to_owned(), catchup_place("base_1")] {
            for key in [
                sentinel(&place),
                metadata(&place),
                files_metadata(&place),
                backup_manifest(&place),
            ] {
                assert!(is_metadata(&key) && !is_encrypted_where_anything_is(&key), "{key}");
            }
            for key in [
                backup_claim(&place),
                backup_deletion(&place),
                tar(&place, "metadata.json"),
                configuration_in(&place, Format::Zstd),
            ] {
                assert!(!is_metadata(&key), "{key}");
            }
        }
        for key in [
            verified_wal(),
            verified_backup("base_1"),
            drill("base_1", "x"),
            points(1, 2),
        ] {
            assert!(is_metadata(&key), "{key}");
        }
        for key in [
            wal(&name, Format::Zstd),
            digest(&name, &[1; 32]),
            timeline(2),
            lease_holder(1),
            lease_alive(1),
            check("1"),
            CLUSTER.clone(),
            CONTINUOUS.clone(),
        ] {
            assert!(!is_metadata(&key), "{key}");
        }
    }
}

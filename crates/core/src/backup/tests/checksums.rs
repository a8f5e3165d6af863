//! Pages with a wrong checksum.

use super::tree::{Cluster, cluster};
use super::*;
use crate::control_file::tests::sample_with;
use crate::error::Error;
use crate::formats::ExtendedMetadata;
use crate::formats::files_metadata::{CorruptBlocks, FilesMetadata};
use crate::page::tests::sample;

/// A cluster with data checksums, and a relation of three pages; the last two are corrupt.
fn corrupt() -> Cluster {
    let cluster = cluster();
    let data = cluster.data_dir();
    std::fs::write(data.join("global/pg_control"), sample_with(16 << 20, 288, true)).expect("written");
    // Files of the made-up cluster under such names do not consist of pages.
    for path in ["base/5/1259", "base/5/1259_fsm", "base/5/1259.1", "base/5/16384_init"] {
        std::fs::write(data.join(path), []).expect("emptied");
    }
    for tablespace in [
        "16400/PG_15_202209061/5/16401",
        "16401/PG_15_202209061/5/16402",
        "16402/PG_15_202209061/5/16403",
    ] {
        std::fs::write(data.join("pg_tblspc").join(tablespace), []).expect("emptied");
    }
    let lsn = |bytes| Lsn(request(&data).start_lsn.0 - bytes);
    let mut pages = [sample(lsn(1), 0, 3), sample(lsn(9), 1, 4), sample(lsn(7), 2, 5)];
    pages[1][5000] ^= 1;
    pages[2][8191] ^= 1;
    std::fs::write(data.join("base/5/1259"), pages.concat()).expect("written");
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_pages_are_copied_and_reported() {
    let (cluster, repository) = (corrupt(), tempfile::tempdir().expect("a directory"));
    let store = file_store(repository.path());
    let (progress, cancel) = (Arc::new(BackupProgress::default()), CancellationToken::new());
    let options = BackupOptions::default();
    let begun = Backup::begin(&store, request(&cluster.data_dir()), options, progress.clone(), cancel);
    let mut backup = begun.await.expect("begun");
    backup.copy().await.expect("copied");
    let prepared = backup.finish(stop()).await.expect("finished");
    let found = prepared.corrupt_pages();
    assert_eq!((found.files, found.pages), (1, 2));
    assert_eq!(found.to_string(), "base/5/1259 (blocks 1, 2)");
    assert_eq!(progress.snapshot().corrupt_pages, 2);
    prepared.commit().await.expect("committed");
    let copied = members(&store).await.remove("/base/5/1259").flatten().expect("a file");
    assert!(copied == std::fs::read(cluster.data_dir().join("base/5/1259")).expect("read"));

    let read = async |key: layout::Key| store.get(&key, u64::MAX).await.expect("read").expect("there");
    let files = FilesMetadata::read_from(&read(layout::files_metadata(NAME)).await[..]).expect("files metadata");
    let expected = CorruptBlocks {
        count: 2,
        some: vec![1, 2],
    };
    assert_eq!(files.files["/base/5/1259"].corrupt_blocks, Some(expected));
    let others = files.files.iter().filter(|(_, file)| file.corrupt_blocks.is_some());
    assert_eq!(others.count(), 1);
    let metadata: ExtendedMetadata = serde_json::from_slice(&read(layout::metadata(NAME)).await).expect("metadata");
    assert_eq!(metadata.corrupt_pages, Some(2));
    let listed = crate::repository::inventory::BackupDetail::list(&store)
        .await
        .expect("listed");
    assert_eq!(listed[0].corrupt_pages, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_pages_end_the_backup_where_that_is_wanted() {
    let (cluster, repository) = (corrupt(), tempfile::tempdir().expect("a directory"));
    let store = file_store(repository.path());
    let options = || BackupOptions {
        on_checksum_failure: OnChecksumFailure::Error,
        ..BackupOptions::default()
    };
    let mut backup = begin(&store, request(&cluster.data_dir()), options())
        .await
        .expect("begun");
    match backup.copy().await {
        Err(Error::CorruptPages { file, reason }) => {
            assert_eq!(file, Path::new("base/5/1259"));
            assert!(reason.contains("blocks 1, 2"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    backup.abort().await.expect("removed");
    assert_eq!(files_below(repository.path()), Vec::<std::path::PathBuf>::new());

    // Without data checksums nothing is wrong.
    let control = sample_with(16 << 20, 288, false);
    std::fs::write(cluster.data_dir().join("global/pg_control"), control).expect("written");
    let mut backup = begin(&store, request(&cluster.data_dir()), options())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    let prepared = backup.finish(stop()).await.expect("finished");
    assert_eq!(prepared.corrupt_pages(), &CorruptPages::default());
    prepared.commit().await.expect("committed");
    let listed = crate::repository::inventory::BackupDetail::list(&store)
        .await
        .expect("listed");
    assert_eq!(listed[0].corrupt_pages, None);
}

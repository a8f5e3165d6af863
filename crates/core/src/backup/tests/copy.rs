//! The content of a backup.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::tree::{cluster, content};
use super::*;
use crate::backup::read::source::changed;
use crate::error::Error;
use crate::formats::files_metadata::{FilesMetadata, Identity};
use crate::formats::manifest::Checksummer;
use crate::formats::{ExtendedMetadata, SENTINEL_LIMIT, Sentinel, manifest};

async fn object(store: &Store, key: &str) -> bytes::Bytes {
    store.get(key, SENTINEL_LIMIT).await.expect("read").expect(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_in_it_and_nothing_else() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    let store = file_store(repository.path());
    let options = BackupOptions {
        tar_bytes: 20_000,
        ..BackupOptions::default()
    };
    let progress = Arc::new(BackupProgress::default());
    let cancel = CancellationToken::new();
    let begun = Backup::begin(&store, request(&cluster.data_dir()), options, progress.clone(), cancel);
    let mut backup = begun.await.expect("begun");
    backup.copy().await.expect("copied");
    let prepared = backup.finish(stop()).await.expect("finished");
    assert_eq!(prepared.commit().await.expect("committed"), NAME);

    let found = members(&store).await;
    let mut expected: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    for directory in &cluster.directories {
        expected.insert(format!("/{directory}"), None);
    }
    for (index, path) in cluster.kept.iter().enumerate() {
        expected.insert(format!("/{path}"), Some(content(path, index * 700)));
    }
    let control = std::fs::read(cluster.data_dir().join("global/pg_control")).expect("read");
    expected.insert("/global/pg_control".to_owned(), Some(control));
    expected.insert("backup_label".to_owned(), Some(stop().backup_label.into_bytes()));
    expected.insert(
        "tablespace_map".to_owned(),
        stop().tablespace_map.map(String::into_bytes),
    );
    let names = |map: &BTreeMap<String, _>| map.keys().cloned().collect::<BTreeSet<String>>();
    assert_eq!(names(&found), names(&expected));
    assert!(found == expected, "the contents differ");

    let metadata = object(&store, &layout::files_metadata(NAME)).await;
    let metadata = FilesMetadata::read_from(metadata.as_ref()).expect("files metadata");
    assert!(metadata.files.keys().eq(expected.keys()));
    let in_sets: BTreeSet<&String> = metadata.tar_file_sets.values().flatten().collect();
    assert!(in_sets.into_iter().eq(expected.keys()));
    assert_eq!(metadata.tar_file_sets["pg_control.tar.zst"], ["/global/pg_control"]);
    assert_eq!(
        metadata.tar_file_sets["backup_label.tar.zst"],
        ["backup_label", "tablespace_map"]
    );
    assert!(metadata.tar_file_sets.len() > 4, "{:?}", metadata.tar_file_sets.keys());

    let manifest = manifest::parse(&object(&store, &layout::backup_manifest(NAME)).await).expect("a manifest");
    for file in &manifest.files {
        let path = file.path.to_str().expect("UTF-8");
        let name = if path == "backup_label" {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let bytes = expected[&name].as_ref().expect("a file");
        let mut sum = Checksummer::new(manifest::ChecksumAlgorithm::Crc32c);
        sum.update(bytes);
        assert_eq!(file.size, bytes.len() as u64, "{path}");
        assert_eq!(
            file.checksum,
            Some((manifest::ChecksumAlgorithm::Crc32c, sum.finish())),
            "{path}"
        );
    }
    assert_eq!(manifest.files.len(), cluster.kept.len() + 2, "not tablespace_map");
    assert_eq!(manifest.wal_ranges[0].end, stop().stop_lsn);

    let sentinel: Sentinel =
        serde_json::from_slice(&object(&store, &layout::sentinel(NAME)).await).expect("a sentinel");
    let spec = sentinel.tablespaces.as_ref().expect("tablespaces");
    assert_eq!(spec.oids, ["16400", "16401"]);
    assert_eq!(spec.locations["16400"].loc, cluster.tablespace().display().to_string());
    assert_eq!(spec.locations["16400"].link, "pg_tblspc/16400");
    let bytes: usize = expected.values().flatten().map(Vec::len).sum();
    assert_eq!(sentinel.uncompressed_size, bytes as u64);
    let tars = store.list(&layout::tar_folder(NAME)).await.expect("listed");
    assert_eq!(sentinel.compressed_size, tars.iter().map(|tar| tar.size).sum::<u64>());
    assert!(sentinel.is_permanent && sentinel.user_data == Some(serde_json::json!({"a": 1}).into()));
    assert_eq!(
        (sentinel.start_lsn, sentinel.finish_lsn),
        (Lsn(0x200_0028), Lsn(0x400_0000))
    );
    let extended = object(&store, &layout::metadata(NAME)).await;
    let extended: ExtendedMetadata = serde_json::from_slice(&extended).expect("metadata");
    assert_eq!(
        (extended.next_xid, extended.compressed_size),
        (Some(800), sentinel.compressed_size)
    );
    assert_eq!(store.size(&layout::backup_claim(NAME)).await.expect("asked"), None);

    let end = progress.snapshot();
    assert_eq!(end.phase, Phase::Done);
    assert_eq!((end.files_done, end.bytes_done), (end.files_total, end.bytes_total));
    assert_eq!(Some(end.bytes_total), sentinel.data_catalog_size);
    assert_eq!(end.stored, sentinel.compressed_size);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_rest_can_be_told_again() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    let data = cluster.data_dir();
    let rests = std::fs::metadata(data.join("base/5/1259.1")).expect("there");
    let control = data.join("global/pg_control");
    let bytes = std::fs::read(&control).expect("read");
    let deadline = Instant::now() + Duration::from_secs(60);
    // No program can set this time: another write of the control file must come late enough.
    while changed(&std::fs::metadata(&control).expect("there")) < changed(&rests) + 2_100_000_000 {
        assert!(Instant::now() < deadline, "the clock of the file system stands still");
        std::thread::sleep(Duration::from_millis(50));
        std::fs::write(&control, &bytes).expect("written");
    }
    cluster.write("base/5/30000", 8192);
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&data), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    backup.finish(stop()).await.expect("finished");
    let metadata = object(&store, &layout::files_metadata(NAME)).await;
    let metadata = FilesMetadata::read_from(metadata.as_ref()).expect("files metadata");
    let manifest = manifest::parse(&object(&store, &layout::backup_manifest(NAME)).await).expect("a manifest");
    let listed = manifest
        .files
        .iter()
        .find(|file| file.path == Path::new("base/5/1259.1"));
    let (algorithm, sum) = listed.and_then(|file| file.checksum.clone()).expect("a checksum");
    let expected = Identity {
        size: rests.len(),
        inode: rests.ino(),
        changed: changed(&rests),
        checksum: format!("{algorithm}:{}", manifest::hex(&sum)),
    };
    assert_eq!(metadata.files["/base/5/1259.1"].identity, Some(expected));
    for young in ["/base/5/30000", "/global/pg_control", "/base/5", "backup_label"] {
        assert_eq!(metadata.files[young].identity, None, "{young}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_after_the_walk_changes_the_totals() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    for number in 0..40 {
        cluster.write(&format!("base/5/3000{number:02}"), 1 << 20);
    }
    let store = file_store(repository.path());
    let options = BackupOptions {
        // The changes come before the last files are read.
        rate_limit: Some(20 << 20),
        concurrency: 1,
        tar_bytes: 1 << 30,
        ..BackupOptions::default()
    };
    let (progress, cancel) = (Arc::new(BackupProgress::default()), CancellationToken::new());
    let begun = Backup::begin(&store, request(&cluster.data_dir()), options, progress.clone(), cancel);
    let mut backup = begun.await.expect("begun");
    let copy = tokio::spawn(async move { (backup.copy().await, backup) });
    let begun = async {
        while progress.snapshot().bytes_done == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun)
        .await
        .expect("it begins");
    let walked = progress.snapshot();
    cluster.write("base/5/300037", 3 << 20);
    cluster.write("base/5/300038", 5);
    std::fs::remove_file(cluster.data_dir().join("base/5/300039")).expect("removed");
    let (copied, _backup) = tokio::time::timeout(Duration::from_secs(60), copy)
        .await
        .expect("in time")
        .expect("no panic");
    copied.expect("copied");
    let end = progress.snapshot();
    assert_eq!((end.files_done, end.bytes_done), (end.files_total, end.bytes_total));
    assert_eq!(end.files_total, walked.files_total - 1);
    assert_eq!(
        end.bytes_total,
        walked.bytes_total + (2 << 20) - (1 << 20) + 5 - (1 << 20)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_tools_list_a_tar() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    let tar = repository.path().join(layout::tar(NAME, "part_001.tar.zst").as_str());
    let script = "set -o pipefail; zstd -dc \"$0\" | tar -tPf -";
    let output = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(&tar)
        .output()
        .expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).expect("UTF-8");
    let listed: BTreeSet<&str> = listed.lines().map(|line| line.trim_end_matches('/')).collect();
    for path in cluster.kept.iter().chain(&cluster.directories) {
        assert!(listed.contains(format!("/{path}").as_str()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_through_several_threads() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    cluster.write("base/5/20000", 40 << 20);
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    let found = members(&store).await;
    assert!(found["/base/5/20000"].as_ref() == Some(&content("base/5/20000", 40 << 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_file_is_named() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    std::fs::write(cluster.data_dir().join("global/pg_control"), [0; 8192]).expect("written");
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    match backup.copy().await {
        Err(Error::Damaged { object, .. }) => assert!(object.ends_with("global/pg_control"), "{object}"),
        other => panic!("{other:?}"),
    }
    let gone = request(&cluster.dir.path().join("nowhere"));
    backup.abort().await.expect("removed");
    let mut backup = begin(&store, gone, BackupOptions::default()).await.expect("begun");
    assert!(matches!(backup.copy().await, Err(Error::Io { .. })));
}

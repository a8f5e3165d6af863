//! The backup learns too late that these relations are unlogged.

use super::tree::cluster;
use super::*;
use crate::formats::files_metadata::FilesMetadata;
use crate::formats::{SENTINEL_LIMIT, manifest};

const SPACE: &str = "pg_tblspc/16400/PG_15_202209061/5";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_a_main_fork_whose_init_fork_came_later() {
    let (cluster, repository) = (cluster(), tempfile::tempdir().expect("a directory"));
    let indexes = [
        "base/5/20000".to_owned(),
        "base/5/20000.1".to_owned(),
        "base/5/20000_fsm".to_owned(),
        format!("{SPACE}/20001"),
    ];
    let tables = ["base/5/20001".to_owned(), format!("{SPACE}/20000")];
    for path in indexes.iter().chain(&tables) {
        cluster.write(path, 8192);
    }
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    cluster.write("base/5/20000_init", 8192);
    cluster.write(&format!("{SPACE}/20001_init"), 8192);
    backup
        .finish(stop())
        .await
        .expect("finished")
        .commit()
        .await
        .expect("committed");

    let object = async |key: layout::Key| store.get(&key, SENTINEL_LIMIT).await.expect("read").expect("there");
    let metadata = FilesMetadata::read_from(&object(layout::files_metadata(NAME)).await[..]).expect("files metadata");
    let manifest = manifest::parse(&object(layout::backup_manifest(NAME)).await).expect("a manifest");
    let members = members(&store).await;
    let said = |path: &str| {
        let member = format!("/{path}");
        [
            metadata.files.contains_key(&member),
            metadata.tar_file_sets.values().flatten().any(|name| *name == member),
            manifest.files.iter().any(|file| file.path == Path::new(path)),
        ]
    };
    for path in &indexes {
        assert!(members.contains_key(&format!("/{path}")), "{path} was copied");
        assert_eq!(said(path), [false; 3], "{path}");
    }
    for path in tables.iter().chain(&cluster.kept) {
        assert_eq!(said(path), [true; 3], "{path}");
    }
    assert!(metadata.files.contains_key("/base/5") && metadata.files.contains_key("backup_label"));
}

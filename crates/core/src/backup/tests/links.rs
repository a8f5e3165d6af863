//! Symbolic links in the data directory, and what a restore cannot do without.

use std::os::unix::fs::symlink;

use super::tree::{Cluster, cluster, content};
use super::*;
use crate::error::Error;
use crate::formats::{ExtendedMetadata, SENTINEL_LIMIT};

/// Move what is there to another disk, so to say, and leave a link.
fn move_away(cluster: &Cluster, path: &str) -> std::path::PathBuf {
    let disk = cluster.dir.path().join("disk2").join(path.replace('/', "-"));
    std::fs::create_dir_all(disk.parent().expect("a parent")).expect("made");
    std::fs::rename(cluster.data_dir().join(path), &disk).expect("moved");
    symlink(&disk, cluster.data_dir().join(path)).expect("linked");
    disk.canonicalize().expect("there")
}

/// A directory without the fifo and the link of others.
fn plain() -> Cluster {
    let cluster = cluster();
    for stray in ["link.conf", "fifo"] {
        std::fs::remove_file(cluster.data_dir().join(stray)).expect("removed");
    }
    cluster
}

async fn taken(cluster: &Cluster, request: BackupRequest) -> crate::Result<(Store, PreparedBackup, ExtendedMetadata)> {
    let repository = cluster.dir.path().join("store");
    std::fs::create_dir_all(&repository).expect("made");
    let store = file_store(&repository);
    let mut backup = begin(&store, request, BackupOptions::default()).await?;
    backup.copy().await?;
    let prepared = backup.finish(stop()).await?;
    prepared.commit().await?;
    let metadata = store
        .get(&layout::metadata(NAME), SENTINEL_LIMIT)
        .await?
        .expect("there");
    let metadata = serde_json::from_slice(&metadata).expect("metadata");
    Ok((store, prepared, metadata))
}

async fn refused(cluster: &Cluster) -> String {
    let Err(error) = taken(cluster, request(&cluster.data_dir())).await else {
        panic!("a backup was taken");
    };
    assert!(
        matches!(error, Error::Refused { .. }) && error.hint().is_some(),
        "{error:?}"
    );
    let store = file_store(&cluster.dir.path().join("store"));
    assert!(
        crate::repository::inventory::list_backups(&store)
            .await
            .expect("listed")
            .is_empty()
    );
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_reads_through_links_is_in_the_backup() {
    let cluster = plain();
    cluster.write("pg_multixact/members/0000", 5000);
    cluster.write("pg_multixact/offsets/0000", 5000);
    cluster.write("postgresql.conf", 77);
    let links = [
        "base/5",
        "base",
        "pg_xact",
        "pg_multixact/members",
        "postgresql.conf",
        "global",
    ];
    let targets: Vec<_> = links.iter().map(|path| move_away(&cluster, path)).collect();
    let (store, prepared, metadata) = taken(&cluster, request(&cluster.data_dir())).await.expect("taken");
    let found = members(&store).await;
    for (index, path) in cluster.kept.iter().enumerate() {
        let expected = content(path, index * 700);
        assert!(found.get(&format!("/{path}")) == Some(&Some(expected)), "{path}");
    }
    for (path, bytes) in [
        ("pg_multixact/members/0000", 5000),
        ("pg_multixact/offsets/0000", 5000),
        ("postgresql.conf", 77),
    ] {
        assert!(
            found.get(&format!("/{path}")) == Some(&Some(content(path, bytes))),
            "{path}"
        );
    }
    for path in ["base", "base/5", "pg_xact", "pg_multixact/members", "global"] {
        assert_eq!(
            found.get(&format!("/{path}")),
            Some(&None),
            "{path} comes back as a directory"
        );
    }
    assert_eq!(prepared.left_out(), (&[][..], 0));
    for (path, target) in links.iter().zip(&targets) {
        let link = metadata.links.iter().find(|link| link.path == *path).expect(path);
        assert_eq!(link.target, target.display().to_string());
        assert_eq!(link.is_directory, *path != "postgresql.conf");
    }
    assert!(
        metadata.links.iter().any(|link| link.path == "pg_wal"),
        "{:?}",
        metadata.links
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_links_are_left_out_and_named() {
    let cluster = cluster();
    symlink("/etc", cluster.data_dir().join("mine/etc")).expect("linked");
    symlink("gone", cluster.data_dir().join("base/5/notes")).expect("linked");
    let (store, prepared, metadata) = taken(&cluster, request(&cluster.data_dir())).await.expect("taken");
    let (named, count) = prepared.left_out();
    let mut named: Vec<String> = named.iter().map(ToString::to_string).collect();
    named.sort();
    let expected = [
        "base/5/notes (symbolic link to \"gone\")",
        "fifo (special file)",
        "link.conf (symbolic link to \"/etc/hostname\")",
        "mine/etc (symbolic link to \"/etc\")",
    ];
    assert_eq!(named, expected);
    assert_eq!((count, metadata.left_out_count, metadata.left_out.len()), (4, 4, 4));
    assert!(members(&store).await.keys().all(|path| !path.contains("etc")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_backed_up_twice_or_for_ever() {
    let cluster = plain();
    std::fs::create_dir(cluster.data_dir().join("disk")).expect("made");
    std::fs::rename(cluster.data_dir().join("base/5"), cluster.data_dir().join("disk/5")).expect("moved");
    symlink("../disk/5", cluster.data_dir().join("base/5")).expect("linked");
    let (store, ..) = taken(&cluster, request(&cluster.data_dir())).await.expect("taken");
    let found = members(&store).await;
    assert!(found.contains_key("/base/5/1259") && found.contains_key("/disk/5"));
    assert!(!found.contains_key("/disk/5/1259"), "it was there under the other name");

    for (path, target) in [
        ("base", "."),
        ("pg_multixact", ".."),
        ("pg_xact", "pg_xact"),
        ("global/16999", "16999"),
    ] {
        let cluster = plain();
        let link = cluster.data_dir().join(path);
        if link.exists() {
            std::fs::rename(&link, cluster.dir.path().join("aside")).expect("moved");
        }
        symlink(target, &link).expect("linked");
        let message = match taken(&cluster, request(&cluster.data_dir())).await {
            Ok(_) => panic!("{path} -> {target} was followed"),
            Err(error) => error.to_string(),
        };
        assert!(
            message.contains(&link.display().to_string()) || message.contains("is inside itself"),
            "{message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_a_server_needs_there_is_no_backup() {
    for (removed, named) in [
        ("PG_VERSION", "PG_VERSION"),
        ("pg_xact", "pg_xact"),
        ("pg_xact/0000", "pg_xact"),
        ("base/1", "base/1"),
        ("base/1/PG_VERSION", "base/1"),
        ("base/5/PG_VERSION", "base/5/PG_VERSION"),
        ("global/pg_control", "global/pg_control"),
    ] {
        let cluster = plain();
        let path = cluster.data_dir().join(removed);
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path).expect("removed"),
            false => std::fs::remove_file(&path).expect("removed"),
        }
        let message = match taken(&cluster, request(&cluster.data_dir())).await {
            Ok(_) => panic!("a backup without {removed}"),
            Err(error) => error.to_string(),
        };
        assert!(
            message.contains(&format!("{}\"", cluster.data_dir().join(named).display())),
            "{message}"
        );
    }
    let cluster = plain();
    std::fs::rename(cluster.data_dir().join("pg_xact"), cluster.dir.path().join("aside")).expect("moved");
    symlink("/not/there", cluster.data_dir().join("pg_xact")).expect("linked");
    assert!(refused(&cluster).await.contains("cannot follow symbolic link"));
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_come_and_go_are_no_reason() {
    let cluster = plain();
    // An orphan of a server that was killed while it created a database, and one that somebody drops in the meantime.
    cluster.write("base/16500/1259", 10);
    cluster.write("base/16501/1259", 10);
    let repository = tempfile::tempdir().expect("a directory");
    let store = file_store(repository.path());
    for (after, message) in [(vec![5], None), (vec![5, 16501], Some("base/16501/PG_VERSION"))] {
        let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
            .await
            .expect("begun");
        backup.databases_before([5, 16501]);
        backup.copy().await.expect("copied");
        backup.databases_after(after);
        match (backup.finish(stop()).await, message) {
            (Ok(_), None) => {
                let metadata = store
                    .get(&layout::metadata(NAME), SENTINEL_LIMIT)
                    .await
                    .expect("read")
                    .expect("there");
                let metadata: ExtendedMetadata = serde_json::from_slice(&metadata).expect("metadata");
                // Nobody has said that the database 1 was there.
                assert_eq!(metadata.incomplete_databases, [1, 16500, 16501]);
            }
            (Err(error), Some(message)) => assert!(error.to_string().contains(message), "{error}"),
            (Ok(_), Some(_)) => panic!("a backup without a database's PG_VERSION"),
            (Err(error), None) => panic!("{error}"),
        }
        discard(&store, NAME).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_changes_ends_the_backup() {
    let cluster = plain();
    move_away(&cluster, "pg_xact");
    let repository = tempfile::tempdir().expect("a directory");
    let store = file_store(repository.path());
    let mut backup = begin(&store, request(&cluster.data_dir()), BackupOptions::default())
        .await
        .expect("begun");
    backup.copy().await.expect("copied");
    std::fs::remove_file(cluster.data_dir().join("pg_xact")).expect("removed");
    symlink("/tmp", cluster.data_dir().join("pg_xact")).expect("linked");
    let Err(error) = backup.finish(stop()).await else {
        panic!("it was not seen");
    };
    assert!(error.to_string().contains("led to"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_writes_as_its_log_is_left_out() {
    let cluster = plain();
    cluster.write("mylogs/postgresql.log", 5000);
    let request = BackupRequest {
        emptied: emptied_directory(&cluster.data_dir(), "mylogs").into_iter().collect(),
        ..request(&cluster.data_dir())
    };
    let (store, ..) = taken(&cluster, request).await.expect("taken");
    let found = members(&store).await;
    assert!(found.contains_key("/mylogs") && !found.contains_key("/mylogs/postgresql.log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_length_and_encoding_are_in_tar_and_manifest() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let cluster = plain();
    let mut names: Vec<std::ffi::OsString> = [232, 241, 254, 255].map(|length| "n".repeat(length).into()).to_vec();
    names.push(std::ffi::OsString::from_vec(b"not\xffutf8".to_vec()));
    names.push(std::ffi::OsString::from_vec([b'\xfe'; 255].to_vec()));
    for name in &names {
        std::fs::write(cluster.data_dir().join("mine").join(name), name.as_bytes()).expect("written");
    }
    let (store, ..) = taken(&cluster, request(&cluster.data_dir())).await.expect("taken");
    let manifest = store.get(&layout::backup_manifest(NAME), u64::MAX).await.expect("read");
    let manifest = crate::formats::manifest::parse(&manifest.expect("there")).expect("a manifest");
    let mut found = 0;
    for object in store.list(&layout::tar_folder(NAME)).await.expect("listed") {
        let stored = store.get(&object.key, u64::MAX).await.expect("read").expect("there");
        let decoder = Format::of_key(&object.key)
            .0
            .decoder(stored.as_ref())
            .expect("a decoder");
        for entry in tar::Archive::new(decoder).entries().expect("a tar") {
            let mut entry = entry.expect("a member");
            let path = entry.path_bytes().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            if let Some(name) = path
                .strip_prefix(b"/mine/")
                .filter(|name| name.len() > 7 && !name.contains(&b'/'))
            {
                assert_eq!(content, name, "the name in the header is whole");
                found += 1;
            }
        }
    }
    assert_eq!(found, names.len());
    for name in &names {
        let path = Path::new("mine").join(name);
        assert!(manifest.files.iter().any(|file| file.path == path), "{path:?}");
    }
}

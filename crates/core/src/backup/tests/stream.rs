//! Backups of what a server sends as tars.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::tree::cluster;
use super::*;
use crate::error::{Error, Result};

/// A member of a tar: its name as bytes, and its content; none for a directory.
type Member = (Vec<u8>, Option<Vec<u8>>);

fn file(name: &str, content: &[u8]) -> Member {
    (name.as_bytes().to_vec(), Some(content.to_vec()))
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(match content {
            Some(_) => tar::EntryType::Regular,
            None => tar::EntryType::Directory,
        });
        header.set_mode(0o600);
        header.set_uid(101);
        header.set_gid(103);
        header.set_mtime(1_700_000_000);
        let content = content.clone().unwrap_or_default();
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(&content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

/// What a server sends of a data directory: the label first, `pg_control` last.
fn data_directory() -> Vec<Member> {
    let control = std::fs::read(cluster().data_dir().join("global/pg_control")).expect("read");
    vec![
        file("backup_label", stop().backup_label.as_bytes()),
        file("tablespace_map", b"16400 /ts\n"),
        (b"base".to_vec(), None),
        file("base/1/PG_VERSION", b"15\n"),
        file("base/5/PG_VERSION", b"15\n"),
        file("base/5/1259", &[7; 30_000]),
        file("PG_VERSION", b"15\n"),
        (b"pg_wal".to_vec(), None),
        (b"./pg_wal/archive_status".to_vec(), None),
        file("pg_wal/000000010000000000000002", b"of no use"),
        file("log/server.log", b"of no use"),
        file("postmaster.opts", b"of no use"),
        file("pg_xact/0000", &[1; 8192]),
        file("global/pg_control", &control),
    ]
}

/// Send archives, cut into pieces of that size; the end is told if `whole`.
async fn send(sender: mpsc::Sender<Piece>, archives: Vec<(Option<u32>, Vec<u8>)>, size: usize, whole: bool) {
    for (tablespace, bytes) in archives {
        let pieces = bytes
            .chunks(size)
            .map(|piece| Piece::Bytes(Bytes::copy_from_slice(piece)));
        for piece in std::iter::once(Piece::Archive(tablespace)).chain(pieces) {
            // Who reads may have given up.
            let _ = sender.send(piece).await;
        }
    }
    if whole {
        let _ = sender.send(Piece::End).await;
    }
}

async fn take(store: &Store, archives: Vec<(Option<u32>, Vec<u8>)>, size: usize, whole: bool) -> Result<Labels> {
    let options = BackupOptions {
        tar_bytes: 20_000,
        ..BackupOptions::default()
    };
    // A directory of another machine.
    let mut backup = begin(store, request(Path::new("/nowhere/data")), options).await?;
    let (sender, pieces) = mpsc::channel(2);
    let location = TablespaceLink {
        oid: 16400,
        location: "/ts".into(),
    };
    let (taken, ()) = tokio::join!(
        backup.copy_stream(vec![location], 1 << 20, pieces),
        send(sender, archives, size, whole)
    );
    let labels = match taken {
        Ok(labels) => labels,
        Err(error) => {
            backup.abort().await?;
            return Err(error);
        }
    };
    let stop = StopResult {
        backup_label: labels.backup_label.clone(),
        tablespace_map: labels.tablespace_map.clone(),
        ..stop()
    };
    let prepared = match backup.finish(stop).await {
        Ok(prepared) => prepared,
        Err(error) => {
            discard(store, NAME).await?;
            return Err(error);
        }
    };
    prepared.commit().await?;
    Ok(labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_into_tars_of_our_own() {
    let in_tablespace = tar(&[
        (b"PG_15_202209061".to_vec(), None),
        (b"PG_15_202209061/5".to_vec(), None),
        file("PG_15_202209061/5/16401", &[9; 8192]),
    ]);
    // PostgreSQL ends a tar with two empty blocks from 15 on.
    let base = tar(&data_directory());
    for (size, blocks) in [(1, 2), (511, 0), (65_536, 2)] {
        let repository = tempfile::tempdir().expect("a directory");
        let store = file_store(repository.path());
        let mut base = base.clone();
        base.resize(base.len() + blocks * 512, 0);
        let archives = vec![(Some(16400), in_tablespace.clone()), (None, base)];
        let labels = take(&store, archives, size, true).await.expect("taken");
        assert_eq!(labels.backup_label, stop().backup_label);
        assert_eq!(labels.tablespace_map.as_deref(), Some("16400 /ts\n"));
        let found = members(&store).await;
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "/PG_VERSION",
                "/base",
                "/base/1/PG_VERSION",
                "/base/5/1259",
                "/base/5/PG_VERSION",
                "/global/pg_control",
                "/pg_tblspc/16400/PG_15_202209061",
                "/pg_tblspc/16400/PG_15_202209061/5",
                "/pg_tblspc/16400/PG_15_202209061/5/16401",
                "/pg_wal",
                "/pg_wal/archive_status",
                "/pg_xact/0000",
                "backup_label",
                "tablespace_map",
            ]
        );
        assert_eq!(found["/base/5/1259"], Some(vec![7; 30_000]));
        assert_eq!(found["/pg_tblspc/16400/PG_15_202209061/5/16401"], Some(vec![9; 8192]));
        let tars = store.list(&layout::tar_folder(NAME)).await.expect("listed");
        assert!(tars.len() >= 4, "{tars:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_leaves_nothing() {
    let whole = data_directory();
    let without = |name: &str| -> Vec<Member> {
        let keeps = |member: &&Member| member.0 != name.as_bytes();
        whole.iter().filter(keeps).cloned().collect()
    };
    let with = |member: Member| [&whole[..], &[member]].concat();
    let cut_off = tar(&whole)[..20_000].to_vec();
    let mut control = whole.last().and_then(|(_, content)| content.clone()).expect("there");
    control[0] ^= 1;
    for (base, ends, says) in [
        (cut_off, false, "ended before its end was reached"),
        (tar(&whole), false, "ended before its end was reached"),
        (tar(&without("global/pg_control")), true, "without global/pg_control"),
        (tar(&without("backup_label")), true, "without backup_label"),
        (tar(&without("PG_VERSION")), true, "PG_VERSION"),
        (tar(&without("base/1/PG_VERSION")), true, "base/1/PG_VERSION"),
        (
            tar(&with(file("global/pg_control", &control))),
            true,
            "checksum is wrong",
        ),
        (tar(&with(file("base/../../x", b"x"))), true, "bad path"),
        (tar(&with(file("backup_label", &[0xff, 0xfe]))), true, "is not UTF-8"),
    ] {
        let repository = tempfile::tempdir().expect("a directory");
        let store = file_store(repository.path());
        let error = take(&store, vec![(None, base)], 1000, ends).await.expect_err(says);
        let text = format!("{error} {}", error.detail().unwrap_or_default());
        assert!(text.contains(says), "{text} instead of {says}");
        assert!(!matches!(error, Error::Defect { .. }), "{error}");
        let left = store.list(&layout::backup_folder(NAME)).await.expect("listed");
        assert!(left.is_empty(), "{left:?}");
    }
}

//! Copies between two stores in memory.

mod tail;

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::*;
use crate::error::Error;
use crate::repository::cluster::{self, ClusterIdentity};
use crate::repository::inventory::list_backups;
use crate::repository::layout;
use crate::retention::{Mode, Request, Rule, draw_up};
use crate::wal::SegmentSize;
use walarchive_storage::Store;
use walarchive_testkit::meddler::{Act, Meddler, Op};

const FULL: &str = "base_000000010000000000000002";
const DELTA: &str = "base_000000010000000000000004_D_000000010000000000000002";
const OTHER: &str = "base_000000010000000000000008";

fn memory(url: &str) -> Store {
    Store::of(Arc::new(object_store::memory::InMemory::new()), url)
}

fn identity(system_identifier: u64) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    }
}

async fn put(store: &Store, key: &str, content: &str) {
    store.put(key, Bytes::from(content.to_owned())).await.expect("written");
}

/// Full backups in segments 2 and 8, a delta in 4, and the segments 1 to 9.
async fn source() -> Store {
    let store = memory("memory:source");
    fill(&store).await;
    store
}

async fn fill(store: &Store) {
    cluster::claim(store, &identity(7)).await.expect("claimed");
    for (name, number, parent) in [(FULL, 2u64, None), (DELTA, 4, Some(FULL)), (OTHER, 8, None)] {
        let start = number << 24 | 0x28;
        let mut sentinel = format!(
            r#""LSN": {start}, "FinishLSN": {}, "StartTime": "2026-11-20T10:0{number}:00Z", "PgVersion": 150000,
               "SystemIdentifier": 7"#,
            start + 0x100
        );
        if let Some(parent) = parent {
            sentinel.push_str(&format!(
                r#", "DeltaFrom": "{parent}", "DeltaFullName": "{parent}", "DeltaLSN": {}, "DeltaCount": 1"#,
                2 << 24 | 0x28
            ));
        }
        put(store, &layout::sentinel(name), &format!("{{{sentinel}}}")).await;
        put(store, &layout::tar(name, "part_001.tar.zst"), &format!("tar of {name}")).await;
        put(store, &layout::backup_claim(name), "{}").await;
    }
    for number in 1..=9 {
        put(
            store,
            &format!("wal_005/00000001000000000000000{number}.zst"),
            &format!("wal {number}"),
        )
        .await;
    }
    put(store, "wal_005/00000002.history.zst", "history").await;
}

async fn copy_to(from: &Store, to: &Store, backup: Option<&str>, with_history: bool) -> crate::error::Result<Copied> {
    let request = CopyRequest {
        backup: backup.map(str::to_owned),
        with_history,
    };
    let plan = plan(from, &request).await?;
    apply(
        from,
        to,
        &plan,
        CopyOptions::default(),
        &CopyProgress::default(),
        &CancellationToken::new(),
    )
    .await
}

/// Objects that are in plain text, and such as somebody has encrypted.
#[tokio::test]
async fn nothing_in_plain_text_goes_to_where_all_is_encrypted() {
    let plain = [0x28, 0xb5, 0x2f, 0xfd, 0x20];
    let fill = async |store: &Store, content: &[u8]| {
        for name in [FULL, DELTA, OTHER] {
            let key = layout::tar(name, "part_001.tar.zst");
            store.put(&key, Bytes::copy_from_slice(content)).await.expect("written");
        }
    };
    let only_encrypted = CopyOptions { only_encrypted: true };
    for (content, options, is_beside_encrypted, is_right) in [
        (&plain[..], CopyOptions::default(), false, true),
        (&plain, only_encrypted, false, false),
        (&plain, CopyOptions::default(), true, false),
        (b"noise of ciphertext", only_encrypted, false, true),
        (b"noise of ciphertext", CopyOptions::default(), true, true),
    ] {
        let (from, to) = (source().await, memory("memory:to"));
        fill(&from, content).await;
        if is_beside_encrypted {
            cluster::claim(&to, &identity(7)).await.expect("claimed");
            put(&to, "wal_005/000000010000000000000000.zst", "noise").await;
        }
        let request = CopyRequest::default();
        let planned = plan(&from, &request).await.expect("planned");
        let (progress, cancel) = (CopyProgress::default(), CancellationToken::new());
        let copied = apply(&from, &to, &planned, options, &progress, &cancel).await;
        let case = format!("{content:?} {options:?} {is_beside_encrypted}");
        assert_eq!(copied.is_ok(), is_right, "{case}: {copied:?}");
        let there = to.size(&layout::tar(FULL, "part_001.tar.zst")).await.expect("asked");
        assert_eq!(there.is_some(), is_right, "{case}");
        if let Err(error) = copied {
            assert!(
                error.to_string().contains("is not encrypted, and is not copied"),
                "{error}"
            );
        }
    }
}

async fn wal_of(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = store
        .list(&layout::WAL_FOLDER)
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key.trim_start_matches("wal_005/").to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_delta_comes_with_what_it_is_based_on_and_the_wal_that_they_need() {
    let (from, to) = (source().await, memory("memory:target"));
    let copied = copy_to(&from, &to, Some(DELTA), false).await.expect("copied");
    assert_eq!((copied.sent, copied.there), (2 + 2 + 3, 0));
    let names: Vec<String> = list_backups(&to)
        .await
        .expect("listed")
        .into_iter()
        .map(|backup| backup.name)
        .collect();
    assert_eq!(names, [FULL, DELTA]);
    assert_eq!(
        wal_of(&to).await,
        [
            "000000010000000000000002.zst",
            "000000010000000000000004.zst",
            "00000002.history.zst"
        ]
    );
    assert_eq!(cluster::owner(&to).await.expect("read"), Some(identity(7)));
    assert_eq!(
        to.size(&layout::backup_claim(FULL)).await.expect("asked"),
        None,
        "a claim is of its place"
    );
    // Again, and all of it.
    let again = copy_to(&from, &to, Some(DELTA), false).await.expect("copied");
    assert_eq!((again.sent, again.there), (0, 7));
    let all = copy_to(&from, &to, None, true).await.expect("copied");
    assert_eq!((all.sent, all.there), (2 + 6, 7));
    assert_eq!(
        wal_of(&to).await.len(),
        9,
        "what is older than the oldest backup is of no use"
    );
}

#[tokio::test]
async fn a_copy_that_was_interrupted_goes_on() {
    let (from, to) = (source().await, memory("memory:target"));
    put(&to, "wal_005/000000010000000000000002.zst", "wal 2").await;
    put(&to, &layout::tar(FULL, "part_001.tar.zst"), &format!("tar of {FULL}")).await;
    let copied = copy_to(&from, &to, Some(FULL), false).await.expect("copied");
    assert_eq!((copied.sent, copied.there), (2, 2));
}

#[tokio::test]
async fn what_is_there_with_other_content_is_not_overwritten() {
    for (key, content) in [
        ("wal_005/000000010000000000000002.zst".to_owned(), "another"),
        (layout::tar(FULL, "part_001.tar.zst").into(), "another tar"),
    ] {
        let (from, to) = (source().await, memory("memory:target"));
        put(&to, &key, content).await;
        let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert_eq!(
            to.get(&key, 100).await.expect("read").as_deref(),
            Some(content.as_bytes())
        );
        assert!(list_backups(&to).await.expect("listed").is_empty(), "no sentinel came");
    }
}

#[tokio::test]
async fn what_cannot_be_restored_is_not_copied_and_no_other_cluster_is_mixed_in() {
    let (from, to) = (source().await, memory("memory:target"));
    from.delete("wal_005/000000010000000000000004.zst")
        .await
        .expect("deleted");
    let error = copy_to(&from, &to, Some(DELTA), false).await.expect_err("refused");
    assert!(error.to_string().contains("is not in the archive"), "{error}");
    assert_eq!(wal_of(&to).await, [""; 0]);
    let error = copy_to(&from, &to, Some("base_none"), false)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("there is no backup"), "{error}");
    let foreign = memory("memory:foreign");
    cluster::claim(&foreign, &identity(8)).await.expect("claimed");
    let error = copy_to(&from, &foreign, Some(FULL), false).await.expect_err("refused");
    assert!(matches!(error, Error::ForeignRepository { .. }), "{error:?}");
    let error = copy_to(&from, &from, Some(FULL), false).await.expect_err("refused");
    assert!(error.to_string().contains("the same storage"), "{error}");
}

#[tokio::test]
async fn the_same_size_is_not_the_same_content() {
    for (key, content) in [
        ("wal_005/000000010000000000000002".to_owned(), "wal of ours".to_owned()),
        (layout::tar(FULL, "part_002.tar").into(), "a tar of ours".to_owned()),
    ] {
        let (from, to) = (source().await, memory("memory:target"));
        put(&from, &key, &content).await;
        put(&to, &key, &content.replace("ours", "them")).await;
        let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert!(list_backups(&to).await.expect("listed").is_empty(), "no sentinel came");
    }
}

/// Of an object with a checksum at its end, as WAL has, the ends tell.
#[tokio::test]
async fn a_compressed_object_of_the_same_size_is_known_by_its_ends() {
    let key = "wal_005/000000010000000000000002.zst";
    let mut object = vec![7_u8; 300_000];
    object[..5].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0x04]);
    let mut other = object.clone();
    *other.last_mut().expect("a last byte") = 8;
    for (there, is_same) in [(object.clone(), true), (other, false)] {
        let (from, to) = (source().await, memory("memory:target"));
        from.put(key, object.clone().into()).await.expect("written");
        to.put(key, there.into()).await.expect("written");
        let copied = copy_to(&from, &to, Some(FULL), false).await;
        assert_eq!(copied.is_ok(), is_same, "{copied:?}");
    }
}

#[tokio::test]
async fn another_backup_of_the_same_name_is_refused() {
    let (from, to) = (source().await, memory("memory:target"));
    cluster::claim(&to, &identity(7)).await.expect("claimed");
    let key = layout::sentinel(FULL);
    let sentinel = from.get(&key, 1000).await.expect("read").expect("there");
    let sentinel = String::from_utf8_lossy(&sentinel).into_owned();
    put(&to, &key, &sentinel.replace("T10:02", "T11:02")).await;
    let error = copy_to(&from, &to, None, false).await.expect_err("refused");
    assert!(error.to_string().contains("is another one"), "{error}");
    assert_eq!(wal_of(&to).await, [""; 0], "nothing was written");
}

#[tokio::test]
async fn what_is_missing_of_a_backup_with_a_sentinel_is_sent() {
    let (from, to) = (source().await, memory("memory:target"));
    copy_to(&from, &to, Some(FULL), false).await.expect("copied");
    let tar = layout::tar(FULL, "part_001.tar.zst");
    to.delete(&tar).await.expect("deleted");
    // A mark is of its place.
    let key = layout::sentinel(FULL);
    let sentinel = to.get(&key, 1000).await.expect("read").expect("there");
    let marked = String::from_utf8_lossy(&sentinel).replacen('{', "{\"IsPermanent\": true, ", 1);
    put(&to, &key, &marked).await;
    let copied = copy_to(&from, &to, Some(FULL), false).await.expect("copied");
    assert_eq!((copied.sent, copied.there), (1, 3));
    assert!(to.size(&tar).await.expect("asked").is_some());
    assert_eq!(
        to.get(&key, 1000).await.expect("read").as_deref(),
        Some(marked.as_bytes())
    );
}

/// A key, and its new content; none: it is removed.
type Change<'a> = (&'a str, Option<&'a str>);

/// A store that is deleted from, or written to, when this object is read or written.
async fn meddled(url: &str, inner: &Arc<InMemory>, op: Op, key: &str, changes: &[Change<'_>]) -> Store {
    let meddler = Meddler::new(Arc::clone(inner));
    let changes = changes
        .iter()
        .map(|(key, content)| ((*key).to_owned(), content.map(str::to_owned)));
    meddler.once(op, key, Act::Then(changes.collect()));
    Store::of(Arc::new(meddler), url)
}

#[tokio::test]
async fn a_deletion_meanwhile_ends_the_copy() {
    let (sentinel, tar) = (layout::sentinel(FULL), layout::tar(FULL, "part_001.tar.zst"));
    let (claim, deletion) = (layout::backup_claim(FULL), layout::backup_deletion(FULL));
    let cases: [(&str, Vec<Change<'_>>); 3] = [
        // Somebody deletes it there while it is copied, or has done so.
        (&tar, vec![(&deletion, Some("{}"))]),
        (&tar, vec![(&claim, None), (&tar, None)]),
        // The same when the sentinel is there, and before anybody has looked for it.
        (&sentinel, vec![(&deletion, Some("{}"))]),
    ];
    for (at, (key, changes)) in cases.into_iter().enumerate() {
        let (from, inner) = (source().await, Arc::new(InMemory::new()));
        let to = meddled("memory:target", &inner, Op::Put, key, &changes).await;
        let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
        assert!(error.to_string().contains(FULL), "{at}: {error}");
        assert!(list_backups(&to).await.expect("listed").is_empty(), "{at}");
    }
    // It is deleted in the source.
    let inner = Arc::new(InMemory::new());
    let plain = Store::of(Arc::clone(&inner) as Arc<dyn ObjectStore>, "memory:source");
    fill(&plain).await;
    let from = meddled("memory:source", &inner, Op::Get, &tar, &[(&deletion, Some("{}"))]).await;
    let to = memory("memory:target");
    let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
    assert!(error.to_string().contains("is being deleted"), "{error}");
    assert!(list_backups(&to).await.expect("listed").is_empty());
}

/// Nothing is taken for deleted, and nobody removes the other's sentinel.
#[tokio::test]
async fn two_copies_of_one_backup_do_not_get_in_each_others_way() {
    let (sentinel, tar) = (layout::sentinel(FULL), layout::tar(FULL, "part_001.tar.zst"));
    // The other copy begins and ends at this request of the first: while its tars come, before it looks for the claim, and
    // between that and its own sentinel.
    for (in_source, op, key, nth) in [
        (false, Op::Put, &tar, 0),
        (false, Op::Get, &sentinel, 1),
        (true, Op::Get, &sentinel, 1),
        (true, Op::Get, &sentinel, 2),
    ] {
        let (source, target) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
        let stores = |source: Arc<dyn ObjectStore>, target: Arc<dyn ObjectStore>| {
            (Store::of(source, "memory:source"), Store::of(target, "memory:target"))
        };
        let (from, to) = stores(Arc::clone(&source) as _, Arc::clone(&target) as _);
        fill(&from).await;
        let request = CopyRequest {
            backup: Some(FULL.to_owned()),
            with_history: false,
        };
        let planned = plan(&from, &request).await.expect("a plan");
        let (meddled_source, meddled_target) = (Meddler::new(source), Meddler::new(target));
        let meddler = match in_source {
            true => &meddled_source,
            false => &meddled_target,
        };
        let (key, mut met, ran) = (key.to_string(), 0, Arc::new(Mutex::new(false)));
        let noted = Arc::clone(&ran);
        meddler.rule(move |asked, of| {
            if asked == op && of == key {
                if met == nth {
                    let (from, to) = (from.clone(), to.clone());
                    let whole = std::thread::spawn(move || {
                        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                        runtime.block_on(copy_to(&from, &to, Some(FULL), false))
                    });
                    whole.join().expect("ended").expect("copied");
                    *noted.lock() = true;
                }
                met += 1;
            }
            Act::Pass
        });
        let (from, to) = stores(Arc::new(meddled_source), Arc::new(meddled_target));
        let (progress, cancel) = (CopyProgress::default(), CancellationToken::new());
        let case = format!("{in_source} {op:?} {nth}");
        apply(&from, &to, &planned, CopyOptions::default(), &progress, &cancel)
            .await
            .expect(&case);
        assert!(*ran.lock(), "{case}: there was no other copy");
        assert_eq!(list_backups(&to).await.expect("listed").len(), 1, "{case}");
        assert_eq!(
            to.size(&layout::backup_claim(FULL)).await.expect("asked"),
            None,
            "{case}"
        );
    }
}

/// The WAL comes before the backup, so the other repository must know that somebody will need it.
#[tokio::test]
async fn a_backup_that_is_being_copied_is_seen_there_before_its_wal_comes() {
    let (from, inner) = (source().await, Arc::new(InMemory::new()));
    let (meddler, written) = (Meddler::new(Arc::clone(&inner)), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&written);
    meddler.rule(move |op, key| {
        if op == Op::Put {
            noted.lock().push(key.to_owned());
        }
        Act::Pass
    });
    let to = Store::of(Arc::new(meddler), "memory:target");
    copy_to(&from, &to, Some(DELTA), false).await.expect("copied");
    let written = written.lock().clone();
    let place = |key: &str| written.iter().position(|found| found == key).expect("written");
    for name in [FULL, DELTA] {
        let claim = layout::backup_claim(name);
        assert!(
            place(&claim) < place("wal_005/000000010000000000000002.zst"),
            "{written:?}"
        );
        assert_eq!(to.size(&claim).await.expect("asked"), None, "it is complete");
    }
    // A server takes the same backup there.
    let to = memory("memory:other");
    put(&to, &layout::backup_claim(FULL), r#"{"hostname": "h", "pid": 1}"#).await;
    let error = copy_to(&from, &to, Some(FULL), false).await.expect_err("refused");
    assert!(matches!(error, Error::BackupExists { .. }), "{error:?}");
    // Another copy was killed.
    put(&to, &layout::backup_claim(FULL), r#"{"copy": true, "hostname": "h"}"#).await;
    copy_to(&from, &to, Some(FULL), false).await.expect("copied");
}

/// It keeps one backup, and all WAL from that one on; and what a copy will need.
#[tokio::test]
async fn retention_there_keeps_the_wal_of_a_backup_that_is_on_its_way() {
    let (from, to) = (source().await, memory("memory:target"));
    copy_to(&from, &to, Some(OTHER), false).await.expect("copied");
    put(&to, "wal_005/000000010000000000000002.zst", "wal 2").await;
    let retain = Request::Rule(Rule::Retain {
        count: 1,
        mode: Mode::Full,
        after: None,
    });
    let doomed = async || {
        let plan = draw_up(&to, &retain, &[], Utc::now()).await.expect("a plan");
        let keys = plan.actions.iter().map(|action| action.key().to_string());
        keys.collect::<Vec<_>>()
    };
    let claims = Claims::new(&to).expect("made");
    claims.take(FULL).await.expect("claimed");
    assert_eq!(doomed().await, [""; 0]);
    claims.release_all().await;
    assert_eq!(doomed().await, ["wal_005/000000010000000000000002.zst"]);
}

//! Chains that are not whole, or whose pieces do not fit.

use super::*;
use crate::printable::counted;

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chain_is_refused() {
    let chain = good(None).await;
    for (step, fields, says) in [
        (
            2,
            vec![("DeltaFrom", serde_json::Value::Null)],
            "does not name the parent",
        ),
        (
            1,
            vec![("DeltaFrom", chain.names[2].clone().into())],
            "never comes to a full backup",
        ),
        (
            1,
            vec![("DeltaFrom", chain.names[1].clone().into())],
            "never comes to a full backup",
        ),
        (
            1,
            vec![("SystemIdentifier", 8.into())],
            "is of cluster 7, but its parent",
        ),
        (
            0,
            vec![("PgVersion", 140_001.into())],
            "is of PostgreSQL 15, but its parent",
        ),
        (1, vec![("FinishLSN", 2002.into())], "ends only at 0/7D2"),
        (1, vec![("LSN", 1002.into())], "Its parent starts at"),
        (
            0,
            vec![("FilesMetadataDisabled", true.into())],
            "without files metadata",
        ),
        (
            2,
            vec![("FilesMetadataDisabled", true.into())],
            "without files metadata",
        ),
    ] {
        chain.put_sentinel(step, &fields).await;
        chain.refuses(says).await;
        chain.put_sentinel(step, &[]).await;
    }
    chain
        .store
        .delete(&layout::sentinel(&chain.names[0]))
        .await
        .expect("deleted");
    let error = chain
        .refuses("cannot be restored without all that it is based on")
        .await;
    assert!(matches!(error, Error::NoBackup { .. }), "{error:?}");
    chain.put_sentinel(0, &[]).await;
    chain.comes_back().await;
}

/// The chain, with its newest backup on another timeline.
async fn on_timeline(timeline: u32) -> Chain {
    let mut chain = good(None).await;
    let newest = chain.names[2].clone();
    let name = newest.replacen("base_00000001", &format!("base_{timeline:08X}"), 1);
    for object in chain.store.list("").await.expect("listed") {
        if object.key.contains(&newest) {
            let content = chain
                .store
                .get(&object.key, 1 << 20)
                .await
                .expect("asked")
                .expect("there");
            chain.put(&object.key.replace(&newest, &name), content.to_vec()).await;
        }
    }
    chain.names[2] = name;
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_on_a_branch_that_was_left_is_refused() {
    let chain = on_timeline(3).await;
    // The parent ends at 0/44D on timeline 1.
    let history = layout::wal(&crate::wal::WalFileName::History(3), crate::codec::Format::Plain);
    let put = async |text: &str| chain.put(&history, text.as_bytes().to_vec()).await;
    for text in ["1\t0/44C\tx\n2\t0/500\tx\n", "2\t0/500\tx\n"] {
        put(text).await;
        let error = chain.refuses("does not lead from the end of its parent").await;
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(!chain.target().exists());
    }
    put("1\t0/44D\tx\n2\t0/500\tx\n").await;
    chain.comes_back().await;
    // The restore says what it cannot tell.
    std::fs::remove_dir_all(chain.target()).expect("removed");
    put("rubbish").await;
    let target = chain.target();
    let planned = plan(&chain.store, chain.newest(), &target, RestoreOptions::default());
    let notes = planned.await.expect("planned").plan.notes;
    assert!(
        notes.iter().any(|note| note.contains("has no history of timeline 3")),
        "{notes:?}"
    );
    chain.comes_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_backup_has_is_never_made_up() {
    let with = |path: &'static str, stored: Vec<u8>| zstd(&tar_of(&[file(path, &stored)]));
    let chain = || good(Some(ChecksumAlgorithm::Crc32c));
    // The base file is shorter than the increments on it say.
    let short = chain().await;
    let key = layout::tar(&short.names[0], "part_001.tar.zst");
    let members = [
        file("/base/5/1", &content(&[1; 99])),
        file("/base/5/3", &content(&[3; 10])),
    ];
    short.put(&key, zstd(&tar_of(&members))).await;
    short
        .refuses("1 page of its file \"base/5/1\" cannot be found in any backup")
        .await;
    // It is not in its tar.
    let lost = chain().await;
    lost.put(&key, zstd(&tar_of(&members[..1]))).await;
    lost.refuses("base/5/1").await;
    let lost = good(None).await;
    let members = [file("/base/5/1", &content(&[1; 100]))];
    lost.put(&key, zstd(&tar_of(&members))).await;
    lost.refuses("1 file that it has from older backups cannot be found in any tar. The first is \"base/5/3\"")
        .await;
    // The parent does not know it.
    let unknown = chain().await;
    let key = layout::files_metadata(&unknown.names[1]);
    let metadata = unknown.store.get(&key, 1 << 20).await.expect("asked").expect("there");
    let metadata = String::from_utf8(metadata.to_vec()).expect("text");
    unknown
        .put(&key, metadata.replace("/base/5/3", "/base/5/0").into_bytes())
        .await;
    unknown.refuses("for example \"base/5/3\"").await;
    // The full backup has it only in part.
    let partial = chain().await;
    let key = layout::files_metadata(&partial.names[0]);
    let metadata = partial.store.get(&key, 1 << 20).await.expect("asked").expect("there");
    let metadata = String::from_utf8(metadata.to_vec()).expect("text");
    partial.put(&key, metadata.replace("false", "true").into_bytes()).await;
    partial.refuses("not here in full").await;
    // Increments that are none.
    let key = layout::tar(&partial.names[2], "part_001.tar.zst");
    let good = increment(&[1; 100], &[2; 120], 0, false);
    for (stored, says) in [
        (good[..good.len() - 1].to_vec(), "is not an increment: Its length"),
        (b"wi1U".to_vec(), "is not an increment: It is too short"),
        (content(&[1; 2]), "is not an increment: It does not begin"),
        (
            increment(&[1; 119], &[2; 119], 0, false),
            "the backup manifest says 983040",
        ),
    ] {
        let chain = chain().await;
        chain.put(&key, with("/base/5/1", stored)).await;
        chain.refuses(says).await;
    }
}

/// WAL-G looks for changed pages in the WAL. A page that has extended a relation is not there before it is used.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_between_two_backups_stays_away() {
    for algorithm in [None, Some(ChecksumAlgorithm::Crc32c)] {
        for (steps, left) in [
            (vec![10, 4, 8], 4),
            (vec![4, 4, 8], 4),
            (vec![4, 8], 4),
            (vec![10, 4, 4], 0),
        ] {
            let mut chain = Chain::new(algorithm);
            for pages in &steps {
                chain.take([("base/5/1", vec![1; *pages])].into(), |_| CHANGED).await;
            }
            let last = *steps.last().expect("one");
            let header = IncrementHeader {
                file_size: (last * PAGE) as u64,
                blocks: Vec::new(),
            };
            let tar = tar_of(&[file("/base/5/1", &header.to_bytes())]);
            chain
                .put(&layout::tar(chain.newest(), "part_001.tar.zst"), zstd(&tar))
                .await;
            if algorithm.is_some() && left > 0 {
                // Our increments have all pages by which a file has grown.
                let says = format!(
                    "{} of its file \"base/5/1\" cannot be found in any backup",
                    counted(left, "page")
                );
                chain.refuses(&says).await;
                continue;
            }
            chain.restore().await.expect("restored");
            let mut expected = content(&vec![1; last - left]);
            expected.resize(last * PAGE, 0);
            assert!(
                std::fs::read(chain.target().join("base/5/1")).expect("read") == expected,
                "{steps:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_put_together_is_compared_with_the_manifest() {
    for (algorithm, says) in [
        (
            ChecksumAlgorithm::Crc32c,
            "and the newer pages of the file have a checksum other",
        ),
        (ChecksumAlgorithm::Sha256, "It was put together from several backups"),
    ] {
        let chain = good(Some(algorithm)).await;
        // A page of the oldest backup, and one that stays as it is.
        let key = layout::tar(&chain.names[0], "part_001.tar.zst");
        let mut one = vec![1; 100];
        one[50] = 99;
        let members = |one: &[u8]| {
            let members = [file("/base/5/1", &content(one)), file("/base/5/3", &content(&[3; 10]))];
            zstd(&tar_of(&members))
        };
        chain.put(&key, members(&one)).await;
        chain.refuses(says).await;
        std::fs::remove_dir_all(chain.target()).expect("removed");
        chain.put(&key, members(&[1; 100])).await;
        chain.comes_back().await;
        std::fs::remove_dir_all(chain.target()).expect("removed");
        let other = [
            file("/base/5/1", &content(&[1; 100])),
            file("/base/5/3", &content(&[4; 10])),
        ];
        chain.put(&key, zstd(&tar_of(&other))).await;
        chain
            .refuses("\"base/5/3\" has a checksum other than in the backup manifest")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_backup_is_verified_by_itself_and_with_its_chain() {
    use crate::repository::inventory::Inventory;
    use crate::verify::{VerifyStatus, verify_backup};
    for algorithm in [None, Some(ChecksumAlgorithm::Crc32c)] {
        let chain = good(algorithm).await;
        let key = layout::tar(&chain.names[2], "part_001.tar.zst");
        let intact = chain.store.get(&key, 1 << 20).await.expect("asked").expect("there");
        let findings = async || {
            let inventory = Inventory::load(&chain.store).await.expect("loaded");
            let report = verify_backup(&chain.store, &inventory, chain.newest(), Arc::default()).await;
            let found = report.expect("verified").details.into_iter();
            // No control file of these can be read, they are no whole clusters, and there is no WAL.
            let bad = found.filter(|row| {
                let is_whole = !row.detail.starts_with("It is not in the backup: ");
                row.status != VerifyStatus::Ok
                    && row.what != "wal"
                    && row.path != crate::data_dir::PG_CONTROL
                    && is_whole
            });
            bad.map(|row| format!("{} {}", row.path, row.detail))
                .collect::<Vec<_>>()
        };
        assert_eq!(findings().await, [""; 0]);
        let verify = async || {
            let options = RestoreOptions {
                mode: RestoreMode::VerifyOnly,
                ..RestoreOptions::default()
            };
            let plan = plan(&chain.store, chain.newest(), &chain.target(), options).await?;
            apply(plan, Arc::default(), CancellationToken::new()).await
        };
        assert_eq!(verify().await.expect("in order").files, 6);
        let none = [
            file("/base/5/1", &content(&[1; 2])),
            file("/base/5/5", &content(&[5; 3])),
        ];
        chain.put(&key, zstd(&tar_of(&none))).await;
        let found = findings().await;
        assert!(
            found[0].starts_with("base/5/1 It is not an increment: It does not begin"),
            "{found:?}"
        );
        assert!(verify().await.is_err());
        chain.put(&key, intact.to_vec()).await;
        // Only the chain as a whole shows this.
        let base = layout::tar(&chain.names[0], "part_001.tar.zst");
        let mut one = vec![1; 100];
        one[50] = 99;
        let members = [file("/base/5/1", &content(&one)), file("/base/5/3", &content(&[3; 10]))];
        chain.put(&base, zstd(&tar_of(&members))).await;
        assert_eq!(findings().await, [""; 0]);
        assert_eq!(verify().await.is_err(), algorithm.is_some());
        assert!(!chain.target().exists());
    }
}

/// Pages of each backup of a long chain are in the file that is put together, among many of the others or among few.
#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_byte_in_any_backup_of_a_long_chain_is_found() {
    const FILE: &str = "base/5/1";
    let mut chain = Chain::new(Some(ChecksumAlgorithm::Crc32c));
    chain.take([(FILE, vec![1; 200])].into(), |_| How::Full).await;
    // Of twelve pages, each backup changes one less than its parent did. That one stays as the parent has it.
    for step in 1..=10 {
        let mut state = chain.state.clone();
        for (at, page) in state.get_mut(FILE).expect("there").iter_mut().enumerate() {
            if at % 12 < 12 - step {
                *page = (step * 16 + at % 16) as u8;
            }
        }
        chain.take(state, |_| CHANGED).await;
    }
    chain.comes_back().await;
    for step in 0..=10 {
        std::fs::remove_dir_all(chain.target()).expect("removed");
        let key = layout::tar(&chain.names[step], "part_001.tar.zst");
        let intact = chain.store.get(&key, 1 << 20).await.expect("asked").expect("there");
        let mut tar = zstd::stream::decode_all(&intact[..]).expect("decoded");
        let pages = (0..200).filter(|at| at % 12 < 12 - step).count();
        let header = if step == 0 { 0 } else { 16 + pages * 4 };
        // The last one of the second dozen, behind the headers of a directory and a file.
        tar[1024 + header + (2 * (12 - step) - 1) * PAGE + 100] ^= 1;
        chain.put(&key, zstd(&tar)).await;
        let says = match step {
            // It has the last pages that are missing.
            0 => "and the newer pages of the file have a checksum other",
            _ => "have a checksum other than in the backup manifest",
        };
        chain.refuses(says).await;
        chain.put(&key, intact.to_vec()).await;
    }
    std::fs::remove_dir_all(chain.target()).expect("removed");
    chain.comes_back().await;
}

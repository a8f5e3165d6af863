use super::*;
use crate::Lsn;
use crate::repository::inventory::BackupInfo;
use crate::wal::generator;
use crate::wal::generator::Generator;

/// The segments 5 to 12 of timeline 1.
async fn healthy() -> (Store, Vec<(Segment, Vec<u8>)>) {
    let store = repository().await;
    let segments = generator::segments(1, 5, 8);
    for (segment, content) in &segments {
        put(&store, *segment, content).await;
    }
    (store, segments)
}

async fn verify(store: &Store, selection: Selection) -> Content {
    let inventory = load(store).await;
    let verified = verify_content(store, &inventory, selection, Arc::default()).await;
    verified.expect("verified")
}

/// The segment and the text of each row that is no success.
fn problems(content: &Content) -> Vec<(String, String)> {
    let bad = content.details.iter().filter(|row| row.status != VerifyStatus::Ok);
    bad.map(|row| {
        (
            row.start_segment.clone().unwrap_or_default(),
            row.detail.clone().unwrap_or_default(),
        )
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_not_read_again() {
    let (store, segments) = healthy().await;
    let content = verify(&store, Selection::New).await;
    assert_eq!(
        (content.status, content.verified_count, content.known_count),
        (VerifyStatus::Ok, 8, 0)
    );
    let [row] = &content.details[..] else {
        panic!("{content:?}")
    };
    assert_eq!(row.start_segment, Some(segments[0].0.to_string()));
    assert_eq!(
        (row.end_segment.clone(), row.segments_count),
        (Some(segments[7].0.to_string()), 8)
    );
    let content = verify(&store, Selection::New).await;
    assert_eq!(
        (content.status, content.verified_count, content.known_count),
        (VerifyStatus::Ok, 0, 8)
    );
    assert_eq!(verify(&store, Selection::All).await.verified_count, 8);
    assert_eq!(verify(&store, Selection::Sample(3)).await.verified_count, 3);
    assert_eq!(verify(&store, Selection::Sample(99)).await.verified_count, 8);
    assert_eq!(verify(&store, Selection::Sample(0)).await.verified_count, 0);
    // An object that is written again is new.
    put(&store, segments[3].0, &segments[3].1).await;
    assert_eq!(verify(&store, Selection::New).await.verified_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_is_named_and_nothing_else() {
    let foreign = {
        let mut wal = Generator::new(1, 7);
        wal.system_identifier = 7;
        wal.fill(1);
        wal.segments().swap_remove(0).1
    };
    let (_, segments) = healthy().await;
    let mut flipped = segments[2].1.clone();
    flipped[SIZE_BYTES / 2 + 100] ^= 1;
    let of_timeline_2 = generator::segments(2, 7, 1).swap_remove(0).1;
    let cases: [(&[u8], &str); 6] = [
        (
            &segments[3].1,
            "The first page is of LSN 0/800000, the file's name says 0/700000.",
        ),
        (&foreign, "system identifier 7"),
        (&of_timeline_2, "The first page is of timeline 2"),
        (&flipped, "has a wrong checksum"),
        (&segments[2].1[..SIZE_BYTES / 2], "It has 524288 bytes"),
        (
            &[segments[2].1.as_slice(), b"more"].concat(),
            "more bytes than a WAL segment",
        ),
    ];
    for (content, says) in cases {
        let (store, segments) = healthy().await;
        put(&store, segments[2].0, content).await;
        for selection in [Selection::All, Selection::New] {
            let found = verify(&store, selection).await;
            let [(segment, detail)] = &problems(&found)[..] else {
                panic!("{says}: {found:?}")
            };
            assert_eq!(*segment, segments[2].0.to_string());
            assert!(detail.contains(says), "\"{detail}\" does not say \"{says}\"");
            assert_eq!(found.status, VerifyStatus::Failure);
            // It is not remembered as verified, and the others are: the second time it is the only new one.
            assert_eq!(found.verified_count, if selection == Selection::All { 8 } else { 1 });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_the_object_is_named() {
    let (_, segments) = healthy().await;
    let name = segments[2].0;
    for cut in [true, false] {
        let (store, _) = healthy().await;
        let mut object = store
            .get(&key(name), 1 << 20)
            .await
            .expect("read")
            .expect("there")
            .to_vec();
        let middle = object.len() / 2;
        match cut {
            true => object.truncate(middle),
            false => object[middle] ^= 1,
        }
        store.put(&key(name), object.into()).await.expect("written");
        let found = problems(&verify(&store, Selection::All).await);
        assert!(found.len() == 1 && found[0].0 == name.to_string(), "{found:?}");
        assert!(found[0].1.starts_with("It cannot be decompressed: "), "{found:?}");
    }
    // Swapped with its neighbour: both are told.
    let (store, segments) = healthy().await;
    put(&store, segments[2].0, &segments[3].1).await;
    put(&store, segments[3].0, &segments[2].1).await;
    let found = problems(&verify(&store, Selection::All).await);
    let names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [segments[2].0.to_string(), segments[3].0.to_string()]);
    // A segment of another timeline under this one's name.
    let store = repository().await;
    put(
        &store,
        Segment {
            timeline: 2,
            ..segments[2].0
        },
        &segments[2].1,
    )
    .await;
    let found = problems(&verify(&store, Selection::All).await);
    assert!(
        found[0]
            .1
            .contains("All its WAL is of timeline 1, the file's name says 2."),
        "{found:?}"
    );
}

/// Its end is checked only with the segment that comes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_goes_on_in_a_segment_that_comes_later_is_checked() {
    let store = repository().await;
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &vec![7; SIZE_BYTES + 100]);
    wal.fill(2);
    let segments = wal.segments();
    let mut damaged = segments[0].1.clone();
    damaged[SIZE_BYTES / 2 + 100] ^= 1;
    put(&store, segments[0].0, &damaged).await;
    assert_eq!(
        verify(&store, Selection::New).await.status,
        VerifyStatus::Ok,
        "nobody can know"
    );
    put(&store, segments[1].0, &segments[1].1).await;
    let found = verify(&store, Selection::New).await;
    assert_eq!(found.verified_count, 1);
    assert!(
        problems(&found)[0].1.contains("which begins in the segment before"),
        "{found:?}"
    );
    // Neither is remembered as verified now.
    assert_eq!(verify(&store, Selection::New).await.verified_count, 2);
    put(&store, segments[0].0, &segments[0].1).await;
    assert_eq!(verify(&store, Selection::New).await.status, VerifyStatus::Ok);
    assert_eq!(verify(&store, Selection::New).await.verified_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_is_no_success() {
    assert_eq!(
        verify(&repository().await, Selection::All).await.status,
        VerifyStatus::Warning
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_is_read_to_its_end() {
    let store = repository().await;
    let begun: chrono::DateTime<chrono::Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
    let mut wal = Generator::new(1, 5);
    wal.fill(1);
    (0..6).for_each(|_| wal.record(10, 0, &[7; 5_000]));
    wal.commit(begun);
    let end = wal.position() as usize % SIZE_BYTES;
    wal.fill(2);
    let mut segments = wal.segments().into_iter();
    let (first, next) = segments.next().zip(segments.next()).expect("two segments");
    put(&store, first.0, &first.1).await;
    let chunk = |start: usize, end: usize| layout::TailChunk {
        segment: next.0,
        epoch: 1,
        start: start as u64,
        end: end as u64,
    };
    let put_chunk = async |chunk: layout::TailChunk, content: &[u8]| {
        let object = packed(content);
        store.put(&chunk.key(), object.into()).await.expect("written");
    };
    assert!(end > 20_000, "it has several pages");
    // Within a record, and within a page header.
    for (start, end) in [(0, 10_000), (8_000, 16_390), (16_390, end)] {
        put_chunk(chunk(start, end), &next.1[start..end]).await;
    }
    let content = verify(&store, Selection::All).await;
    assert_eq!(
        (content.status, content.details.len()),
        (VerifyStatus::Ok, 2),
        "{content:?}"
    );
    let mut backup = BackupInfo::example(&format!("base_{}", first.0));
    backup.metadata.start_lsn = Lsn(first.0.start(generator::size()).0 + 40);
    backup.metadata.finish_lsn = Lsn(backup.metadata.start_lsn.0 + 40);
    backup.metadata.finish_time = begun - chrono::TimeDelta::days(1);
    let mut inventory = load(&store).await;
    inventory.backups.push(backup.clone());
    let windows = timed_windows(&store, &inventory).await.expect("read");
    let ends: Vec<_> = windows
        .iter()
        .map(|window| (window.end_lsn.0, window.end_time))
        .collect();
    assert_eq!(ends, [(next.0.start(generator::size()).0 + end as u64, begun)]);

    let mut flipped = next.1[16_390..end].to_vec();
    flipped[2_000] ^= 1;
    for (content, says) in [
        (flipped, "has a wrong checksum"),
        (next.1[16_390..end - 8].to_vec(), "It has fewer than the"),
        (next.1[16_390..end + 8].to_vec(), "It has more than the"),
    ] {
        put_chunk(chunk(16_390, end), &content).await;
        let found = problems(&verify(&store, Selection::New).await);
        assert!(
            matches!(&found[..], [(segment, detail)] if *segment == next.0.to_string() && detail.contains(says)),
            "{says}: {found:?}"
        );
    }
    // A window ends before a chunk that cannot be read.
    store
        .put(&chunk(16_390, end).key(), "no zstd".into())
        .await
        .expect("written");
    let mut inventory = load(&store).await;
    inventory.backups.push(backup.clone());
    let windows = timed_windows(&store, &inventory).await.expect("read");
    let start = next.0.start(generator::size()).0;
    assert_eq!(windows[0].end_lsn, Lsn(start + 16_390));
    assert_eq!(
        windows[0].missing.as_ref().map(ToString::to_string),
        Some(next.0.to_string())
    );
    // A chunk between is lost.
    put_chunk(chunk(16_390, end), &next.1[16_390..end]).await;
    store.delete(&chunk(8_000, 16_390).key()).await.expect("deleted");
    let found = problems(&verify(&store, Selection::New).await);
    let says = format!(
        "The tail lacks what is from LSN {} to {}",
        Lsn(start + 10_000),
        Lsn(start + 16_390)
    );
    assert!(
        matches!(&found[..], [(_, detail)] if detail.starts_with(&says)),
        "{found:?}"
    );
    let inventory = load(&store).await;
    let names = integrity(&inventory, &Live::default());
    assert_eq!(names.status, VerifyStatus::Failure, "{names:?}");
    // The sample is of what is archived.
    assert_eq!(problems(&verify(&store, Selection::Sample(9)).await), []);
}

use std::sync::atomic::Ordering;

use super::*;

/// Of the tail what a recovery may read, and only where WAL is copied that no backup needs.
#[tokio::test]
async fn the_tail_goes_with_the_history() {
    let from = source().await;
    let folder = "walarchive_005/tail/00000001000000000000000A";
    let chunk = |name: &str| format!("{folder}/{name}.zst");
    let last = [chunk("00000002-00000000-00000100"), chunk("00000002-00000100-00000200")];
    for key in [
        &last[0],
        &last[1],
        &chunk("00000001-00000000-00000300"),
        &"walarchive_005/tail/000000010000000000000009/00000002-00000000-00000100.zst".to_owned(),
        &"walarchive_005/tail/epoch/00000002.json".to_owned(),
    ] {
        put(&from, key, key).await;
    }
    let of_tail = async |store: &Store| -> Vec<String> {
        let listed = store.list(&layout::TAIL_FOLDER).await.expect("listed");
        let mut keys: Vec<String> = listed.into_iter().map(|object| object.key).collect();
        keys.sort();
        keys
    };
    let to = memory("memory:target");
    copy_to(&from, &to, None, false).await.expect("copied");
    assert_eq!(of_tail(&to).await, [""; 0]);
    copy_to(&from, &to, None, true).await.expect("copied");
    assert_eq!(of_tail(&to).await, last);
    // The segment is archived whole meanwhile.
    let request = CopyRequest {
        backup: None,
        with_history: true,
    };
    let planned = plan(&from, &request).await.expect("a plan");
    assert_eq!(planned.tail.len(), 2);
    from.delete(&layout::TailChunk::of_key(&last[1]).expect("a chunk").key())
        .await
        .expect("deleted");
    let other = memory("memory:other");
    let (options, progress) = (CopyOptions::default(), CopyProgress::default());
    apply(&from, &other, &planned, options, &progress, &CancellationToken::new())
        .await
        .expect("copied");
    assert_eq!(of_tail(&other).await, last[..1]);
    let done = progress.objects.load(Ordering::Relaxed);
    assert_eq!(done as usize, planned.objects());
}

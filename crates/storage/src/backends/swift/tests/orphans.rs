use chrono::TimeDelta;

use super::*;
use crate::backends::swift::multipart::unique;
use crate::backends::swift::replace::REPLACED;
use crate::pending::{PendingUpload, PendingUploads};

async fn pending(store: &SwiftStore, folder: &str) -> Vec<PendingUpload> {
    let orphans = store.orphans();
    let pages: Vec<Vec<PendingUpload>> = orphans.list(&path(folder)).try_collect().await.expect("listed");
    pages.into_iter().flatten().collect()
}

async fn discard(store: &SwiftStore, upload: &PendingUpload, older_than: TimeDelta) -> bool {
    store.orphans().discard(upload, older_than).await.expect("asked")
}

pub(super) async fn orphans(store: &SwiftStore, server: &SwiftServer) {
    let names = || {
        let names = server.names().into_iter();
        names.filter(|name| name.contains("orphans/")).collect::<Vec<_>>()
    };
    put_large(store, "orphans/whole", &[b"who", b"le"]).await;
    // A crash before the end of an upload; that object came later by another one.
    drop(upload(store, "orphans/none", &[b"a", b"b", b"c"]).await);
    drop(upload(store, "orphans/late", &[b"1"]).await);
    put_large(store, "orphans/late", &[b"la", b"te"]).await;
    // Somebody else's folder.
    drop(upload(store, "orphans2/none", &[b"a"]).await);
    // A crash while an object was written over: its manifest is there twice.
    let aside = format!("{}{REPLACED}", unique("orphans/whole"));
    let orphans = store.orphans();
    let call = orphans.client.copy_call("orphans/whole", &aside);
    orphans
        .client
        .ask(call.query("multipart-manifest", "get"))
        .await
        .expect("copied");

    let mut found = pending(store, "orphans").await;
    found.sort_by(|left, right| left.key.cmp(&right.key));
    let told: Vec<_> = found.iter().map(|upload| (upload.key.as_str(), upload.bytes)).collect();
    assert_eq!(
        told,
        [
            ("orphans/late", Some(1)),
            ("orphans/none", Some(3)),
            ("orphans/whole", found[2].bytes)
        ]
    );
    assert!(found[2].id.ends_with(REPLACED), "{found:?}");
    let before = names().len();
    for upload in &found {
        assert!(upload.age() < TimeDelta::minutes(10), "{upload:?}");
        assert!(!discard(store, upload, TimeDelta::days(1)).await);
    }
    assert_eq!(names().len(), before);
    for upload in &found {
        assert!(discard(store, upload, TimeDelta::zero()).await, "{upload:?}");
    }
    assert!(pending(store, "orphans").await.is_empty());
    assert_eq!(names().len(), 2 + 4, "{:?}", names());
    assert_eq!(get(store, "orphans/whole").await, "whole");
    assert_eq!(get(store, "orphans/late").await, "late");

    // One that is completed between the listing and the removal.
    let mut unfinished = upload(store, "orphans/soon", &[b"so", b"on"]).await;
    let found = pending(store, "orphans").await;
    assert_eq!(found.len(), 1);
    unfinished.complete().await.expect("complete");
    assert!(!discard(store, &found[0], TimeDelta::zero()).await);
    assert_eq!(get(store, "orphans/soon").await, "soon");
}

/// The object's servers may all be away, and the proxy makes "not found" of that. The listing knows better.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_listed_is_not_missing() {
    let id = "0123456789abcdef0123456789abcdef";
    let entry = |name: &str| {
        format!(r#"[{{"name": "{name}", "bytes": 3, "hash": "x", "last_modified": "2026-11-19T09:00:00.000000"}}]"#)
    };
    let start = move |listed: bool| {
        Mock::start(move |url, head, _| {
            let (line, date) = (
                head.lines().next().unwrap_or_default(),
                "Date: Fri, 20 Nov 2026 10:00:00 GMT\r\n",
            );
            match line {
                "GET /auth" => Mock::token(url, "t"),
                _ if line.starts_with("HEAD /v1/c/") => Mock::answer("404 Not Found", date, ""),
                _ if line.starts_with("HEAD") => Mock::answer("204 No Content", date, ""),
                _ if line.starts_with("DELETE") => Mock::answer("204 No Content", date, ""),
                _ if line.contains("marker=.walarchive") => Mock::answer("200 OK", date, "[]"),
                _ if line.contains("prefix=.walarchive") => {
                    let name = format!("{SEGMENTS}p/a/{id}/00000000");
                    Mock::answer("200 OK", date, &entry(&name))
                }
                _ if listed => Mock::answer("200 OK", date, &entry("p/a")),
                _ => Mock::answer("200 OK", date, &entry("p/a.zst")),
            }
        })
    };
    for listed in [true, false] {
        let mock = start(listed);
        let store = mocked(&mock);
        let found = pending(&store, "p").await;
        assert_eq!((found.len(), found[0].age()), (1, TimeDelta::hours(25)));
        assert_eq!(discard(&store, &found[0], TimeDelta::hours(24)).await, !listed);
        let deleted = format!("DELETE /v1/c/{SEGMENTS}p/a/{id}/00000000");
        assert_eq!(mock.seen(&deleted), usize::from(!listed));
    }
}

//! Credentials that are replaced while the work runs: no reload, no restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use walarchive_storage::Store;

use crate::s3::{KINDS, Place, credentials, denial, fine, key_of, perform};

/// A store that takes the old key until it is told to.
fn rotating(status: u16, code: &'static str) -> (Place, Arc<AtomicBool>) {
    let rotated = Arc::new(AtomicBool::new(false));
    let of_mock = Arc::clone(&rotated);
    let place = Place::new(move |request| {
        let wanted = if of_mock.load(Ordering::SeqCst) { "NEW" } else { "OLD" };
        if key_of(request) == wanted {
            fine(request)
        } else {
            denial(status, code)
        }
    });
    (place, rotated)
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_again_after_a_denial() {
    for (status, code) in [
        (400, "ExpiredToken"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "AccessDenied"),
    ] {
        for kind in KINDS.into_iter().chain(["size"]) {
            let (place, rotated) = rotating(status, code);
            let store = place.store();
            perform(&store, kind).await.expect("the old credentials are good");
            rotated.store(true, Ordering::SeqCst);
            place.replace(&credentials("NEW"));
            perform(&store, kind)
                .await
                .unwrap_or_else(|error| panic!("{code} {kind}: {error:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_come_a_moment_after_the_denial_are_waited_for() {
    for kind in ["put", "upload", "list", "size"] {
        let (place, rotated) = rotating(403, "InvalidAccessKeyId");
        let store = Store::open(&place.config().for_backup()).expect("a store");
        perform(&store, kind).await.expect("the old credentials are good");
        rotated.store(true, Ordering::SeqCst);
        let work = tokio::spawn({
            let store = store.clone();
            async move { perform(&store, kind).await }
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        place.replace(&credentials("NEW"));
        let done = work.await.expect("no panic");
        done.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_read_before_anything_is_denied() {
    let place = Place::new(fine);
    let store = place.store();
    perform(&store, "put").await.expect("written");
    place.replace(&credentials("NEW"));
    let last_key = || place.mock.requests().last().map(|request| key_of(request).to_owned());
    let end = Instant::now() + Duration::from_secs(20);
    while last_key().as_deref() != Some("NEW") {
        assert!(Instant::now() < end, "the new file was never read");
        tokio::time::sleep(Duration::from_millis(200)).await;
        perform(&store, "put").await.expect("written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_half_written_changes_nothing() {
    let place = Place::new(fine);
    let store = place.store();
    perform(&store, "put").await.expect("written");
    for broken in ["aws_access_key_id = NEW\n", "aws_access_key_id = NEW\naws_secr", ""] {
        // In place, as an editor without a temporary file does it.
        std::fs::write(&place.file, broken).expect("written");
        tokio::time::sleep(Duration::from_millis(1200)).await;
        perform(&store, "put")
            .await
            .unwrap_or_else(|error| panic!("{broken:?}: {error:?}"));
        assert_eq!(place.mock.requests().last().map(key_of), Some("OLD"), "{broken:?}");
    }
    std::fs::remove_file(&place.file).expect("removed");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    perform(&store, "put").await.expect("the old credentials serve");
    place.replace(&credentials("NEW"));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    perform(&store, "put").await.expect("written");
    assert_eq!(place.mock.requests().last().map(key_of), Some("NEW"));
}

/// Line by line, so that the token comes last: the half of it is a pair of keys that no store takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_opened_on_half_a_file_goes_on_with_the_whole() {
    let place = Place::new(|request| match request.header("x-amz-security-token") {
        Some(_) => fine(request),
        None => denial(403, "InvalidAccessKeyId"),
    });
    place.replace(&credentials("KEY"));
    let store = place.store();
    let work = tokio::spawn(async move { perform(&store, "put").await });
    while place.mock.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place.replace(&format!("{}aws_session_token = TOKEN\n", credentials("KEY")));
    work.await.expect("no panic").expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_looked_at_no_more_than_needed() {
    let place = Place::new(fine);
    let store = place.store();
    perform(&store, "put").await.expect("written");
    // Parsed again only if it has changed: these are the same, so the key stays what it was.
    for _ in 0..50 {
        perform(&store, "put").await.expect("written");
    }
    assert!(place.mock.requests().iter().all(|request| key_of(request) == "OLD"));
}

//! Denials that stay: at once, and with the place where the credentials came from.

use std::time::{Duration, Instant};

use crate::s3::{Place, denial, perform};

#[tokio::test(flavor = "multi_thread")]
async fn the_file_in_use_is_named() {
    let place = Place::new(|_| denial(403, "AccessDenied"));
    for kind in ["put", "get", "list", "delete", "upload"] {
        let started = Instant::now();
        let error = perform(&place.store(), kind).await.expect_err(kind);
        let hint = error.hint().unwrap_or_default();
        println!("{kind}: {error}; {hint}");
        assert!(
            hint.contains(&format!("\"{}\"", place.file.display())),
            "{kind}: {hint}"
        );
        assert!(hint.contains("walarchive.credentials_file"), "{kind}: {hint}");
        assert!(
            !hint.contains("secret-of") && !hint.contains("AWS_ACCESS_KEY_ID"),
            "{kind}: {hint}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "{kind}: it was waited for nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_were_never_good_are_refused_at_once() {
    let place = Place::new(|_| denial(403, "InvalidAccessKeyId"));
    let store = walarchive_storage::Store::open(&place.config().for_backup()).expect("a store");
    let started = Instant::now();
    perform(&store, "put").await.expect_err("denied");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // A file that was written just now may still be growing, so the first denial is looked into. The next one is believed.
    let before = place.mock.requests().len();
    assert!(before <= 4, "{before}");
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let before = place.mock.requests().len();
        perform(&store, "put").await.expect_err("denied");
        if place.mock.requests().len() == before + 1 {
            break;
        }
        assert!(Instant::now() < end, "asked again and again");
    }
}

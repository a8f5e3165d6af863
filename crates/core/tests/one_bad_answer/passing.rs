//! Answers that pass: the same request a moment later is accepted.

use chrono::TimeDelta;

use crate::s3::{KINDS, Place, denial, perform, skewed};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_came_too_slowly_is_sent_again() {
    for kind in KINDS {
        let (place, script) = Place::scripted([denial(400, "RequestTimeout"), denial(400, "RequestTimeout")]);
        perform(&place.store(), kind)
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(script.rest(), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_in_the_middle_of_an_upload_is_sent_again() {
    for code in ["RequestTimeout", "RequestTimeTooSkewed"] {
        let (place, script) = Place::scripted([]);
        let store = place.store();
        perform(&store, "put").await.expect("written");
        // The upload begins; then its parts are refused.
        script.say([
            crate::s3::fine(&begin()),
            denial(if code == "RequestTimeout" { 400 } else { 403 }, code),
            denial(if code == "RequestTimeout" { 400 } else { 403 }, code),
        ]);
        perform(&store, "upload")
            .await
            .unwrap_or_else(|error| panic!("{code}: {error:?}"));
        let parts = place.mock.requests();
        let parts = parts.iter().filter(|request| request.target.contains("partNumber="));
        assert_eq!(
            parts.count(),
            4,
            "{code}: two parts, each or one of them more than once"
        );
    }
}

fn begin() -> walarchive_testkit::Request {
    walarchive_testkit::Request {
        method: "POST".to_owned(),
        target: "/bucket/p/k?uploads".to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_right_is_no_failure() {
    for kind in KINDS {
        let (place, script) = Place::scripted([skewed(TimeDelta::hours(1)), skewed(TimeDelta::hours(1))]);
        perform(&place.store(), kind)
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(script.rest(), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_stays_wrong_is_named_with_both_times() {
    let place = Place::new(|_| skewed(TimeDelta::hours(2)));
    let mut config = place.config();
    config.patience = std::time::Duration::from_secs(2);
    let store = walarchive_storage::Store::open(&config).expect("a store");
    for kind in ["put", "get", "size", "list", "delete", "upload"] {
        let error = perform(&store, kind).await.expect_err(kind);
        let text = format!("{error}; {:?}; {:?}", error.detail(), error.hint());
        println!("{kind}: {text}");
        assert!(error.to_string().contains("clock"), "{text}");
        let detail = error.detail().unwrap_or_default();
        let here = chrono::Utc::now().format("%Y-%m-%d").to_string();
        assert!(detail.contains(&here) && detail.contains("UTC here"), "{text}");
        assert!(
            detail.contains("UTC at the store") && detail.contains("ahead"),
            "{text}"
        );
        assert!(error.hint().unwrap_or_default().contains("NTP"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reaches_its_clock_row() {
    let place = Place::new(|_| skewed(TimeDelta::hours(-3)));
    let mut config = place.config();
    config.patience = std::time::Duration::from_secs(2);
    let store = walarchive_storage::Store::open(&config).expect("a store");
    let checks = walarchive_core::check::check_store(&store, None).await;
    let clock = checks.iter().find(|check| check.name == "clock").expect("a row");
    assert_eq!(clock.status, walarchive_core::check::CheckStatus::Failed);
    assert!(
        clock.detail.contains("UTC here") && clock.detail.contains("s behind"),
        "{}",
        clock.detail
    );
    assert!(clock.hint.as_ref().is_some_and(|hint| hint.contains("NTP")));
}

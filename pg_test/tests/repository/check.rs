//! `walarchive_check()` and `walarchive check`: a row for each thing, and nothing left behind.

use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, run};

/// `name status` of each row.
fn rows(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.psql("SELECT check_name || ' ' || status FROM walarchive_check()");
    rows.lines().map(str::to_owned).collect()
}

/// Status, detail and hint of one row.
fn row(cluster: &Cluster, name: &str) -> String {
    cluster.psql(&format!(
        "SELECT status, detail, hint FROM walarchive_check() WHERE check_name = '{name}'"
    ))
}

fn wait_worker(cluster: &Cluster) {
    cluster.wait_until("the worker runs", PATIENCE, || {
        cluster.psql("SELECT uploader_pid IS NOT NULL FROM walarchive_status") == "t"
    });
}

fn all_is_well(site: &Site) {
    let primary = site.primary(&[]);
    wait_worker(&primary);
    let expected = [
        "preload",
        "archive_mode",
        "wal_level",
        "archive_library",
        "uploader",
        "archiver",
        "settings",
        "store",
        "list",
        "create",
        "create again",
        "clock",
        "read",
        "range",
        "multipart",
        "delete",
        "owner",
    ];
    let expected: Vec<_> = expected.iter().map(|name| format!("{name} ok")).collect();
    let found = rows(&primary);
    assert_eq!(found[..expected.len()], expected);
    assert_eq!(
        found[expected.len()..],
        ["newest backup warning", "lease ok", "branches ok"]
    );
    let binary = run(&mut site.walarchive(&["check"]));
    assert_eq!(binary.code, Some(1), "{binary:?}");
    assert!(binary.stdout.contains("SELECT walarchive_backup_push()"), "{binary:?}");

    backup(&primary, "");
    archive_all(&primary);
    let objects = || {
        let mut keys = site.objects("walarchive_005");
        // The lease may be renewed in this moment.
        keys.retain(|key| !key.contains("/lease/"));
        keys
    };
    let before = objects();
    assert!(
        rows(&primary).iter().all(|row| row.ends_with(" ok")),
        "{:?}",
        rows(&primary)
    );
    assert!(row(&primary, "create again").contains("create-only writes are honoured"));
    assert_eq!(
        primary.psql("SELECT count(*) FROM walarchive_check() WHERE latency_ms > 0"),
        "8"
    );
    let binary = run(&mut site.walarchive(&["check", "--json"]));
    assert_eq!(binary.code, Some(0), "{binary:?}");
    assert!(binary.stdout.contains(r#""check": "multipart""#), "{binary:?}");
    assert_eq!(objects(), before, "something is left behind");

    // The first segment of the only backup.
    let segment = primary.psql("SELECT substr(backup_name, 6) FROM walarchive_backups");
    std::fs::remove_file(site.object(&format!("wal_005/{segment}.zst"))).expect("could not remove the object");
    let newest = row(&primary, "newest backup");
    assert!(newest.starts_with("failed|") && newest.contains(&segment), "{newest}");
    assert_eq!(run(&mut site.walarchive(&["check"])).code, Some(2));
}

#[test]
fn a_directory_that_is_well() {
    all_is_well(&Site::on_files());
}

#[test]
fn an_s3_server_that_is_well() {
    all_is_well(&Site::on_s3());
}

#[test]
fn what_is_wrong_is_said() {
    let site = Site::on_s3();
    let cluster = site
        .builder("primary")
        .setting("shared_preload_libraries", "")
        .setting("archive_mode", "off")
        .setting("archive_library", "")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let found = rows(&cluster);
    for name in ["preload", "archive_mode", "archive_library", "uploader", "store"] {
        assert!(found.contains(&format!("{name} failed")), "{found:?}");
    }
    assert_eq!(found.last().map(String::as_str), Some("store failed"), "{found:?}");
    let store = row(&cluster, "store");
    assert!(
        store.contains("the store denied permission to read") && store.contains("Check the access key"),
        "{store}"
    );
    assert!(!store.contains("hunter2"), "{store}");
    let hints = cluster.psql("SELECT count(*) FROM walarchive_check() WHERE status <> 'ok' AND hint IS NULL");
    assert_eq!(hints, "0");
    cluster.psql("CREATE ROLE nobody");
    let refused = cluster.try_psql_verbose("SET ROLE nobody; SELECT walarchive_check()");
    assert!(
        refused
            .stderr
            .contains("permission denied for function walarchive_check"),
        "{refused:?}"
    );

    cluster.set("walarchive.storage", "");
    cluster.reload();
    let settings = row(&cluster, "settings");
    assert!(
        settings.starts_with("failed|walarchive.storage is not set|"),
        "{settings}"
    );

    if let Some(s3) = site.s3() {
        s3.stop();
    }
    let binary = run(&mut site.walarchive(&["check"]));
    assert_eq!(binary.code, Some(2), "{binary:?}");
    assert!(
        binary.stdout.contains("failed   store") && binary.stdout.contains("check that the store is up"),
        "{binary:?}"
    );
}

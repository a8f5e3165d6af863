//! A server that encrypts with libsodium: what it stores, who can restore it, and who is refused.

use std::fs;

use walarchive_pg_test::archiving::{switch_segments, wait_drained, wait_message};
use walarchive_pg_test::encrypted::{
    Independent, assert_unreadable, compare_with, encrypting, hex, plain_objects, primary, sealed_objects, sodium_file,
    sodium_key, text,
};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused, wait_settled};
use walarchive_testkit::{Cluster, PATIENCE, run};

const ROWS: &str = "SELECT count(*), sum(a) FROM t";

/// A row of `walarchive_check()`.
#[track_caller]
fn check(cluster: &Cluster, name: &str) -> String {
    cluster.psql(&format!(
        "SELECT status, detail FROM walarchive_check() WHERE check_name = '{name}'"
    ))
}

#[test]
fn all_that_is_stored_is_encrypted_and_comes_back_with_the_key() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    let full = backup(&cluster, "");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    wait_settled(&cluster);
    let delta = backup(&cluster, "");
    assert!(!full.contains("_D_") && delta.contains("_D_"), "{full} {delta}");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)");
    let rows = cluster.psql(ROWS);
    cluster.psql("SELECT pg_create_restore_point('here')");
    cluster.psql("DELETE FROM t");
    switch_segments(&cluster, 3);
    archive_all(&cluster);
    wait_drained(&cluster);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    // The server reads its own.
    let bad = "SELECT segment, status, detail FROM (SELECT start_segment, segment_status, detail \
               FROM walarchive_wal_verify('content:all')) AS v (segment, status, detail) WHERE status <> 'ok'";
    assert_eq!(cluster.psql(bad), "");
    for name in [&full, &delta] {
        let verified = cluster.psql(&format!(
            "SELECT DISTINCT status FROM walarchive_backup_verify('{name}')"
        ));
        assert_eq!(verified, "ok", "{name}");
    }
    for name in ["encryption", "encrypt"] {
        let row = check(&cluster, name);
        assert!(row.starts_with("ok|"), "{name}: {row}");
    }
    assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    let with_key = ["--encryption-key-file", key.as_str()];
    let objects = compare_with(&site, &cluster, &Independent::PyNaCl(1), &with_key);
    assert!(objects > 12, "{objects}");
    // The key is nowhere but in its file.
    let secret = hex(sodium_key(1));
    assert!(!cluster.log().contains(&secret));
    assert_eq!(cluster.psql("SHOW walarchive.encryption_key_file"), key);
    for key in site.objects("walarchive_005") {
        let content = fs::read(site.object(&key)).expect("read");
        assert!(!String::from_utf8_lossy(&content).contains(&secret), "{key}");
    }
    lose(&cluster);

    assert_unreadable(&site, &segment, &[], "encrypted");
    let (_, fetched) = site.backup_fetch("without", "LATEST", &[]);
    let says = "is encrypted, and no key is configured";
    assert!(
        fetched.code == Some(200) && fetched.stderr.contains(says),
        "{fetched:?}"
    );
    let other = sodium_file(&site, "other", &[2]);
    assert_unreadable(
        &site,
        &segment,
        &["--encryption-key-file", &other],
        "cannot be decrypted with the keys that are configured",
    );
    let args = [&with_key[..], &["--target-name", "here"]].concat();
    let target = site.restore("restored", "LATEST", &args);
    let settings = fs::read_to_string(target.join("postgresql.auto.conf")).expect("read");
    assert!(
        settings.contains(&format!("--encryption-key-file {key}")) && !settings.contains(&secret),
        "{settings}"
    );
    let restored = site.restored("restored").attach(&target);
    wait_paused(&restored);
    assert_eq!(restored.psql(ROWS), rows);
}

/// None, another method and another key are refused before a byte is written. The right one goes on.
#[test]
fn who_does_not_encrypt_as_the_repository_is_writes_nothing() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let other = sodium_file(&site, "other", &[2]);
    let cluster = primary(&site, "libsodium", &key);
    archive_all(&cluster);
    wait_drained(&cluster);
    for (setting, value, says) in [
        ("walarchive.encryption", "none", "is encrypted"),
        ("walarchive.encryption", "openpgp", "OpenPGP"),
        ("walarchive.encryption_key_file", other.as_str(), "key"),
    ] {
        let right = cluster.psql(&format!("SHOW {setting}"));
        let (before, mark) = (site.objects(""), cluster.log_mark());
        cluster.set(setting, value);
        cluster.reload();
        let segment = cluster.switch_wal();
        let message = wait_message(
            &cluster,
            mark,
            &["WARNING", "could not archive", says, "HINT"],
            PATIENCE,
        );
        assert!(cluster.waiting_files().contains(&segment), "{message}");
        let error = cluster.try_psql_verbose("SELECT walarchive_backup_push()");
        assert!(!error.success() && error.stderr.contains("HINT"), "{error:?}");
        cluster.wait_until("the archiver counts a failure", PATIENCE, || {
            cluster.psql(&format!(
                "SELECT failed_count > 0 AND last_failed_wal = '{segment}' FROM pg_stat_archiver"
            )) == "t"
        });
        let row = check(&cluster, "encryption");
        assert!(row.starts_with("failed|"), "{row}");
        let new = |key: &String| {
            let is_sealed = key.starts_with("wal_005/") || key.starts_with("basebackups_005/");
            !before.contains(key) && is_sealed
        };
        let new: Vec<String> = site.objects("").into_iter().filter(new).collect();
        assert_eq!(new, [""; 0], "{setting} = {value}");
        cluster.set(setting, &right);
        cluster.reload();
        cluster.wait_archived(&segment, PATIENCE);
        cluster.psql("SELECT pg_stat_reset_shared('archiver')");
    }
    assert_eq!(plain_objects(&site), [""; 0]);
    // A word that is no method is no permission for plain text, neither at a reload nor at a start.
    cluster.set("walarchive.encryption", "libsodum");
    cluster.restart();
    let mark = cluster.log_mark();
    let segment = cluster.switch_wal();
    wait_message(
        &cluster,
        mark,
        &["WARNING", "walarchive.encryption has a value that cannot be used"],
        PATIENCE,
    );
    assert!(!cluster.is_archived(&segment));
}

/// A program prints the key. The next key is added before the old one, and writes from then on.
#[test]
fn a_key_command_is_used_and_a_key_is_rotated() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = encrypting(&site, "primary", "libsodium", "")
        .setting("walarchive.encryption_key_command", &format!("/bin/cat \"{key}\""))
        .start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int); INSERT INTO t VALUES (1);");
    let name = backup(&cluster, "");
    let first = cluster.switch_wal();
    cluster.wait_archived(&first, PATIENCE);
    // The file that the program prints has another key in front of the old one. A reload is enough.
    sodium_file(&site, "key", &[2, 1]);
    let mark = cluster.log_mark();
    cluster.reload();
    cluster.psql("INSERT INTO t VALUES (2)");
    let second = cluster.switch_wal();
    cluster.wait_archived(&second, PATIENCE);
    wait_drained(&cluster);
    wait_message(
        &cluster,
        mark,
        &["LOG", "encrypted with another key from now on"],
        PATIENCE,
    );
    let object = |segment: &str| site.object(&format!("wal_005/{segment}.zst"));
    assert!(Independent::PyNaCl(1).decrypt(&object(&first)).starts_with(&[0x28]));
    assert!(Independent::PyNaCl(2).decrypt(&object(&second)).starts_with(&[0x28]));
    // Both are read.
    let verified = cluster.psql(&format!(
        "SELECT DISTINCT status FROM walarchive_backup_verify('{name}')"
    ));
    assert_eq!(verified, "ok");
    assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");

    // What is under the old key is encrypted again, beside the server, so that nobody needs that key any more.
    let pgdata = text(cluster.datadir());
    let rotate = |args: &[&str]| {
        let mut verb = site.walarchive(&["encryption-rotate", "--encryption", "libsodium"]);
        run(verb
            .args(["--encryption-key-file", &key])
            .args(args)
            .env("PGDATA", &pgdata))
    };
    let before = sealed_objects(&site);
    let shown = rotate(&["--dry-run"]);
    for state in ["encrypts new objects", "is given to read with"] {
        assert!(shown.stdout.contains(state), "{shown:?}");
    }
    assert!(Independent::PyNaCl(1).decrypt(&object(&first)).starts_with(&[0x28]));
    let rotated = rotate(&[]);
    rotated.expect_success();
    let again = rotate(&[]);
    assert!(
        !again.stdout.contains("is given to read with") && again.stdout.contains("no other key is needed any more"),
        "{again:?}"
    );
    assert_eq!(sealed_objects(&site), before, "no object comes, and none goes");
    assert!(before.len() > 5, "{before:?}");
    for key in before {
        assert!(!Independent::PyNaCl(2).decrypt(&site.object(&key)).is_empty(), "{key}");
    }
    sodium_file(&site, "key", &[2]);
    cluster.reload();
    cluster.psql("INSERT INTO t VALUES (3)");
    archive_all(&cluster);
    wait_drained(&cluster);
    assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    let command = format!("/bin/cat {key}");
    let target = site.restore("restored", "LATEST", &["--encryption-key-command", &command]);
    lose(&cluster);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "3|6");
}

/// The settings in the restored server's files are enough for its worker and for wal-fetch.
#[test]
fn a_standby_follows_an_encrypted_archive() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    backup(&cluster, "");
    for row in 1..=12 {
        cluster.psql(&format!("INSERT INTO t VALUES ({row})"));
        cluster.switch_wal();
    }
    archive_all(&cluster);
    wait_drained(&cluster);
    let target = site.restore("standby", "LATEST", &["--standby", "--encryption-key-file", &key]);
    let standby = site
        .restored("standby")
        .env("RUST_LOG", "walarchive=info")
        .setting("hot_standby", "on")
        .setting("wal_retrieve_retry_interval", "100ms")
        .attach(&target);
    let has = |rows: &str| standby.try_psql("SELECT count(*) FROM t").as_deref() == Ok(rows);
    standby.wait_until("the standby has replayed all", PATIENCE, || has("12"));
    assert!(
        standby.log().contains("had been fetched ahead"),
        "nothing was fetched ahead of recovery"
    );
    cluster.psql("INSERT INTO t VALUES (13)");
    archive_all(&cluster);
    standby.wait_until("the standby follows", PATIENCE, || has("13"));
}

/// It is turned on over a plain repository, and off again only by a verb of its own.
#[test]
fn encryption_is_turned_on_over_plain_text_and_off_again() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "none", &key);
    cluster.psql("INSERT INTO t VALUES (1)");
    backup(&cluster, "");
    archive_all(&cluster);
    wait_drained(&cluster);
    let plain = plain_objects(&site).len();
    assert_eq!(plain, sealed_objects(&site).len());
    let mark = cluster.log_mark();
    cluster.set("walarchive.encryption", "libsodium");
    cluster.set("walarchive.encryption_accept_plain", "on");
    cluster.reload();
    cluster.psql("INSERT INTO t VALUES (2)");
    archive_all(&cluster);
    wait_drained(&cluster);
    wait_message(&cluster, mark, &["LOG", "encryption is turned on"], PATIENCE);
    assert_eq!(plain_objects(&site).len(), plain);
    let with_key = ["--encryption-key-file", key.as_str(), "--accept-plain"];
    let target = site.restore("restored", "LATEST", &with_key);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "2|3");
    drop(restored);

    let pgdata = text(cluster.datadir());
    let disable = |args: &[&str]| {
        run(site
            .walarchive(&["encryption-disable"])
            .args(args)
            .args(with_key)
            .env("PGDATA", &pgdata))
    };
    let asked = disable(&[]);
    assert!(
        !asked.success() && asked.stderr.contains("--confirm"),
        "nothing without a confirmation: {asked:?}"
    );
    disable(&["--confirm"]).expect_success();
    let mark = cluster.log_mark();
    cluster.set("walarchive.encryption", "none");
    cluster.reload();
    cluster.psql("INSERT INTO t VALUES (3)");
    archive_all(&cluster);
    wait_drained(&cluster);
    assert!(plain_objects(&site).len() > plain);
    assert!(!cluster.log_since(mark).contains("could not archive"));
    let target = site.restore("again", "LATEST", &with_key);
    let restored = site.restored("again").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "3|6");
}

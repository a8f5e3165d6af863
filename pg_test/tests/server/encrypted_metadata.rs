//! A server that encrypts what describes its backups, too: what can be read without the key, and what goes on with it.

use std::fs;

use walarchive_pg_test::archiving::{switch_segments, wait_drained, wait_message};
use walarchive_pg_test::drills::{Place, sql_file};
use walarchive_pg_test::encrypted::{assert_unreadable, encrypting, primary, sodium_file, text};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused, wait_settled};
use walarchive_testkit::sealed::GpgKey;
use walarchive_testkit::{Cluster, PATIENCE, run};

const ROWS: &str = "SELECT count(*), sum(a) FROM ostrich_table";

const MARK: &[u8] = b"walarchive sealed metadata 1\n";

/// What only those may know who have the key.
const SECRETS: [&str; 7] = [
    "lizard_db",
    "ostrich_table",
    "otter_point",
    "base/",
    "global/pg_control",
    "IsPermanent",
    "\"Files\"",
];

/// The objects that hold one of the secrets.
fn telling(site: &Site) -> Vec<String> {
    let holds = |key: &String| {
        let content = fs::read(site.object(key)).expect("read");
        let content = String::from_utf8_lossy(&content);
        SECRETS.iter().any(|secret| content.contains(secret))
    };
    site.objects("").into_iter().filter(holds).collect()
}

/// How many objects begin with the mark of metadata that is encrypted.
fn sealed(site: &Site) -> usize {
    let is_sealed = |key: &String| fs::read(site.object(key)).expect("read").starts_with(MARK);
    site.objects("").into_iter().filter(is_sealed).count()
}

/// Running, with a table in a database of its own.
fn server(site: &Site, method: &str, key_file: &str) -> Cluster {
    let cluster = encrypting(site, "primary", method, key_file)
        .setting("walarchive.encrypt_metadata", "on")
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    cluster.psql("CREATE DATABASE lizard_db");
    cluster.psql("CREATE TABLE ostrich_table (a int)");
    cluster
}

/// The names that the binary lists.
fn listed(site: &Site, args: &[&str]) -> Vec<String> {
    let list = run(site.walarchive(&["backup-list", "--json"]).args(args)).expect_success();
    let rows: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let names = rows.as_array().expect("an array").iter();
    names
        .map(|row| row["backup_name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn nobody_reads_a_name_without_the_key_and_everything_goes_on_with_it() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = server(&site, "libsodium", &key);
    let oldest = backup(&cluster, "");
    let full = backup(&cluster, "full_backup => true");
    cluster.psql("INSERT INTO ostrich_table SELECT generate_series(1, 1000)");
    wait_settled(&cluster);
    let delta = backup(&cluster, "");
    assert!(!full.contains("_D_") && delta.contains("_D_"), "{full} {delta}");
    cluster.psql("INSERT INTO ostrich_table SELECT generate_series(1, 500)");
    let rows = cluster.psql(ROWS);
    cluster.psql("SELECT pg_create_restore_point('otter_point')");
    cluster.psql("DELETE FROM ostrich_table");
    switch_segments(&cluster, 3);
    archive_all(&cluster);
    wait_drained(&cluster);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    // The server lists, verifies, marks, and notes what it has found.
    for name in [&full, &delta] {
        let verified = cluster.psql(&format!(
            "SELECT DISTINCT status FROM walarchive_backup_verify('{name}')"
        ));
        assert_eq!(verified, "ok", "{name}");
    }
    let content = cluster.psql("SELECT DISTINCT segment_status FROM walarchive_wal_verify('content:all')");
    assert_eq!(content, "ok");
    let points =
        "SELECT name, restorable FROM walarchive_restore_points(index_only => false) WHERE kind = 'restore_point'";
    assert!(cluster.psql(points).contains("otter_point|t"));
    let marked = cluster.psql(&format!("SELECT walarchive_backup_mark('{delta}')"));
    assert_eq!(marked.lines().collect::<Vec<_>>(), [&full, &delta]);
    assert_eq!(
        cluster.psql("SELECT string_agg(backup_name, ' ' ORDER BY start_lsn) FROM walarchive_backup_list()"),
        format!("{oldest} {full} {delta}")
    );
    assert_eq!(telling(&site), [""; 0]);
    assert!(sealed(&site) >= 3 * 4 + 2, "{} are sealed", sealed(&site));
    let points = site.objects("walarchive_005/points");
    assert!(!points.is_empty(), "no point is noted");
    let row = cluster.psql("SELECT status FROM walarchive_check() WHERE check_name = 'encryption'");
    assert_eq!(row, "ok");

    // Retention knows what is permanent.
    let with_key = ["--encryption-key-file", key.as_str()];
    assert_eq!(listed(&site, &with_key), [&oldest, &full, &delta].map(String::as_str));
    let deleted = cluster
        .psql("SELECT count(*) FROM walarchive_delete_retain(1, confirm => true) WHERE deleted AND what = 'backup'");
    assert_eq!(deleted, "1");
    assert_eq!(listed(&site, &with_key), [&full, &delta].map(String::as_str));
    assert_eq!(telling(&site), [""; 0]);
    let metadata = format!("basebackups_005/{full}/metadata.json");
    let shown = run(site.walarchive(&["st", "cat", "--decrypt", &metadata]).args(with_key)).expect_success();
    assert!(shown.contains("\"is_permanent\":true"), "{shown}");
    lose(&cluster);

    // Without the key nothing is listed, and nothing deleted.
    let other = sodium_file(&site, "other", &[2]);
    for (keys, says) in [
        (&[][..], "is encrypted, and no key is configured"),
        (
            &["--encryption-key-file", &other][..],
            "cannot be decrypted with the keys that are configured",
        ),
    ] {
        for verb in [&["backup-list"][..], &["wal-show"], &["delete", "retain", "FULL", "1"]] {
            let refused = run(site.walarchive(verb).args(keys));
            assert!(
                !refused.success() && refused.stderr.contains(says) && refused.stderr.contains("--encryption-key-file"),
                "{verb:?}: {refused:?}"
            );
        }
    }
    assert_unreadable(&site, &segment, &[], "encrypted");
    let args = [&with_key[..], &["--target-name", "otter_point"]].concat();
    let target = site.restore("restored", "LATEST", &args);
    let restored = site.restored("restored").attach(&target);
    wait_paused(&restored);
    assert_eq!(restored.psql(ROWS), rows);
}

/// Each object tells what it is, so it is turned on and off at any time.
#[test]
fn one_repository_has_metadata_of_both_kinds() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    let mut names = vec![backup(&cluster, "")];
    assert!(sealed(&site) == 0 && telling(&site).len() >= 3, "{:?}", telling(&site));
    for (value, sealed_of_one) in [("on", 4), ("off", 0)] {
        let before = sealed(&site);
        cluster.set("walarchive.encrypt_metadata", value);
        cluster.reload();
        cluster.psql("INSERT INTO t VALUES (1)");
        wait_settled(&cluster);
        let shown = cluster.psql("SHOW walarchive.encrypt_metadata");
        assert_eq!(shown, value);
        let name = backup(&cluster, "");
        assert!(name.contains("_D_"), "{name}");
        let folder = |key: &String| key.contains(&name);
        let of_it = site.objects("basebackups_005").into_iter().filter(folder);
        let is_sealed = |key: &String| fs::read(site.object(key)).expect("read").starts_with(MARK);
        assert_eq!(of_it.filter(is_sealed).count(), sealed_of_one, "{value}");
        assert!(sealed(&site) >= before);
        names.push(name);
    }
    let with_key = ["--encryption-key-file", key.as_str()];
    assert_eq!(listed(&site, &with_key), names);
    // A mark by the binary, which encrypts and has not the setting, leaves what was encrypted so.
    let before = sealed(&site);
    let mark = |args: &[&str]| {
        let mut mark = site.walarchive(&["backup-mark", &names[1]]);
        run(mark.args(args).args(with_key))
    };
    let refused = mark(&[]);
    assert!(!refused.success() && refused.stderr.contains("HINT"), "{refused:?}");
    mark(&["--encryption", "libsodium"]).expect_success();
    let permanent =
        cluster.psql("SELECT string_agg(is_permanent::text, ' ' ORDER BY start_lsn) FROM walarchive_backups");
    assert_eq!((permanent.as_str(), sealed(&site)), ("true true false", before));
    let target = site.restore("restored", "LATEST", &with_key);
    lose(&cluster);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "2");
}

/// A drill is made by a program of its own, which writes down what it has shown.
#[test]
fn what_a_drill_of_the_server_has_shown_is_encrypted() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = server(&site, "libsodium", &key);
    let place = Place::new(&site);
    place.set_up(
        &cluster,
        &sql_file(&site, "rows.sql", "SELECT count(*) FROM ostrich_table;\n"),
    );
    cluster.reload();
    backup(&cluster, "");
    archive_all(&cluster);
    cluster.wait_until("a drill begins", PATIENCE, || {
        cluster.try_psql("SELECT walarchive_restore_test()").is_ok()
    });
    cluster.wait_until("the drill has proven the backup", PATIENCE, || {
        cluster.psql("SELECT last_drill_outcome FROM walarchive_status") == "succeeded"
    });
    assert_eq!(cluster.psql("SELECT proven IS NOT NULL FROM walarchive_backups"), "t");
    let notes = site.objects("walarchive_005/drills");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(fs::read(site.object(&notes[0])).expect("read").starts_with(MARK));
    assert_eq!(telling(&site), [""; 0]);
}

/// Who could not read his own metadata writes none.
#[test]
fn it_needs_a_method_and_the_secret_key() {
    let site = Site::on_files();
    let gpg = GpgKey::new(site.dir(), "gpg");
    let public = text(&site.dir().secret_file("public.asc", &gpg.public()));
    let secret = text(&site.dir().secret_file("secret.asc", &gpg.secret()));
    let cluster = primary(&site, "openpgp", &public);
    backup(&cluster, "");
    archive_all(&cluster);
    wait_drained(&cluster);
    let before = site.objects("basebackups_005");
    for (method, says) in [
        ("openpgp", "there is no secret key"),
        ("none", "no method of encryption is set"),
    ] {
        let mark = cluster.log_mark();
        cluster.set("walarchive.encryption", method);
        cluster.set("walarchive.encrypt_metadata", "on");
        cluster.reload();
        let segment = cluster.switch_wal();
        wait_message(
            &cluster,
            mark,
            &["WARNING", "could not archive", says, "HINT"],
            PATIENCE,
        );
        assert!(!cluster.is_archived(&segment));
        let error = cluster.try_psql_verbose("SELECT walarchive_backup_push()");
        assert!(!error.success() && error.stderr.contains(says), "{error:?}");
        let row = cluster.psql("SELECT status, detail FROM walarchive_check() WHERE check_name = 'encryption'");
        assert!(row.starts_with("failed|"), "{row}");
        assert_eq!(site.objects("basebackups_005"), before);
    }
    // With the secret key it goes on.
    cluster.set("walarchive.encryption", "openpgp");
    cluster.set("walarchive.encryption_key_file", &secret);
    cluster.reload();
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    let full = backup(&cluster, "full_backup => true");
    let metadata = fs::read(site.object(&format!("basebackups_005/{full}/metadata.json"))).expect("read");
    let message = metadata.strip_prefix(MARK).expect("a mark");
    let file = site.dir().join("metadata.gpg");
    fs::write(&file, message).expect("written");
    let decrypted = gpg.decrypt(&file);
    assert!(String::from_utf8_lossy(&decrypted).contains("\"start_lsn\""));
    assert_eq!(listed(&site, &["--encryption-key-file", &secret]).last(), Some(&full));
}

//! A server that encrypts with OpenPGP and has public keys only: it cannot read what it has stored, and all that needs no
//! plain text goes on.

use std::fs;
use std::process::Command;

use walarchive_pg_test::archiving::{switch_segments, wait_drained, wait_message};
use walarchive_pg_test::encrypted::{Independent, assert_unreadable, compare_with, primary, text};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused, wait_settled};
use walarchive_testkit::sealed::GpgKey;
use walarchive_testkit::{Cluster, PATIENCE, run};

const ROWS: &str = "SELECT count(*), sum(a) FROM t";

/// The server is killed, and its archiver has forgotten that it has archived this segment.
fn crash_and_forget(cluster: &Cluster, segment: &str) {
    cluster.kill9();
    let status = cluster.wal_directory().join("archive_status");
    let renamed = fs::rename(
        status.join(format!("{segment}.done")),
        status.join(format!("{segment}.ready")),
    );
    renamed.expect("the segment was archived");
}

#[test]
fn with_public_keys_only_everything_but_reading_goes_on() {
    let site = Site::on_files();
    let gpg = GpgKey::new(site.dir(), "gpg");
    let public = text(&site.dir().secret_file("public.asc", &gpg.public()));
    let secret = text(&site.dir().secret_file("secret.asc", &gpg.secret()));
    let cluster = primary(&site, "openpgp", &public);
    let oldest = backup(&cluster, "");
    let full = backup(&cluster, "full_backup => true");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    // The same segment again: what was noted of it says that it is the same.
    let stored = fs::read(site.object(&format!("wal_005/{segment}.zst"))).expect("stored");
    crash_and_forget(&cluster, &segment);
    cluster.start_again();
    cluster.wait_archived(&segment, PATIENCE);
    let now = fs::read(site.object(&format!("wal_005/{segment}.zst"))).expect("stored");
    assert!(now == stored, "it was written again");
    // Another segment of that name is no such one.
    let path = cluster.wal_directory().join(&segment);
    let content = fs::read(&path).expect("read");
    let mut changed = content.clone();
    *changed.last_mut().expect("a byte") ^= 1;
    crash_and_forget(&cluster, &segment);
    fs::write(&path, &changed).expect("written");
    let mark = cluster.log_mark();
    cluster.start_again();
    wait_message(
        &cluster,
        mark,
        &["WARNING", "could not archive", &segment, "HINT"],
        PATIENCE,
    );
    let now = fs::read(site.object(&format!("wal_005/{segment}.zst"))).expect("stored");
    assert!(now == stored && !cluster.is_archived(&segment));
    fs::write(&path, &content).expect("written");
    cluster.wait_archived(&segment, PATIENCE);

    wait_settled(&cluster);
    let delta = backup(&cluster, "");
    assert!(delta.contains("_D_"), "{delta}");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)");
    let rows = cluster.psql(ROWS);
    cluster.psql("SELECT pg_create_restore_point('here')");
    cluster.psql("DELETE FROM t");
    switch_segments(&cluster, 2);
    archive_all(&cluster);
    wait_drained(&cluster);

    // Retention needs no key, and takes along what was noted of the segments.
    let notes = |site: &Site| site.objects("walarchive_005/digests");
    let before = notes(&site);
    assert!(!before.is_empty());
    cluster.psql("SELECT * FROM walarchive_delete_retain(1, confirm => true)");
    let backups = cluster.psql("SELECT string_agg(backup_name, ' ' ORDER BY start_time) FROM walarchive_backups");
    assert_eq!(backups, format!("{full} {delta}"), "without {oldest}");
    let stored = site.objects("wal_005");
    for note in notes(&site) {
        let name = note.trim_start_matches("walarchive_005/digests/");
        let file = name.rsplit_once('.').map_or(name, |(file, _)| file);
        assert!(
            stored.iter().any(|key| key.contains(file)),
            "{note} is of no segment that is there"
        );
    }
    assert!(notes(&site).len() < before.len());

    // Reading is refused, and told where it is possible.
    let error = cluster.try_psql_verbose("SELECT * FROM walarchive_wal_verify('content:all')");
    assert!(!error.success() && error.stderr.contains("HINT"), "{error:?}");
    for check in ["encryption", "encrypt"] {
        let row = cluster.psql(&format!(
            "SELECT status FROM walarchive_check() WHERE check_name = '{check}'"
        ));
        assert_eq!(row, "ok", "{check}");
    }
    let with_key = ["--encryption-key-file", secret.as_str()];
    let objects = compare_with(&site, &cluster, &Independent::Gpg(&gpg), &with_key);
    assert!(objects > 8, "{objects}");
    let tar = site
        .objects("basebackups_005")
        .into_iter()
        .find(|key| key.contains("/part_"))
        .expect("a tar");
    let mut shell = Command::new("sh");
    shell.args(["-c", "gpg --batch --quiet --decrypt \"$0\" | zstd -d | tar -tP"]);
    let listed = run(shell.arg(site.object(&tar)).env("GNUPGHOME", gpg.home())).expect_success();
    assert!(listed.lines().any(|line| line.starts_with("/base/")), "{listed}");
    lose(&cluster);

    assert_unreadable(&site, &segment, &[], "is encrypted, and no key is configured");
    let others = GpgKey::new(site.dir(), "others");
    let other = text(&site.dir().secret_file("other.asc", &others.secret()));
    assert_unreadable(
        &site,
        &segment,
        &["--encryption-key-file", &other],
        "cannot be decrypted with the keys that are configured",
    );
    let args = [&with_key[..], &["--target-name", "here"]].concat();
    let target = site.restore("restored", "LATEST", &args);
    let restored = site.restored("restored").attach(&target);
    wait_paused(&restored);
    assert_eq!(restored.psql(ROWS), rows);
}

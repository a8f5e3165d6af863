//! What reads an encrypted repository, with the key, without it and with another one; and where the key must not be.

use std::fs;
use std::path::Path;
use std::process::Command;

use walarchive_pg_test::archiving::wait_drained;
use walarchive_pg_test::drills::{Place, status};
use walarchive_pg_test::encrypted::{
    assert_all_sealed, assert_lacks_key, hex, primary, rows_after_restore, sodium_file, sodium_key, text, without_key,
    writing,
};
use walarchive_pg_test::push;
use walarchive_pg_test::site::{Site, archive_all, backup, wait_settled};
use walarchive_testkit::{PATIENCE, StopMode, run};

const ROWS: &str = "SELECT count(*), sum(a) FROM t";

/// What reads backups and WAL, with the key and without; and what needs none.
#[test]
fn drills_verification_and_restores_over_a_directory_need_the_key_and_deletion_needs_none() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    let oldest = backup(&cluster, "");
    cluster.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let full = backup(&cluster, "full_backup => true");
    wait_settled(&cluster);
    cluster.psql("INSERT INTO t VALUES (5)");
    let delta = backup(&cluster, "");
    assert!(delta.contains("_D_"), "{delta}");
    let rows = cluster.psql(ROWS);
    archive_all(&cluster);
    wait_drained(&cluster);
    // A drill by the server, which has the key, and by the binary.
    let place = Place::new(&site);
    cluster.set("walarchive.drill_directory", &text(&place.dir));
    cluster.reload();
    let drilled = "SELECT last_drill_outcome FROM walarchive_status";
    cluster.wait_until("the server drills", PATIENCE, || {
        cluster.try_psql("SELECT walarchive_restore_test()").is_ok()
    });
    cluster.wait_until("the drill has ended", PATIENCE, || !cluster.psql(drilled).is_empty());
    assert_eq!(cluster.psql(drilled), "succeeded", "{}", cluster.log());
    cluster.stop(StopMode::Fast);
    let (drill, output) = place.drill(&site, &["--encryption-key-file", &key]);
    output.expect_success();
    assert_eq!(status(&drill, "recovery"), "ok", "{drill:#}");
    let drills = site.objects("walarchive_005/drills");
    assert!(!drills.is_empty());
    let lacking = run(&mut place.command(&site, &[]));
    assert_lacks_key(&lacking, 200);
    let other = sodium_file(&site, "other", &[2]);
    let with_other = ["--encryption-key-file", other.as_str()];
    assert_lacks_key(&run(&mut place.command(&site, &with_other)), 200);
    assert_eq!(
        site.objects("walarchive_005/drills"),
        drills,
        "nothing was found out of the backup"
    );
    place.assert_empty();

    let nowhere = text(&site.dir().join("nowhere"));
    let with_key = ["--encryption-key-file", key.as_str()];
    for args in [
        &["wal-verify", "content", "--all"][..],
        &["backup-verify", &full],
        &["backup-verify", &delta],
        &["backup-fetch", &nowhere, "LATEST", "--verify-only"],
    ] {
        run(site.walarchive(args).args(with_key)).expect_success();
        assert_lacks_key(&without_key(&site, args), 2);
        let lacking = run(site.walarchive(args).args(with_other));
        assert!(
            lacking.code == Some(2) && lacking.stdout.is_empty() && lacking.stderr.contains("HINT:  Give the key"),
            "{lacking:?}"
        );
        assert!(!Path::new(&nowhere).exists());
    }

    // Over the directory of another backup.
    let target = site.restore("over", &full, &with_key);
    let over = |args: &[&str]| {
        let mut command = site.walarchive(&["backup-fetch", &text(&target), "LATEST", "--delta"]);
        run(command.args(args))
    };
    let label = || fs::read(target.join("backup_label")).expect("a label");
    let before = label();
    assert_lacks_key(&over(&[]), 200);
    assert!(label() == before);
    over(&with_key).expect_success();
    let restored = site.restored("over").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), rows);
    restored.stop(StopMode::Immediate);

    // No key is needed to mark, and to delete.
    without_key(&site, &["backup-mark", &full]).expect_success();
    without_key(&site, &["backup-mark", "--impermanent", &full]).expect_success();
    let retained = without_key(&site, &["delete", "retain", "FULL", "1", "--confirm"]);
    retained.expect_success();
    let garbage = without_key(&site, &["delete", "garbage", "--confirm"]);
    garbage.expect_success();
    let listed = without_key(&site, &["backup-list"]).expect_success();
    assert!(
        !listed.contains(&oldest) && listed.contains(&full) && listed.contains(&delta),
        "{listed}"
    );
    assert_all_sealed(&site, 1);
    let after = rows_after_restore(&site, "LATEST", "after", &with_key);
    assert_eq!(after, rows);
}

#[test]
fn a_key_in_the_data_directory_is_in_no_backup_and_no_restore_removes_it() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    let inside = cluster.datadir().join("a key of walarchive's");
    fs::copy(&key, &inside).expect("copied");
    let mut chown = Command::new("chown");
    run(chown.arg("--reference").arg(cluster.datadir()).arg(&inside)).expect_success();
    fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    cluster.set("walarchive.encryption_key_file", &format!("\"{}\"", text(&inside)));
    cluster.reload();
    let by_server = backup(&cluster, "");
    cluster.psql("CHECKPOINT");
    let by_binary = push::push(&site, &cluster, &[&writing(&key)[..], &["--full"]].concat());
    cluster.psql("CHECKPOINT");
    let mut from_afar = site.walarchive(&["backup-push"]);
    let from_afar = run(push::server_of(from_afar.args(writing(&key)), &cluster)).expect_success();
    archive_all(&cluster);
    let secret = hex(sodium_key(1));
    for name in [&by_server, &by_binary, &from_afar] {
        for tar in site.objects(&format!("basebackups_005/{name}/tar_partitions")) {
            let mut cat = site.walarchive(&["st", "cat", "--decrypt", "--decompress", &tar]);
            let content = cat.args(["--encryption-key-file", &key]).output().expect("run");
            assert!(content.status.success() && !content.stdout.is_empty(), "{tar}");
            let is_key = |bytes: &[u8]| bytes == secret.as_bytes();
            assert!(!content.stdout.windows(64).any(is_key), "the key is in {tar}");
        }
    }
    // Nothing that a backup does not hold stays in the directory, and the key is needed to the end of recovery.
    cluster.stop(StopMode::Fast);
    let over = |args: &[&str]| {
        let mut command = site.walarchive(&["backup-fetch", &text(cluster.datadir()), &by_server, "--delta"]);
        run(command.args(args).env("PGDATA", cluster.datadir()))
    };
    for args in [&["--encryption-key-file", &text(&inside)][..], &[]] {
        let refused = over(args);
        assert!(
            refused.code == Some(1) && refused.stderr.contains("is in the directory that is to be restored"),
            "{refused:?}"
        );
        assert!(inside.exists());
    }
    over(&["--encryption-key-file", &key]).expect_success();
}

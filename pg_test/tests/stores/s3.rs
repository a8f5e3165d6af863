//! The whole job with an S3 server as the store.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused};
use walarchive_testkit::{Cluster, PATIENCE, run};

/// 15 MB that do not compress, so that an upload has several parts.
const RANDOM: &str = "CREATE TABLE random AS
    SELECT gen_random_uuid() AS a, gen_random_uuid() AS b, gen_random_uuid() AS c FROM generate_series(1, 300000)";

const FINGERPRINT: &str = "SELECT count(*), sum(hashtextextended(r::text, 1)) FROM random r";

#[test]
fn the_whole_job_on_s3() {
    let site = Site::on_s3();
    let primary = site.primary(&[]);
    primary.psql(RANDOM);
    let load = primary.psql("CREATE TABLE t AS SELECT 1 AS a; SELECT count(*) FROM t");
    assert_eq!(load, "1");
    let name = backup(&primary, "user_data => '\"on S3\"'");
    assert_eq!(
        primary.psql("SELECT backup_name, user_data, problem FROM walarchive_backups"),
        format!("{name}|\"on S3\"|")
    );
    primary.psql("INSERT INTO t VALUES (2)");
    primary.psql("SELECT pg_create_restore_point('here')");
    primary.psql("INSERT INTO t VALUES (3)");
    archive_all(&primary);
    assert_eq!(primary.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    let before = primary.psql(FINGERPRINT);
    shows_no_secret(&site, &primary);
    lose(&primary);

    let list = run(&mut site.walarchive(&["backup-list"])).expect_success();
    assert!(list.contains(&name), "{list}");
    let target = site.restore("here", "LATEST", &["--target-name", "here"]);
    let conf = fs::read_to_string(target.join("postgresql.auto.conf")).expect("no postgresql.auto.conf");
    assert!(
        conf.contains("aws_endpoint=") && !conf.to_lowercase().contains("secret"),
        "{conf}"
    );
    let here = site.restored("here").attach(&target);
    wait_paused(&here);
    assert_eq!(here.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"), "1 2");
    drop(here);

    let target = site.restore("latest", &name, &[]);
    let latest = site.restored("latest").attach(&target);
    latest.wait_promoted(PATIENCE);
    assert_eq!(
        latest.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"),
        "1 2 3"
    );
    assert_eq!(latest.psql(FINGERPRINT), before);
    latest.amcheck();
}

/// Neither the log nor a view nor a setting nor the process list shows the key's secret.
fn shows_no_secret(site: &Site, primary: &Cluster) {
    let s3 = site.s3().expect("an S3 server");
    let secret = s3
        .env()
        .into_iter()
        .find(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY")
        .expect("a secret")
        .1;
    let settings = primary.psql("SELECT s::text FROM pg_settings s; SELECT w::text FROM walarchive_status w");
    assert!(settings.contains(&site.url()));
    assert!(!settings.contains(secret) && !primary.log().contains(secret));
    for title in ["walarchive", "archiver"] {
        let pid = primary.wait_pid_of(title, None);
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("no command line");
        assert!(!line.contains(secret), "{line}");
    }
}

#[test]
fn a_cancelled_backup_leaves_nothing_on_s3() {
    let site = Site::on_s3();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "6MB")]);
    primary.psql(RANDOM);
    let uploads = || {
        let bucket = site.s3().expect("an S3 server").dir();
        let around = bucket.parent().expect("a parent").to_path_buf();
        let entries = [bucket, around]
            .into_iter()
            .flat_map(|dir| fs::read_dir(dir).expect("could not list"));
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".upload")).count()
    };
    let (statement, backend) = primary.background_backend("SELECT walarchive_backup_push()");
    primary.wait_until("parts of a tar are stored", PATIENCE, || uploads() > 0);
    primary.psql(&format!("SELECT pg_cancel_backend({backend})"));
    let output = statement.wait(PATIENCE);
    assert!(output.stderr.contains("canceling statement"), "{output:?}");
    assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
    assert_eq!(
        uploads(),
        0,
        "parts are left in the store, where nobody sees them and everybody pays"
    );
    primary.set("walarchive.backup_rate_limit", "0");
    primary.reload();
    backup(&primary, "");
    assert_eq!(uploads(), 0);
}

#[test]
fn a_server_that_does_not_answer_is_no_empty_archive() {
    let site = Site::on_s3();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment, PATIENCE);
    lose(&primary);
    let target = site.restore("restored", "LATEST", &[]);
    let to = target.join("pg_wal/RECOVERYXLOG").to_string_lossy().into_owned();
    let fetch = |name: &str| run(&mut site.walarchive(&["wal-fetch", name, &to]));
    assert_eq!(fetch(&segment).code, Some(0));
    assert_eq!(fetch("0000000100000000000000AA").code, Some(74));
    site.s3().expect("an S3 server").stop();
    let output = fetch(&segment);
    assert!(output.code > Some(125) && output.stderr.contains("HINT:"), "{output:?}");
    fs::write(target.join("standby.signal"), "").expect("could not write");
    assert_eq!(fetch(&segment).code, Some(1));
    let (other, output) = site.backup_fetch("other", "LATEST", &[]);
    assert!(output.code > Some(125) && !other.exists(), "{output:?}");
    site.s3().expect("an S3 server").start_again();
    assert_eq!(fetch(&segment).code, Some(0));
}

//! Backups are taken and pruned, and every one that stays is restored.

use std::fs;
use std::time::{Duration, SystemTime};

use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Background, Cluster, PATIENCE, SftpServer, run, wait_until};

/// A plan, as SQL shows it.
const COLUMNS: &str = "what || ' ' || key || ' ' || size || ' ' || why || ' ' || deleted";

/// Files that a deletion needs a while for.
const OLD_FILES: usize = 20_000;

/// The rows of a function, in their order.
#[track_caller]
fn rows(cluster: &Cluster, call: &str) -> Vec<String> {
    let rows = cluster.psql(&format!("SELECT {COLUMNS} FROM walarchive_delete_{call}"));
    rows.lines().map(str::to_owned).collect()
}

/// The rows that `walarchive delete … --json` prints, one a line, in the same form.
#[track_caller]
fn rows_of_binary(cluster: &Cluster, site: &Site, args: &[&str]) -> Vec<String> {
    let args = [&["delete"], args, &["--json"]].concat();
    let json = run(&mut site.walarchive(&args)).expect_success();
    let rows = cluster.psql(&format!(
        "SELECT {COLUMNS} FROM json_to_recordset($json${json}$json$::json)
            AS row(what text, key text, size bigint, why text, deleted boolean)"
    ));
    rows.lines().map(str::to_owned).collect()
}

/// A new row, a backup that has it, and some WAL after that.
#[track_caller]
fn step(cluster: &Cluster, number: usize, args: &str) -> String {
    cluster.psql(&format!("INSERT INTO t VALUES ({number})"));
    let name = backup(cluster, args);
    archive_all(cluster);
    name
}

fn names(cluster: &Cluster) -> Vec<String> {
    let names = cluster.psql("SELECT backup_name FROM walarchive_backups ORDER BY start_time");
    names.lines().map(str::to_owned).collect()
}

/// Restores a backup to its own end, and counts the rows of the table.
#[track_caller]
fn restored_rows(site: &Site, name: &str) -> String {
    let directory = format!("of_{name}");
    let target = site.restore(&directory, name, &["--target-immediate", "--target-action", "promote"]);
    let restored = site.restored(&directory).attach(&target);
    restored.wait_promoted(PATIENCE);
    restored.psql("SELECT count(*) FROM t")
}

fn is_pruned_and_restored(site: &Site) {
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (n int)");
    let all: Vec<String> = (1..=5)
        .map(|number| step(&primary, number, if number == 2 { "permanent => true" } else { "" }))
        .collect();
    assert_eq!(names(&primary), all);

    // The plan shows, and changes nothing.
    let before = (site.objects("basebackups_005"), site.objects("wal_005"));
    let plan = rows(&primary, "retain(2)");
    assert!(plan.iter().all(|row| row.ends_with(" false")), "{plan:?}");
    assert_eq!(
        plan.iter()
            .filter(|row| row.starts_with("backup basebackups_005/"))
            .count(),
        2,
        "{plan:?}"
    );
    assert!(plan.iter().any(|row| row.starts_with("wal wal_005/")), "{plan:?}");
    assert_eq!(rows_of_binary(&primary, site, &["retain", "FULL", "2"]), plan);
    let table = run(&mut site.walarchive(&["delete", "retain", "FULL", "2"]));
    assert!(table.stderr.contains("nothing was deleted; add --confirm"), "{table:?}");
    assert!(table.expect_success().contains("older than the 2 newest full backups"));
    for (call, args) in [
        ("garbage()", vec!["garbage"]),
        ("outside_window('1 hour')", vec!["outside-window", "1 hour"]),
        ("gfs(1, 0, 0, 0)", vec!["gfs", "1,0,0,0"]),
        ("everything(force => true)", vec!["everything", "FORCE"]),
    ] {
        assert_eq!(rows_of_binary(&primary, site, &args), rows(&primary, call), "{call}");
    }
    let target = format!("target('{}')", all[0]);
    assert_eq!(
        rows_of_binary(&primary, site, &["target", &all[0]]),
        rows(&primary, &target)
    );
    let line = format!("before('{}')", all[3]);
    assert_eq!(
        rows_of_binary(&primary, site, &["before", &all[3]]),
        rows(&primary, &line)
    );
    assert_eq!((site.objects("basebackups_005"), site.objects("wal_005")), before);

    let done = rows(&primary, "retain(2, confirm => true)");
    let expected: Vec<String> = plan.iter().map(|row| row.replace(" false", " true")).collect();
    assert_eq!(done, expected);
    let kept = [all[1].clone(), all[3].clone(), all[4].clone()];
    assert_eq!(names(&primary), kept);
    for name in [&all[0], &all[2]] {
        assert!(site.objects(&format!("basebackups_005/{name}")).is_empty());
    }
    assert!(rows(&primary, "retain(2, confirm => true)").is_empty());
    // WAL that was deleted between the permanent backup and the others is not taken for lost.
    let whole = "SELECT (SELECT string_agg(DISTINCT status, ' ') FROM walarchive_wal_verify('integrity', 'timeline', 'content')),
                        (SELECT string_agg(DISTINCT status, ' ') FROM walarchive_wal_show())";
    assert_eq!(primary.psql(whole), "ok|ok");
    for (name, rows) in kept.iter().zip(["2", "4", "5"]) {
        assert_eq!(restored_rows(site, name), rows, "{name}");
    }

    // The mark is what kept it.
    let mark = format!("SELECT walarchive_backup_mark('{}', false)", all[1]);
    assert_eq!(primary.psql(&mark), all[1]);
    run(&mut site.walarchive(&["delete", "retain", "FULL", "2", "--confirm"])).expect_success();
    assert_eq!(names(&primary), all[3..]);
    run(&mut site.walarchive(&["backup-mark", &all[3]])).expect_success();
    let permanent = "SELECT string_agg(backup_name, ' ') FROM walarchive_backups WHERE is_permanent";
    assert_eq!(primary.psql(permanent), all[3]);
    let refused = run(&mut site.walarchive(&["delete", "everything", "--confirm"]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("permanent: \""), "{refused:?}");
    assert_eq!(names(&primary), all[3..]);
}

#[test]
fn on_files() {
    is_pruned_and_restored(&Site::on_files());
}

#[test]
fn on_s3() {
    is_pruned_and_restored(&Site::on_s3());
}

/// Objects on an SFTP server are looked at through walarchive alone.
#[test]
fn on_sftp() {
    let site = Site::on(SftpServer::start);
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (n int)");
    let all: Vec<String> = (1..=3).map(|number| step(&primary, number, "")).collect();
    let plan = rows(&primary, "retain(1)");
    assert_eq!(rows_of_binary(&primary, &site, &["retain", "FULL", "1"]), plan);
    assert_eq!(names(&primary), all);
    run(&mut site.walarchive(&["delete", "retain", "FULL", "1", "--confirm"])).expect_success();
    assert_eq!(names(&primary), all[2..]);
    assert!(rows(&primary, "retain(1, confirm => true)").is_empty());
    assert_eq!(restored_rows(&site, &all[2]), "3");
}

#[test]
fn a_deletion_that_is_killed_is_finished_by_the_next() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (n int)");
    let all: Vec<String> = (1..=3).map(|number| step(&primary, number, "")).collect();
    // Enough old files for a deletion to be seen at work.
    let object = site.object("wal_005/000000010000000000000001.zst");
    for offset in 0..OLD_FILES {
        let key = format!("wal_005/000000010000000000000001.{offset:08X}.backup.zst");
        fs::hard_link(&object, site.object(&key)).expect("could not link");
    }
    let before = site.objects("wal_005").len();
    let mut delete = site.walarchive(&["delete", "retain", "FULL", "1", "--confirm", "--json"]);
    let deletion = Background::spawn(&mut delete, None);
    wait_until("WAL is being deleted", PATIENCE, || {
        site.objects("wal_005").len() < before
    });
    deletion.kill();
    let killed = deletion.wait(PATIENCE);
    assert_eq!(
        killed.signal,
        Some(9),
        "it was too fast to be killed: {} {}",
        killed.stdout.len(),
        killed.stderr
    );
    assert!(
        site.objects("wal_005").len() > before - 20_000,
        "nothing was left to do"
    );
    assert_eq!(names(&primary), all[2..]);

    run(&mut site.walarchive(&["delete", "retain", "FULL", "1", "--confirm"])).expect_success();
    assert!(site.objects("wal_005").len() < 100);
    assert!(rows(&primary, "retain(1)").is_empty());
    assert_eq!(restored_rows(&site, &all[2]), "3");
}

/// A server is killed while it uploads, and what that leaves in the store is shown and removed a day later.
#[test]
fn the_parts_of_an_upload_that_was_cut_off_are_garbage() {
    let site = Site::on_files();
    // It takes so long that it is not over before the server is killed, however busy this machine is.
    let primary = site.primary(&[
        ("walarchive.backup_rate_limit", "4MB"),
        ("walarchive.backup_concurrency", "1"),
    ]);
    // More than one part, however well it is compressed.
    primary.psql(
        "CREATE TABLE t (n int);
         CREATE TABLE noise AS SELECT md5(random()::text) FROM generate_series(1, 800000)",
    );
    let parts = || -> Vec<String> {
        let keys = site.objects("basebackups_005").into_iter();
        keys.filter(|key| key.contains(".tar.zst#")).collect()
    };
    let statement = primary.background_psql("SELECT walarchive_backup_push()");
    // A small object has such a name, too, while it is written.
    let is_large = |key: &String| fs::metadata(site.object(key)).is_ok_and(|part| part.len() > 1 << 20);
    wait_until("parts are uploaded", PATIENCE, || parts().iter().any(is_large));
    primary.kill9();
    drop(statement);
    let left = parts();
    assert!(!left.is_empty(), "the upload was over when the server was killed");
    primary.set("walarchive.backup_rate_limit", "0");
    primary.start_again();
    let uploads =
        |rows: Vec<String>| -> Vec<String> { rows.into_iter().filter(|row| row.starts_with("upload ")).collect() };
    // A backup that is at work looks the same.
    assert!(uploads(rows(&primary, "garbage()")).is_empty());
    let two_days_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    for key in site.objects("basebackups_005") {
        let file = fs::File::options().write(true).open(site.object(&key));
        file.and_then(|file| file.set_modified(two_days_ago))
            .expect("could not set a time");
    }
    let plan = uploads(rows(&primary, "garbage()"));
    assert_eq!(plan.len(), left.len(), "{plan:?} {left:?}");
    for (row, key) in plan.iter().zip(&left) {
        let object = key.split('#').next().unwrap_or_default();
        assert!(row.starts_with(&format!("upload {object} ")), "{row}");
        assert!(row.contains("never completed") && row.ends_with(" false"), "{row}");
    }
    let planned = uploads(rows_of_binary(&primary, &site, &["garbage", "BACKUPS"]));
    assert_eq!(planned, plan);
    assert_eq!(uploads(rows(&primary, "garbage(confirm => true)")).len(), plan.len());
    assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
    step(&primary, 1, "");
}

#[test]
fn the_functions_are_not_for_everybody_and_refuse_what_they_must() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let first = backup(&primary, "");
    primary.psql("CREATE ROLE nobody");
    let as_nobody = primary.try_psql_verbose("SET ROLE nobody; SELECT walarchive_delete_garbage()");
    assert!(
        as_nobody.stderr.contains("permission denied for function"),
        "{as_nobody:?}"
    );
    for (call, says) in [
        ("walarchive_delete_retain(0)", "0 is not a number of backups to retain"),
        ("walarchive_delete_retain(1, 'ALL')", "is not a mode of deletion"),
        (
            "walarchive_delete_before('yesterday')",
            "neither a backup's name nor a time",
        ),
        ("walarchive_delete_target('base_x')", "there is no backup named"),
        ("walarchive_delete_outside_window('-1 day')", "empty or negative"),
        ("walarchive_delete_gfs(0, 0, 0, 0)", "all four numbers of periods are 0"),
        ("walarchive_backup_mark('base_x')", "there is no backup named"),
    ] {
        let refused = primary.try_psql_verbose(&format!("SELECT {call}"));
        assert!(
            !refused.success() && refused.stderr.contains(says),
            "{call}: {refused:?}"
        );
    }
    // Another cluster's repository is not this one's to prune.
    let cluster = site.object("walarchive_005/cluster.json");
    let owner = fs::read_to_string(&cluster).expect("no owner");
    let identifier = primary.psql("SELECT system_identifier FROM pg_control_system()");
    fs::write(&cluster, owner.replace(&identifier, "7")).expect("could not write");
    let refused = primary.try_psql_verbose("SELECT walarchive_delete_everything(confirm => true)");
    assert!(refused.stderr.contains("belongs to another cluster"), "{refused:?}");
    assert!(
        site.object(&format!("basebackups_005/{first}_backup_stop_sentinel.json"))
            .is_file()
    );
}

/// On purpose, by the server itself or by the binary beside it: archiving goes on.
#[test]
fn a_repository_of_which_all_was_deleted_begins_anew() {
    for site in [Site::on_files(), Site::on_s3()] {
        let primary = site.primary(&[]);
        for by_server in [true, false] {
            backup(&primary, "");
            archive_all(&primary);
            match by_server {
                true => {
                    primary.psql("SELECT count(*) FROM walarchive_delete_everything(force => true, confirm => true)");
                }
                false => {
                    let mut delete = site.walarchive(&["delete", "everything", "FORCE", "--confirm"]);
                    run(delete.env("PGDATA", primary.datadir())).expect_success();
                }
            }
            let left = ["wal_005", "basebackups_005", "walarchive_005"].map(|folder| site.objects(folder));
            // A lease is taken anew in this moment, perhaps.
            let left: Vec<String> = left
                .concat()
                .into_iter()
                .filter(|key| !key.contains("/lease/"))
                .collect();
            assert_eq!(left, Vec::<String>::new());
            archive_all(&primary);
            assert!(site.object("walarchive_005/cluster.json").is_file());
            let name = backup(&primary, "");
            assert_eq!(names(&primary), [name]);
            let status = "SELECT failed_count, lease_state FROM walarchive_status";
            assert_eq!(primary.psql(status), "0|held");
        }
    }
}

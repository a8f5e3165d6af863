//! `walarchive.backup_schedule`: backups that nobody asks for. Schedules with seconds let a test see several of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walarchive_pg_test::archiving::{status, wait_message};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, StopMode};

const SCHEDULE: &str = "walarchive.backup_schedule";

/// Due in the first second of the year only: who is right does not depend on when the test runs, but for that second.
const YEARLY: &str = "@yearly";

/// Scheduled times that pass while a backup runs are left out.
const OFTEN: &str = "*/5 * * * * *";

/// Changes settings of a running cluster.
fn change(cluster: &Cluster, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        cluster.set(name, value);
    }
    cluster.reload();
}

fn count(cluster: &Cluster) -> usize {
    let count = cluster.psql("SELECT count(*) FROM walarchive_backups");
    count.parse().expect("no number")
}

/// Waits until there are that many backups, and none is running.
#[track_caller]
fn wait_backups(cluster: &Cluster, number: usize) {
    cluster.wait_until(&format!("there are {number} backups"), PATIENCE, || {
        count(cluster) >= number && cluster.psql("SELECT count(*) FROM walarchive_progress") == "0"
    });
}

/// Waits until a condition on `walarchive_status` holds.
#[track_caller]
fn wait_status(cluster: &Cluster, condition: &str) {
    cluster.wait_until(&format!("walarchive_status: {condition}"), PATIENCE, || {
        status(cluster, condition) == "t"
    });
}

/// Waits until the scheduler has planned, and says when that is for.
#[track_caller]
fn wait_planned(cluster: &Cluster) -> String {
    wait_status(cluster, "next_backup_time IS NOT NULL");
    status(cluster, "next_backup_time")
}

/// How often a scheduled backup was started since a mark, as the log tells.
fn started(cluster: &Cluster, mark: usize) -> usize {
    cluster
        .log_since(mark)
        .matches("walarchive: starting a scheduled backup")
        .count()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("could not change the mode");
}

#[test]
fn the_first_backup_is_taken_at_once_and_the_next_one_is_announced() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    assert_eq!(
        status(
            &primary,
            "next_backup_time IS NULL, last_backup_outcome IS NULL, last_backup_time IS NULL"
        ),
        "t|t|t"
    );
    assert_eq!(count(&primary), 0);
    change(&primary, &[(SCHEDULE, YEARLY)]);
    wait_backups(&primary, 1);
    assert!(primary.log().contains("there is none in the repository"));
    wait_status(&primary, "last_backup_outcome = 'succeeded'");
    let row = "last_backup_name = (SELECT backup_name FROM walarchive_backups), last_backup_error IS NULL,
               last_backup_time BETWEEN now() - interval '10 min' AND now(), last_retention_outcome IS NULL";
    assert_eq!(status(&primary, row), "t|t|t|t");
    assert_eq!(
        primary.psql("SELECT is_permanent, parent IS NULL, user_data IS NULL FROM walarchive_backups"),
        "f|t|t"
    );
    wait_status(
        &primary,
        "next_backup_time > now() AND date_trunc('minute', next_backup_time) = next_backup_time
         AND next_backup_time < now() + interval '367 days'",
    );

    // Turned off, it plans nothing any more; on again, it knows that there is one already.
    let mark = primary.log_mark();
    change(&primary, &[(SCHEDULE, "")]);
    wait_status(&primary, "next_backup_time IS NULL");
    change(&primary, &[(SCHEDULE, YEARLY)]);
    wait_planned(&primary);
    assert_eq!((started(&primary, mark), count(&primary)), (0, 1));
    let name = status(&primary, "last_backup_name");
    site.restore("restored", &name, &[]);
}

#[test]
fn an_expression_that_is_none_is_refused() {
    let site = Site::on_files();
    let primary = site.primary(&[(SCHEDULE, YEARLY)]);
    for (value, reason) in [
        ("0 2 * *", "5 or 6 fields"),
        ("61 2 * * *", "out of bounds"),
        ("0 0 31 2 *", "no date is ever like that"),
    ] {
        let error = primary.try_psql_verbose(&format!("ALTER SYSTEM SET {SCHEDULE} = '{value}'"));
        let text = &error.stderr;
        assert!(
            !error.success() && text.contains(&format!("22023: invalid value for parameter \"{SCHEDULE}\"")),
            "{text}"
        );
        assert!(
            text.contains(&format!("DETAIL:  \"{value}\" is not a cron expression: ")) && text.contains(reason),
            "{text}"
        );
        assert!(text.contains("HINT:  Write minute, hour"), "{text}");
    }
    let mark = primary.log_mark();
    change(&primary, &[(SCHEDULE, "every night")]);
    wait_message(
        &primary,
        mark,
        &[
            "invalid value for parameter",
            SCHEDULE,
            "\"every night\" is not a cron expression",
        ],
        PATIENCE,
    );
    assert_eq!(primary.psql(&format!("SHOW {SCHEDULE}")), YEARLY);
    primary.psql(&format!("ALTER SYSTEM SET {SCHEDULE} = '0 2 * * mon-fri'"));
}

#[test]
fn a_failure_is_told_and_tried_again() {
    let site = Site::on_files();
    let primary = site.primary(&[(SCHEDULE, OFTEN)]);
    wait_backups(&primary, 1);
    let folder = site.object("basebackups_005");
    set_mode(&folder, 0o500);
    let mark = primary.log_mark();
    wait_message(&primary, mark, &["WARNING", "backup failed"], PATIENCE);
    wait_status(&primary, "last_backup_outcome = 'failed'");
    assert_eq!(
        status(&primary, "last_backup_error <> '', next_backup_time IS NOT NULL"),
        "t|t"
    );
    // The retry does not come later than the next scheduled time.
    primary.wait_until("it is tried again", PATIENCE, || {
        primary.log_since(mark).contains("the last 2 attempts failed")
    });
    set_mode(&folder, 0o700);
    wait_status(
        &primary,
        "last_backup_outcome = 'succeeded' AND last_backup_error IS NULL",
    );
    change(&primary, &[(SCHEDULE, "")]);
    wait_status(&primary, "next_backup_time IS NULL");

    // A schedule that is far away leaves it to the pause.
    change(
        &primary,
        &[("walarchive.storage", &format!("file://{}/other", site.dir().display()))],
    );
    let other = site.dir().join("other");
    fs::create_dir(&other).expect("could not create");
    let mark = primary.log_mark();
    change(&primary, &[(SCHEDULE, YEARLY)]);
    // It belongs to the user of the test.
    wait_message(&primary, mark, &["WARNING", "backup failed"], PATIENCE);
    wait_status(
        &primary,
        "last_backup_outcome = 'failed'
         AND next_backup_time BETWEEN last_backup_time + interval '44 s' AND last_backup_time + interval '150 s'",
    );
    assert_eq!(started(&primary, mark), 1);
}

#[test]
fn a_repository_that_cannot_be_asked_is_told_once() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let folder = site.object("basebackups_005");
    set_mode(&folder, 0);
    let mark = primary.log_mark();
    change(&primary, &[(SCHEDULE, YEARLY)]);
    let told = wait_message(&primary, mark, &["WARNING", "backups cannot be scheduled"], PATIENCE);
    wait_status(&primary, "scheduler_error <> '' AND next_backup_time IS NULL");
    assert_eq!(
        status(&primary, "last_backup_outcome, last_backup_error IS NULL"),
        "succeeded|t",
        "{told}"
    );
    set_mode(&folder, 0o700);
    wait_planned(&primary);
    assert_eq!(status(&primary, "scheduler_error IS NULL"), "t");
    let log = primary.log_since(mark);
    assert_eq!(log.matches("backups cannot be scheduled").count(), 1, "{log}");
    assert_eq!(log.matches("backups can be scheduled again").count(), 1, "{log}");
    assert_eq!((started(&primary, mark), count(&primary)), (0, 1));
}

#[test]
fn there_are_never_two_at_once() {
    let site = Site::on_files();
    // The manual backup takes several scheduled times: they are its own.
    let primary = site.primary(&[("walarchive.backup_rate_limit", "1MB")]);
    let mark = primary.log_mark();
    let mut manual = primary.background_psql("SELECT walarchive_backup_push()");
    primary.wait_until("files are copied", PATIENCE, || {
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files" || !manual.is_running()
    });
    change(&primary, &[(SCHEDULE, "*/2 * * * * *")]);
    let planned = wait_planned(&primary);
    primary.wait_until("a scheduled time has passed", PATIENCE, || {
        primary.psql(&format!("SELECT now() > '{planned}'")) == "t"
    });
    assert!(manual.is_running(), "the backup was too fast for this test");
    assert_eq!(started(&primary, mark), 0);
    change(&primary, &[(SCHEDULE, YEARLY), ("walarchive.backup_rate_limit", "0")]);
    let name = manual.wait(PATIENCE).expect_success();
    wait_status(
        &primary,
        "next_backup_time > now() AND last_backup_outcome = 'succeeded'",
    );
    assert_eq!(status(&primary, "last_backup_name"), name);
    assert_eq!((started(&primary, mark), count(&primary)), (0, 1));

    // And the other way round: who asks meanwhile is refused.
    change(
        &primary,
        &[("walarchive.backup_rate_limit", "2MB"), (SCHEDULE, "*/2 * * * * *")],
    );
    primary.wait_until("files are copied", PATIENCE, || {
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    let refused = primary.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(
        refused.stderr.contains("ERROR:  55006: a backup is already running"),
        "{refused:?}"
    );
    // Cancelled by hand, it does not come back before its time.
    change(&primary, &[(SCHEDULE, YEARLY)]);
    let mark = primary.log_mark();
    assert_eq!(
        primary.psql("SELECT pg_cancel_backend(pid) FROM walarchive_progress"),
        "t"
    );
    wait_status(
        &primary,
        "last_backup_outcome = 'canceled' AND next_backup_time > now() + interval '1 second'",
    );
    assert_eq!((started(&primary, mark), count(&primary)), (0, 1));
}

#[test]
fn what_was_missed_is_caught_up_once() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let first = backup(&primary, "");
    primary.stop(StopMode::Fast);
    // The backup is an old one, since when there were many scheduled times.
    let aged = |text: &str| -> String {
        let mut text = text.to_owned();
        for field in ["start_time", "finish_time", "StartTime", "FinishTime"] {
            let key = format!("\"{field}\":");
            let Some(at) = text.find(&key) else { continue };
            let from = at + key.len() + text[at + key.len()..].find('"').expect("no value") + 1;
            let to = from + text[from..].find('"').expect("no end");
            text.replace_range(from..to, "2026-01-05T10:00:00.000000Z");
        }
        text
    };
    for key in [
        format!("basebackups_005/{first}/metadata.json"),
        format!("basebackups_005/{first}_backup_stop_sentinel.json"),
    ] {
        let path = site.object(&key);
        let text = fs::read_to_string(&path).expect("could not read");
        let changed = aged(&text);
        assert_ne!(text, changed, "{key}");
        fs::write(&path, changed).expect("could not write");
    }
    let mark = primary.log_mark();
    primary.set(SCHEDULE, "@daily");
    primary.start_again();
    wait_backups(&primary, 2);
    wait_message(
        &primary,
        mark,
        &["starting a scheduled backup: it was due at 2026-01-06"],
        PATIENCE,
    );
    wait_status(&primary, "next_backup_time > now()");
    assert_eq!((started(&primary, mark), count(&primary)), (1, 2));
    // Another start is no reason for another backup.
    let mark = primary.log_mark();
    primary.restart();
    wait_planned(&primary);
    assert_eq!((started(&primary, mark), count(&primary)), (0, 2));
}

#[test]
fn a_standby_takes_none_unless_told_so_and_begins_when_promoted() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let standby = Cluster::builder(site.dir(), "standby")
        .setting(SCHEDULE, YEARLY)
        .standby_of(&primary);
    standby.wait_pid_of("walarchive scheduler", None);
    assert_eq!(started(&standby, 0), 0);
    change(&standby, &[("walarchive.backup_on_standby", "on")]);
    standby.wait_until("there is a backup", PATIENCE, || {
        // Its last segment may be complete already.
        if standby.psql("SELECT phase FROM walarchive_progress") == "waiting for WAL" {
            primary.switch_wal();
        }
        count(&standby) == 1
    });
    wait_status(&standby, "last_backup_outcome IS NOT NULL");
    assert_eq!(status(&standby, "last_backup_outcome"), "succeeded");
    wait_planned(&standby);

    let mark = standby.log_mark();
    change(&standby, &[("walarchive.backup_on_standby", "off")]);
    wait_status(&standby, "next_backup_time IS NULL");
    fs::remove_dir_all(site.object("basebackups_005")).expect("could not remove");
    primary.stop(StopMode::Fast);
    assert_eq!(started(&standby, mark), 0);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    wait_backups(&standby, 1);
    assert_eq!(started(&standby, mark), 1);
    assert!(status(&standby, "last_backup_name").starts_with("base_00000002"));
}

#[test]
fn the_database_postgres_may_be_missing() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE DATABASE other");
    primary.psql_db("other", "ALTER DATABASE postgres RENAME TO renamed");
    let mark = primary.log_mark();
    let conf_loaded = || primary.psql_db("other", "SELECT pg_conf_load_time()");
    let before = conf_loaded();
    primary.set(SCHEDULE, YEARLY);
    primary.psql_db("other", "SELECT pg_reload_conf()");
    primary.wait_until("the configuration is loaded again", PATIENCE, || {
        conf_loaded() != before
    });
    let counted = || primary.psql_db("renamed", "SELECT count(*) FROM walarchive_backups");
    primary.wait_until("there is a backup", PATIENCE, || counted() == "1");
    assert_eq!(started(&primary, mark), 1, "it needs no database");
}

#[test]
fn a_restart_ends_a_scheduled_backup_and_takes_it_up_again() {
    let site = Site::on_files();
    let primary = site.primary(&[(SCHEDULE, YEARLY), ("walarchive.backup_rate_limit", "2MB")]);
    primary.wait_until("files are copied", PATIENCE, || {
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    primary.set("walarchive.backup_rate_limit", "0");
    primary.stop(StopMode::Fast);
    assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
    primary.start_again();
    wait_backups(&primary, 1);
}

#[test]
fn without_archiving_there_is_no_scheduled_backup() {
    let site = Site::on_files();
    let primary = site
        .builder("primary")
        .setting("archive_mode", "off")
        .setting(SCHEDULE, YEARLY);
    let primary = primary.start();
    primary.psql("CREATE EXTENSION walarchive");
    let told = wait_message(&primary, 0, &["WARNING", "backups cannot be scheduled"], PATIENCE);
    assert!(
        told.contains("WAL archiving is not enabled") && told.contains("HINT:"),
        "{told}"
    );
    assert_eq!(
        status(&primary, "next_backup_time IS NULL, last_backup_outcome IS NULL"),
        "t|t"
    );
    assert_eq!(started(&primary, 0), 0);
}

#[test]
fn retention_is_applied_after_each_backup() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let refused = primary.try_psql_verbose("ALTER SYSTEM SET walarchive.retention = 'the last 2'");
    assert!(
        refused
            .stderr
            .contains("ERROR:  22023: invalid value for parameter \"walarchive.retention\""),
        "{refused:?}"
    );
    primary.set("walarchive.retention", "full 2");
    primary.reload();
    let names: Vec<String> = (0..3)
        .map(|_| {
            let name = backup(&primary, "");
            archive_all(&primary);
            name
        })
        .collect();
    let kept = "SELECT string_agg(backup_name, ' ' ORDER BY start_lsn), bool_and(restorable) FROM walarchive_backups";
    assert_eq!(primary.psql(kept), format!("{} {}|t", names[1], names[2]));
    let segments = site.objects("wal_005");
    assert!(
        !segments.iter().any(|key| key < &format!("wal_005/{}", &names[1][5..])),
        "{segments:?}"
    );
    let columns = "SELECT last_retention_outcome, last_retention_summary, last_retention_error IS NULL,
                          last_retention_time > last_backup_time - interval '1 min' FROM walarchive_status";
    let said = primary.psql(columns);
    assert!(
        said.contains(&format!("deleted 1 backup ({}) and ", names[0]))
            && said.starts_with("succeeded|")
            && said.ends_with("|t|t"),
        "{said}"
    );
    assert!(primary.log().contains(&format!(
        "walarchive: retention \"full 2\": deleted 1 backup ({})",
        names[0]
    )));

    // An object that cannot be deleted is no failure of the backup, and the next one takes it up.
    let tars = site.object(&format!("basebackups_005/{}/tar_partitions", names[1]));
    fs::set_permissions(&tars, Permissions::from_mode(0o500)).expect("could not change a mode");
    primary.set("walarchive.retention", "full 1");
    primary.reload();
    let mark = primary.log_mark();
    backup(&primary, "");
    wait_message(
        &primary,
        mark,
        &[
            "WARNING:  could not apply retention \"full 1\"",
            "DETAIL:  ",
            "HINT:  Check the owner and the mode",
        ],
        PATIENCE,
    );
    assert_eq!(status(&primary, "last_backup_outcome"), "succeeded");
    assert_eq!(
        status(
            &primary,
            "last_retention_outcome, last_retention_summary IS NULL, last_retention_error LIKE '%denied permission%'"
        ),
        "failed|t|t"
    );
    fs::set_permissions(&tars, Permissions::from_mode(0o700)).expect("could not change a mode");
    let last = backup(&primary, "");
    assert_eq!(primary.psql(kept), format!("{last}|t"));
    assert_eq!(
        status(&primary, "last_retention_outcome, last_retention_error IS NULL"),
        "succeeded|t"
    );
    assert!(site.objects(&format!("basebackups_005/{}", names[1])).is_empty());
}

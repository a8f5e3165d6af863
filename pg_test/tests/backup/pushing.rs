//! How a backup ends: what comes after its sentinel cannot fail it, and one that is of no use does not go on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE};

const PUSH: &str = "SELECT walarchive_backup_push()";

/// PostgreSQL's own words about a backup that was left open.
const LEFT_OPEN: &str = "aborting backup due to backend exiting";

fn change(cluster: &Cluster, name: &str, value: &str) {
    cluster.set(name, value);
    cluster.reload();
}

#[track_caller]
fn wait_phase(cluster: &Cluster, phase: &str) {
    let progress = format!("SELECT count(*) FROM walarchive_progress WHERE phase = '{phase}'");
    cluster.wait_until(phase, PATIENCE, || cluster.psql(&progress) == "1");
}

#[track_caller]
fn wait_status(cluster: &Cluster, what: &str) {
    let status = format!("SELECT count(*) FROM walarchive_status WHERE {what}");
    cluster.wait_until(what, PATIENCE, || cluster.psql(&status) == "1");
}

fn listed(cluster: &Cluster) -> Vec<String> {
    let names = cluster.psql("SELECT backup_name FROM walarchive_backups ORDER BY start_lsn");
    names.lines().map(str::to_owned).collect()
}

#[test]
fn a_complete_backup_has_succeeded_whatever_becomes_of_retention() {
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let primary = site
        .builder("primary")
        .setting("walarchive.storage_options", &proxy.options())
        .start();
    primary.psql("CREATE EXTENSION walarchive");
    backup(&primary, "");
    change(&primary, "walarchive.retention", "full 1");
    change(&primary, "walarchive.backup_rate_limit", "2MB");
    // From now on nothing can be deleted, not even the claim.
    let deny = || {
        wait_phase(&primary, "copying files");
        proxy.set([
            Fault::status(503).only("?delete").into(),
            Fault::status(503).only("DELETE ").into(),
        ]);
    };
    let (statement, backend) = primary.background_backend(PUSH);
    deny();
    wait_phase(&primary, "applying retention");
    let refused = primary.try_psql_verbose(PUSH);
    assert!(refused.stderr.contains("has completed backup"), "{refused:?}");
    primary.psql(&format!("SELECT pg_cancel_backend({backend})"));
    let output = statement.wait(PATIENCE);
    assert!(output.stderr.contains("the cancellation came too late"), "{output:?}");
    let second = output.expect_success();
    assert_eq!(listed(&primary).last(), Some(&second));
    wait_status(&primary, "last_backup_outcome IS NOT NULL");
    primary.wait_until("the worker has ended", PATIENCE, || {
        primary.psql("SELECT count(*) FROM walarchive_progress") == "0"
    });
    let outcome = "SELECT last_backup_outcome, last_backup_name FROM walarchive_status";
    assert_eq!(primary.psql(outcome), format!("succeeded|{second}"));

    // Nor does it keep the client for long, and the end of the worker is not that of the backup.
    proxy.heal();
    let statement = primary.background_psql(PUSH);
    deny();
    let output = statement.wait(PATIENCE);
    let (told, third) = (output.stderr.clone(), output.expect_success());
    assert!(told.contains("walarchive.retention is still being applied"), "{told}");
    let worker = "SELECT pg_terminate_backend(pid) FROM walarchive_progress WHERE phase = 'applying retention'";
    assert_eq!(primary.psql(worker), "t");
    wait_status(&primary, &format!("last_backup_name = '{third}'"));
    assert_eq!(primary.psql(outcome), format!("succeeded|{third}"));
    assert_eq!(listed(&primary).last(), Some(&third));
    assert!(!primary.log().contains("still waiting after") && !primary.log().contains(LEFT_OPEN));
}

/// Longer than an archiver waits. Whether the server may still write is asked every few seconds, and is not known meanwhile.
#[test]
fn an_outage_is_outlasted() {
    const OUTAGE: Duration = Duration::from_secs(15);
    let site = Site::on_s3();
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let primary = site
        .builder("primary")
        .setting("walarchive.storage_options", &proxy.options())
        .setting("walarchive.archive_timeout", "3s")
        .setting("walarchive.backup_rate_limit", "1MB")
        .setting("walarchive.tar_size", "1MB")
        .start();
    primary.psql("CREATE EXTENSION walarchive");
    archive_all(&primary);
    let mut statement = primary.background_psql(PUSH);
    wait_phase(&primary, "copying files");
    proxy.set([Fault::Silent]);
    let begun = Instant::now();
    primary.wait_until("the outage has lasted long enough", PATIENCE, || {
        begun.elapsed() > OUTAGE
    });
    assert!(statement.is_running(), "{:?}", statement.wait(PATIENCE));
    proxy.heal();
    change(&primary, "walarchive.backup_rate_limit", "0");
    let name = statement.wait(PATIENCE).expect_success();
    assert_eq!(listed(&primary), [name]);
}

#[test]
fn a_backup_ends_when_the_archive_moves_away() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "1MB")]);
    let elsewhere = site.dir().subdir("elsewhere");
    let (here, elsewhere) = (site.url(), format!("file://{}", elsewhere.display()));
    let fails = |statement: walarchive_testkit::Background, mark: usize| {
        let output = statement.wait(PATIENCE);
        let told = format!("walarchive.storage was changed to \"{elsewhere}\" while the backup was taken");
        assert!(!output.success() && output.stderr.contains(&told), "{output:?}");
        assert!(output.stderr.contains("HINT:  "), "{output:?}");
        wait_status(&primary, "last_backup_outcome = 'failed'");
        primary.wait_until("its leftovers are removed", PATIENCE, || {
            site.objects("basebackups_005").is_empty()
        });
        let log = primary.log_since(mark);
        assert_eq!(log.matches(&told).count(), 1, "{log}");
        assert!(!log.contains(LEFT_OPEN), "{log}");
    };
    // While files are copied.
    let mark = primary.log_mark();
    let statement = primary.background_psql(PUSH);
    wait_phase(&primary, "copying files");
    change(&primary, "walarchive.storage", &elsewhere);
    fails(statement, mark);

    // While it waits for its WAL.
    change(&primary, "walarchive.backup_rate_limit", "0");
    change(&primary, "walarchive.storage", &here);
    archive_all(&primary);
    let wal = site.object("wal_005");
    let allow = |mode| fs::set_permissions(&wal, fs::Permissions::from_mode(mode)).expect("could not change the mode");
    allow(0o500);
    let mark = primary.log_mark();
    let statement = primary.background_psql(PUSH);
    wait_phase(&primary, "waiting for WAL");
    change(&primary, "walarchive.storage", &elsewhere);
    fails(statement, mark);

    // The log is told where nobody is left who waits.
    change(&primary, "walarchive.storage", &here);
    let mark = primary.log_mark();
    let before = primary.psql("SELECT last_backup_time FROM walarchive_status");
    let (statement, backend) = primary.background_backend(PUSH);
    wait_phase(&primary, "waiting for WAL");
    primary.psql(&format!("SELECT pg_terminate_backend({backend}, 60000)"));
    assert!(!statement.wait(PATIENCE).success());
    change(&primary, "walarchive.storage", &elsewhere);
    wait_status(&primary, &format!("last_backup_time <> '{before}'"));
    let told = "WARNING:  backup failed: walarchive.storage was changed to";
    primary.wait_log_since(mark, told, PATIENCE);
    assert_eq!(primary.log_since(mark).matches(told).count(), 1);

    // Another way to the same place is none.
    change(&primary, "walarchive.storage", &here);
    let statement = primary.background_psql(PUSH);
    wait_phase(&primary, "waiting for WAL");
    change(&primary, "walarchive.storage", &here.replace("/store", "//store"));
    allow(0o700);
    let name = statement.wait(PATIENCE).expect_success();
    assert_eq!(listed(&primary), [name]);
}

#[test]
fn whoever_ends_a_backup_the_server_leaves_backup_mode_in_order() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "1MB")]);
    let pid = "(SELECT pid FROM walarchive_progress)";
    for end in ["pg_cancel_backend", "pg_terminate_backend", ""] {
        let (statement, backend) = primary.background_backend(PUSH);
        wait_phase(&primary, "copying files");
        primary.psql(&match end {
            "" => format!("SELECT pg_cancel_backend({backend})"),
            end => format!("SELECT {end}({pid})"),
        });
        assert!(!statement.wait(PATIENCE).success());
        primary.wait_until("the worker has ended", PATIENCE, || {
            primary.pids_of("walarchive backup").is_empty()
        });
        assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
    }
    assert!(!primary.log().contains(LEFT_OPEN), "{}", primary.log());
}

#[test]
fn a_failure_is_logged_once_also_when_nobody_waits() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    backup(&primary, "");
    let folder = site.object("basebackups_005");
    let allow =
        |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("could not change the mode");
    allow(0o500);
    for (push, level) in [
        (PUSH, "ERROR:  "),
        (
            "SELECT walarchive_backup_push(wait => false)",
            "WARNING:  backup failed: ",
        ),
    ] {
        let mark = primary.log_mark();
        let before = primary.psql("SELECT last_backup_time FROM walarchive_status");
        let output = primary.try_psql_verbose(push);
        assert_eq!(output.success(), push != PUSH, "{output:?}");
        wait_status(
            &primary,
            &format!("last_backup_outcome = 'failed' AND last_backup_time <> '{before}'"),
        );
        let error = primary.psql("SELECT last_backup_error FROM walarchive_status");
        primary.wait_log_since(mark, &error, PATIENCE);
        primary.wait_until("the worker has ended", PATIENCE, || {
            primary.pids_of("walarchive backup").is_empty()
        });
        let log = primary.log_since(mark);
        assert_eq!(log.matches(&format!("{level}{error}")).count(), 1, "{log}");
        assert_eq!(log.matches(&error).count(), 1, "{log}");
        assert!(!log.contains(LEFT_OPEN), "{log}");
    }
    allow(0o700);
    backup(&primary, "");
}

#[test]
fn a_scheduled_backup_that_is_missed_is_an_outcome() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "1MB")]);
    primary.psql("SELECT walarchive_backup_push(wait => false)");
    wait_phase(&primary, "copying files");
    // Nobody holds vacuum back for it.
    let snapshots = "SELECT count(*) FROM pg_stat_activity
                     WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND backend_type LIKE 'walarchive%'";
    assert_eq!(primary.psql(snapshots), "0");
    let mark = primary.log_mark();
    change(&primary, "walarchive.backup_schedule", "* * * * * *");
    wait_status(
        &primary,
        "last_backup_outcome = 'missed' AND last_backup_error LIKE 'no backup was started at %'",
    );
    let log = primary.log_since(mark);
    assert_eq!(
        log.matches("WARNING:  a scheduled backup was missed: ").count(),
        1,
        "{log}"
    );
    assert!(
        log.contains("is taking backup \"base_") && log.contains("HINT:  "),
        "{log}"
    );
    change(&primary, "walarchive.backup_schedule", "");
    wait_status(&primary, "last_backup_outcome = 'succeeded'");
}

//! `walarchive_backup_push()` and what one sees of it.

use std::fs;
use std::time::Instant;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, PATIENCE, Signal, is_alive, kill_pid, run};

const PUSH: &str = "SELECT walarchive_backup_push()";
const BACKUPS: &str = "SELECT string_agg(backup_name, ' ' ORDER BY start_lsn) FROM walarchive_backups";

/// Lets every backup from now on run for long: an empty cluster has some 20 MB.
fn throttle(cluster: &Cluster, limit: &str) {
    cluster.set("walarchive.backup_rate_limit", limit);
    cluster.reload();
}

/// Waits until files are being copied, and returns the process id of the worker.
fn wait_copying(cluster: &Cluster) -> i32 {
    let copying = "SELECT pid FROM walarchive_progress WHERE phase = 'copying files' AND bytes_done > 0";
    let mut pid = None;
    cluster.wait_until("files are copied", PATIENCE, || {
        pid = cluster.psql(copying).parse().ok();
        pid.is_some()
    });
    pid.unwrap_or_default()
}

/// Whether the server is in backup mode: it writes full pages then, even if full_page_writes is off.
fn in_backup_mode(cluster: &Cluster) -> bool {
    cluster.psql("CHECKPOINT");
    let update = "EXPLAIN (ANALYZE, WAL, COSTS off, TIMING off, SUMMARY off) UPDATE probe SET a = a + 1";
    let plan = cluster.psql(update);
    assert!(plan.contains("WAL: records="), "{plan}");
    plan.contains("fpi=")
}

#[test]
fn the_view_tells_what_was_asked_for_and_what_was_stored() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    assert_eq!(primary.psql("SELECT count(*) FROM walarchive_backups"), "0");
    let first = backup(&primary, "");
    let before = primary.psql("SELECT clock_timestamp()");
    let second = backup(&primary, "permanent => true, user_data => '{\"ticket\": [17, \"ä\"]}'");
    assert_eq!(primary.psql(BACKUPS), format!("{first} {second}"));

    let ask = |columns: &str, name: &str| {
        primary.psql(&format!(
            "SELECT {columns} FROM walarchive_backups WHERE backup_name = '{name}'"
        ))
    };
    assert_eq!(
        ask(
            "is_permanent, user_data IS NULL, parent IS NULL, problem IS NULL",
            &first
        ),
        "f|t|t|t"
    );
    assert_eq!(ask("is_permanent, user_data", &second), "t|{\"ticket\": [17, \"ä\"]}");
    let right = format!(
        "backup_name = 'base_' || pg_walfile_name(start_lsn), start_lsn < stop_lsn, timeline,
         start_time BETWEEN '{before}' AND stop_time, stop_time < clock_timestamp(),
         data_directory = current_setting('data_directory'), pg_version = current_setting('server_version_num')::int,
         system_identifier = (SELECT system_identifier FROM pg_control_system()), hostname <> ''"
    );
    assert_eq!(ask(&right, &second), "t|t|1|t|t|t|t|t|t");

    // Sizes are those of the objects, and of the files in them.
    let tars = site.objects(&format!("basebackups_005/{second}/tar_partitions"));
    let size = |key: &String| fs::metadata(site.object(key)).map_or(0, |meta| meta.len());
    assert_eq!(
        ask("compressed_size", &second),
        tars.iter().map(size).sum::<u64>().to_string()
    );
    let databases = "SELECT uncompressed_size > sum(pg_database_size(oid)) FROM pg_database, walarchive_backups
                     WHERE backup_name = ";
    assert_eq!(
        primary.psql(&format!("{databases} '{second}' GROUP BY uncompressed_size")),
        "t"
    );
    let list = run(&mut site.walarchive(&["backup-list", "--long", "--json"])).expect_success();
    let (one, two) = list.split_once(&second).expect("the second backup is not listed");
    assert!(
        one.contains(&first) && one.contains("\"is_permanent\": false"),
        "{list}"
    );
    assert!(
        two.contains("\"is_permanent\": true") && two.contains("\"ticket\""),
        "{list}"
    );
    // No trace of the work remains beside the result.
    let keys = site.objects(&format!("basebackups_005/{second}"));
    assert!(!keys.iter().any(|key| key.contains("claim")), "{keys:?}");

    let sentinel = format!("basebackups_005/{first}_backup_stop_sentinel.json");
    fs::write(site.object(&sentinel), "{").expect("could not write");
    fs::write(site.object(&format!("basebackups_005/{first}/metadata.json")), "{").expect("could not write");
    assert_eq!(ask("problem IS NULL", &first), "f");
    assert_eq!(ask("problem IS NULL", &second), "t");
}

#[test]
fn the_rate_limit_is_kept_and_seen() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "2MB")]);
    let start = Instant::now();
    let statement = primary.background_psql(PUSH);
    let worker = wait_copying(&primary);
    assert!(primary.pids_of("walarchive backup").contains(&worker));
    primary.wait_until("the rate is known", PATIENCE, || {
        primary.psql("SELECT estimated_stop_time IS NOT NULL FROM walarchive_progress") == "t"
    });
    let row = primary.psql(
        "SELECT bytes_done <= bytes_total, files_done < files_total, backup_name, start_time < now(),
                estimated_stop_time > now(), waiting_for IS NULL FROM walarchive_progress",
    );
    let row: Vec<&str> = row.split('|').collect();
    assert!(row[2].starts_with("base_0"), "{row:?}");
    assert_eq!([&row[..2], &row[3..]].concat(), ["t", "t", "t", "t", "t"]);
    let mut rates = Vec::new();
    primary.wait_until("half of it is copied", PATIENCE, || {
        let rate = primary.psql("SELECT bytes_per_second FROM walarchive_progress WHERE bytes_done > bytes_total / 2");
        rates.extend(rate.parse::<f64>());
        !rates.is_empty()
    });
    let limit = f64::from(2 << 20);
    assert!(rates[0] > 0.05 * limit && rates[0] < 1.2 * limit, "{rates:?}");
    let name = statement.wait(PATIENCE).expect_success();
    let took = start.elapsed().as_secs_f64();
    assert_eq!(row[2], name);
    assert_eq!(primary.psql("SELECT count(*) FROM walarchive_progress"), "0");
    let bytes: f64 = primary
        .psql("SELECT uncompressed_size FROM walarchive_backups")
        .parse()
        .expect("no size");
    assert!(took > 0.9 * bytes / limit, "{bytes} bytes in {took} s");
}

#[test]
fn there_is_one_backup_at_a_time_and_it_need_not_be_waited_for() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "2MB")]);
    let (name, notice) = primary.psql_verbose("SELECT walarchive_backup_push(wait => false)");
    assert!(
        name.is_empty() && notice.contains("NOTICE") && notice.contains("walarchive_progress"),
        "{notice}"
    );
    let worker = wait_copying(&primary);
    let running = primary.psql("SELECT backup_name FROM walarchive_progress");
    for refused in [PUSH, "SELECT walarchive_backup_push(wait => false)"] {
        let output = primary.try_psql_verbose(refused);
        assert!(
            !output.success() && output.stderr.contains("ERROR:  55006: a backup is already running"),
            "{output:?}"
        );
        assert!(
            output.stderr.contains(&running) && output.stderr.contains("HINT:"),
            "{output:?}"
        );
        assert!(output.stderr.contains(&worker.to_string()), "{output:?}");
    }
    primary.wait_until("the backup is there", PATIENCE, || primary.psql(BACKUPS) == running);
    assert_eq!(backup(&primary, "wait => false"), "");
    primary.wait_until("the next one is there, too", PATIENCE, || {
        primary.psql("SELECT count(*) FROM walarchive_backups") == "2"
    });
}

#[test]
fn a_cancelled_backup_leaves_nothing() {
    let site = Site::on_files();
    let builder = site.builder("primary").data_checksums(false);
    let primary = builder.setting("full_page_writes", "off").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE probe AS SELECT 1 AS a");
    throttle(&primary, "1MB");
    assert!(!in_backup_mode(&primary));
    for by_client in [false, true] {
        let (statement, backend) = primary.background_backend(PUSH);
        let worker = wait_copying(&primary);
        let name = primary.psql("SELECT backup_name FROM walarchive_progress");
        assert!(in_backup_mode(&primary));
        assert!(!site.objects(&format!("basebackups_005/{name}")).is_empty());
        match by_client {
            true => statement.cancel(),
            false => assert_eq!(primary.psql(&format!("SELECT pg_cancel_backend({backend})")), "t"),
        }
        let output = statement.wait(PATIENCE);
        assert!(
            !output.success() && output.stderr.contains("canceling statement"),
            "{output:?}"
        );
        assert_eq!(primary.psql("SELECT count(*) FROM walarchive_progress"), "0");
        assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());
        primary.wait_until("the worker has ended", PATIENCE, || !is_alive(worker));
        assert!(!in_backup_mode(&primary));
    }
    throttle(&primary, "0");
    let name = backup(&primary, "");
    assert_eq!(primary.psql(BACKUPS), name);
    archive_all(&primary);
    lose(&primary);
    let restored = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach(&restored);
    restored.wait_promoted(PATIENCE);
    assert!(restored.psql("SELECT a FROM probe").parse::<i32>().is_ok_and(|a| a > 5));
}

#[test]
fn a_backup_survives_its_client_but_not_its_server() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "3MB")]);
    let finish = |worker: i32, number: usize| {
        assert_eq!(wait_copying(&primary), worker);
        primary.wait_until("the backup is complete", PATIENCE, || {
            primary.psql("SELECT count(*) FROM walarchive_backups WHERE problem IS NULL") == number.to_string()
        });
        // The worker has a last look at the repository before it is free for the next one.
        primary.wait_until("the worker is done", PATIENCE, || {
            primary.psql("SELECT count(*) FROM walarchive_progress") == "0"
        });
    };
    let statement = primary.background_psql(PUSH);
    let worker = wait_copying(&primary);
    statement.kill();
    assert_eq!(statement.wait(PATIENCE).signal, Some(Signal::SIGKILL as i32));
    finish(worker, 1);

    let (statement, backend) = primary.background_backend(PUSH);
    let worker = wait_copying(&primary);
    primary.psql(&format!("SELECT pg_terminate_backend({backend}, 60000)"));
    assert!(!statement.wait(PATIENCE).success() && !is_alive(backend));
    finish(worker, 2);

    // Ending the worker, or the server, ends the backup: cleanly.
    let complete = site.objects("basebackups_005");
    let statement = primary.background_psql(PUSH);
    kill_pid(wait_copying(&primary), Signal::SIGTERM);
    let output = statement.wait(PATIENCE);
    assert!(!output.success() && output.stderr.contains("canceled"), "{output:?}");
    primary.wait_until("nothing is left of it", PATIENCE, || {
        site.objects("basebackups_005") == complete
    });
    let statement = primary.background_psql(PUSH);
    wait_copying(&primary);
    primary.restart();
    assert!(!statement.wait(PATIENCE).success());
    assert_eq!(site.objects("basebackups_005"), complete);
    assert_eq!(primary.psql("SELECT count(*) FROM walarchive_progress"), "0");
    throttle(&primary, "0");
    backup(&primary, "");
}

#[test]
fn files_may_come_go_grow_and_shrink_meanwhile() {
    let site = Site::on_files();
    // Small tars, several at a time, so that there is much between the look at a file and its copy.
    let primary = site.primary(&[
        ("walarchive.backup_rate_limit", "8MB"),
        ("walarchive.tar_size", "1MB"),
        ("autovacuum", "off"),
    ]);
    primary.psql("CREATE TABLE kept (a int); CREATE TABLE emptied AS SELECT generate_series(1, 100000) AS a");
    let script = site.dir().join("script.sql");
    // With its free space map and visibility map a table is three files; a checkpoint ends those of dropped tables.
    let text = "DROP TABLE IF EXISTS v:client_id;
        CREATE TABLE v:client_id AS SELECT generate_series(1, 20000) AS a;
        VACUUM v:client_id;
        INSERT INTO kept SELECT generate_series(1, 1000);
        TRUNCATE emptied;
        INSERT INTO emptied SELECT generate_series(1, 20000);
        DROP TABLE v:client_id;
        CHECKPOINT;\n";
    fs::write(&script, text).expect("could not write");
    let script = script.to_string_lossy();
    let mut churn = primary.background_pgbench(&["-n", "-c", "2", "-T", "600", "-f", &script]);
    primary.wait_until("tables come and go", PATIENCE, || {
        primary.psql("SELECT count(*) > 0 FROM kept") == "t"
    });
    let start = primary.psql("SELECT count(*) FROM kept");
    let name = backup(&primary, "");
    assert!(churn.is_running());
    churn.kill();
    let churned = churn.wait(PATIENCE);
    assert_eq!(churned.signal, Some(Signal::SIGKILL as i32), "{churned:?}");
    primary.wait_until("its sessions are gone", PATIENCE, || {
        primary.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == "0"
    });
    let kept = "SELECT count(*), sum(a) FROM kept; SELECT count(*), sum(a) FROM emptied";
    let before = primary.psql(kept);
    assert!(
        !before.starts_with(&format!("{start}|")),
        "nothing happened meanwhile: {before}"
    );
    archive_all(&primary);
    lose(&primary);

    let restored = site.restore("restored", &name, &[]);
    let restored = site.restored("restored").attach(&restored);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(kept), before);
    restored.amcheck();
}

#[test]
fn functions_are_not_for_the_public_and_views_are_for_monitoring() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE ROLE anybody; CREATE ROLE watcher IN ROLE pg_monitor; CREATE ROLE operator");
    let executable = "SELECT p.proname FROM pg_proc p
        JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'walarchive'";
    assert_ne!(primary.psql(executable), "");
    assert_eq!(
        primary.psql(&format!(
            "{executable} AND has_function_privilege('anybody', p.oid, 'execute')"
        )),
        ""
    );
    let views = ["walarchive_backups", "walarchive_status", "walarchive_progress"];
    for view in views {
        let refused = primary.try_psql(&format!("SET ROLE anybody; SELECT * FROM {view}"));
        assert!(
            refused.is_err_and(|error| error.contains("permission denied for view")),
            "{view}"
        );
        primary.psql(&format!("SET ROLE watcher; SELECT * FROM {view}"));
    }
    for role in ["anybody", "watcher", "operator"] {
        let refused = primary.try_psql(&format!("SET ROLE {role}; {PUSH}"));
        assert!(
            refused.is_err_and(|error| error.contains("permission denied for function")),
            "{role}"
        );
    }
    primary
        .psql("GRANT EXECUTE ON FUNCTION walarchive_backup_push(boolean, jsonb, boolean, boolean, text) TO operator");
    let name = primary.psql(&format!("SET ROLE operator; {PUSH}"));
    assert_eq!(primary.psql(&format!("SET ROLE watcher; {BACKUPS}")), name);
}

/// Parallel queries have the last worker for a while. No backup fails because of that.
#[test]
fn a_backup_waits_for_a_worker() {
    let site = Site::on_files();
    let primary = site.primary(&[("max_worker_processes", "4")]);
    let parallel = match primary.pg().major() {
        ..16 => "force_parallel_mode",
        16.. => "debug_parallel_query",
    };
    let busy = || {
        let busy = primary.background_psql(&format!("SET {parallel} = on; SELECT pg_sleep(600)"));
        let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
        primary.wait_until("a query has the last worker", PATIENCE, || primary.psql(count) == "1");
        busy
    };
    let query = busy();
    let error = primary
        .try_psql("SET statement_timeout = '1s'; SELECT walarchive_backup_push()")
        .expect_err("a backup without a worker");
    assert!(error.contains("statement timeout"), "{error}");
    let running = || primary.psql("SELECT count(*) FROM walarchive_progress");
    assert_eq!(running(), "0");

    let pushed = primary.background_psql("SELECT walarchive_backup_push()");
    primary.wait_until("the backup waits for its worker", PATIENCE, || running() == "1");
    query.cancel();
    pushed.wait(PATIENCE).expect_success();
    query.wait(PATIENCE);

    let query = busy();
    let error = primary
        .try_psql("SELECT walarchive_backup_push()")
        .expect_err("a backup without a worker");
    assert!(
        error.contains("no background worker is free") && error.contains("max_worker_processes"),
        "{error}"
    );
    query.cancel();
    query.wait(PATIENCE);
}

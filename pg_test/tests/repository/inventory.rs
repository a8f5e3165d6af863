//! The content of the repository, as SQL and the binary tell it.

use std::fs;

use serde_json::Value;
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, PATIENCE, run};

/// The binary's output with `--json`.
#[track_caller]
fn says(site: &Site, verb: &[&str]) -> Vec<Value> {
    let json = run(&mut site.walarchive(&[verb, &["--json"]].concat())).expect_success();
    serde_json::from_str(&json).expect("a JSON array")
}

/// The answer of SQL, as JSON.
fn sql(cluster: &Cluster, columns: &str, function: &str) -> Vec<Value> {
    let rows = cluster.psql(&format!(
        "SELECT coalesce(json_agg(r), '[]') FROM (SELECT {columns} FROM {function}()) r"
    ));
    serde_json::from_str(&rows).expect("a JSON array")
}

/// Takes from each row what both say.
fn pick(rows: &[Value], fields: &[&str]) -> Vec<Vec<Value>> {
    let of = |row: &Value| fields.iter().map(|field| row[*field].clone()).collect();
    rows.iter().map(of).collect()
}

/// As the binary says it.
const WAL_SHOW: &str =
    "timeline AS id, start_segment, end_segment, segment_range_size, segments_count, upper(status) AS status";

#[track_caller]
fn both_say_the_same(site: &Site, cluster: &Cluster) {
    let fields = [
        "backup_name",
        "start_lsn",
        "finish_lsn",
        "timeline",
        "uncompressed_size",
        "compressed_size",
        "is_permanent",
        "restorable",
        "problem",
        "hostname",
        "data_dir",
        "pg_version",
        "user_data",
    ];
    let columns = fields.map(|field| match field {
        "start_lsn" => "start_lsn - '0/0' AS start_lsn".to_owned(),
        // The binary has WAL-G's names and words.
        "finish_lsn" => "stop_lsn - '0/0' AS finish_lsn".to_owned(),
        "data_dir" => "data_directory AS data_dir".to_owned(),
        _ => field.to_owned(),
    });
    assert_eq!(
        pick(&sql(cluster, &columns.join(", "), "walarchive_backup_list"), &fields),
        pick(&says(site, &["backup-list", "--long"]), &fields)
    );
    let fields = [
        "id",
        "start_segment",
        "end_segment",
        "segment_range_size",
        "segments_count",
        "status",
    ];
    assert_eq!(
        pick(&sql(cluster, WAL_SHOW, "walarchive_wal_show"), &fields),
        pick(&says(site, &["wal-show"]), &fields)
    );
    let fields = ["timeline", "start", "end_lsn", "backup_name", "backups"];
    let columns = "timeline, start_lsn - '0/0' AS start, end_lsn - '0/0' AS end_lsn, backup_name,
                   backup_count AS backups";
    let windows: Vec<Value> = says(site, &["recovery-windows"])
        .into_iter()
        .map(|mut row| {
            row["start"] = row["start_lsn"].clone();
            row
        })
        .collect();
    assert_eq!(
        pick(&sql(cluster, columns, "walarchive_recovery_windows"), &fields),
        pick(&windows, &fields)
    );
}

#[test]
fn two_timelines_and_a_gap() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (a int)");
    let first = backup(&primary, "user_data => '{\"ticket\": 17}'");
    primary.psql("INSERT INTO t VALUES (1)");
    archive_all(&primary);
    both_say_the_same(&site, &primary);
    assert_eq!(
        primary.psql("SELECT status, backups FROM walarchive_wal_show()"),
        format!("ok|{{{first}}}")
    );

    // A restore opens the second timeline, which is archived into the same repository.
    lose(&primary);
    let target = site.restore("again", "LATEST", &["--take-over"]);
    let again = site.builder("again").attach(&target);
    again.wait_promoted(PATIENCE);
    again.psql("INSERT INTO t VALUES (2)");
    archive_all(&again);
    again.psql("INSERT INTO t VALUES (3)");
    archive_all(&again);
    both_say_the_same(&site, &again);
    assert_eq!(
        again.psql("SELECT timeline, parent_timeline, switch_lsn IS NOT NULL, status FROM walarchive_wal_show()"),
        "1||f|ok\n2|1|t|ok"
    );
    assert_eq!(
        again.psql("SELECT timeline, backup_name, missing_after IS NULL FROM walarchive_recovery_windows()"),
        format!("1|{first}|t\n2|{first}|t")
    );

    // A segment of the second timeline is lost: what follows it cannot be reached any more, until there is a backup.
    let lost = again.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    archive_all(&again);
    again.psql("INSERT INTO t VALUES (4)");
    archive_all(&again);
    fs::remove_file(site.object(&format!("wal_005/{lost}.zst"))).expect("removed");
    assert_eq!(
        again.psql("SELECT status, missing_segments FROM walarchive_wal_show() WHERE timeline = 2"),
        format!("lost_segments|{{{lost}}}")
    );
    let windows = "SELECT count(*), max(missing_after) FROM walarchive_recovery_windows() WHERE timeline = 2";
    assert_eq!(again.psql(windows), format!("1|{lost}"));
    let second = backup(&again, "");
    assert_eq!(again.psql(windows), format!("2|{lost}"));
    both_say_the_same(&site, &again);

    // The end of a backup's WAL is lost: it is there, but it cannot be restored, and that is said.
    let last = again.psql(&format!(
        "SELECT pg_walfile_name(stop_lsn - 1) FROM walarchive_backups WHERE backup_name = '{second}'"
    ));
    fs::remove_file(site.object(&format!("wal_005/{last}.zst"))).expect("removed");
    assert_eq!(
        again.psql(&format!(
            "SELECT restorable, problem LIKE '%{last}%' FROM walarchive_backups WHERE backup_name = '{second}'"
        )),
        "f|t"
    );
    both_say_the_same(&site, &again);
    let table = run(&mut site.walarchive(&["backup-list", "--detail", "--long"])).expect_success();
    assert!(table.contains("NO") && table.contains(&last), "{table}");
}

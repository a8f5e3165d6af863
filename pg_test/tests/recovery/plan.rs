//! `backup-fetch --plan`: what a restore will take is known before it, and agrees with what the restore does then.

use std::fs;
use std::path::Path;

use serde_json::Value;
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_paused};
use walarchive_testkit::{Cluster, Output, PATIENCE, run};

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

/// The plan as JSON, which must be one even if it is refused then.
#[track_caller]
fn plan(site: &Site, args: &[&str]) -> (Value, Output) {
    let (target, output) = site.backup_fetch("planned", "LATEST", &[args, &["--plan", "--json"]].concat());
    assert!(!target.exists(), "a plan writes nothing");
    let plan = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (plan, output)
}

/// Inserts a row, and returns its transaction.
fn insert(cluster: &Cluster, id: u32) -> String {
    cluster.psql(&format!("INSERT INTO t VALUES ({id}) RETURNING pg_current_xact_id()"))
}

/// The last of the windows, as `timeline|end_lsn|missing_after`.
fn window(cluster: &Cluster, timeline: u32) -> Vec<String> {
    let rows = cluster.psql(&format!(
        "SELECT end_lsn - '0/0' AS lsn, coalesce(missing_after, '') FROM walarchive_recovery_windows()
         WHERE timeline = {timeline} ORDER BY start_lsn"
    ));
    rows.lines().map(str::to_owned).collect()
}

/// The segments that a server has read from the archive.
fn replayed(cluster: &Cluster) -> Vec<String> {
    let log = cluster.log();
    let names = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("restored log file \"")?;
        rest.split('"').next()
    });
    names.filter(|name| name.len() == 24).map(str::to_owned).collect()
}

#[test]
fn the_plan_is_what_the_restore_does() {
    let site = Site::on_s3();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    insert(&primary, 1);
    let name = backup(&primary, "");
    for id in 2..=3 {
        insert(&primary, id);
        archive_all(&primary);
    }
    let time = primary.psql("SELECT clock_timestamp()");
    let xid = insert(&primary, 4);
    archive_all(&primary);
    insert(&primary, 5);
    archive_all(&primary);

    let (all, output) = plan(&site, &[]);
    output.expect_success();
    assert_eq!(all["backup"], Value::from(name), "{all:#}");
    assert_eq!(all["chain"].as_array().map(Vec::len), Some(0), "{all:#}");
    // What it will download is what is stored.
    let tars: u64 = site
        .objects("basebackups_005")
        .iter()
        .filter(|key| key.contains("/tar_partitions/"))
        .map(|key| fs::metadata(site.object(key)).expect("an object").len())
        .sum();
    assert_eq!(all["download_bytes"].as_u64(), Some(tars), "{all:#}");
    assert!(
        all["estimated_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0),
        "{all:#}"
    );
    for part in ["backup", "wal"] {
        assert!(all["estimate"][part]["basis"].is_string(), "{all:#}");
    }
    // The windows are computed from the same.
    let wal = &all["wal"];
    assert_eq!(window(&primary, 1), [format!("{}|", wal["end_lsn"])]);
    assert_eq!(
        (&wal["target_in_archive"], &wal["end_timeline"]),
        (&"yes".into(), &1.into())
    );
    assert_eq!(wal["missing"].as_array().map(Vec::len), Some(0));

    // A time: the WAL up to it only, and the transaction that is left out.
    let to_time = ["--target-time", &time];
    let (before, _) = plan(&site, &to_time);
    let wal = &before["wal"];
    assert_eq!(wal["stops_before"]["xid"].to_string(), xid, "{before:#}");
    let text = run(site
        .walarchive(&["backup-fetch", "/nonexistent/planned", "LATEST", "--dry-run"])
        .args(to_time));
    for says in [
        format!("Recovery will stop before the commit of transaction {xid} at "),
        format!("to replay:    {} WAL segments, ", wal["segments"]),
        "\ntime:         about ".to_owned(),
    ] {
        assert!(text.stdout.contains(&says), "{says}: {text:?}");
    }
    lose(&primary);
    let target = site.restore("restored", "LATEST", &to_time);
    let restored = site.restored("restored").attach(&target);
    wait_paused(&restored);
    assert_eq!(restored.psql(ROWS), "1 2 3");
    let planned: Vec<String> = wal["ranges"]
        .as_array()
        .expect("ranges")
        .iter()
        .flat_map(|range| [range["start_segment"].to_string(), range["end_segment"].to_string()])
        .map(|name| name.trim_matches('"').to_owned())
        .collect();
    // The server reads ahead: it has restored more than it has replayed.
    let read = replayed(&restored);
    assert_eq!(read.first(), planned.first(), "{read:?} {planned:?}");
    assert!(
        planned.last().is_some_and(|last| read.contains(last)),
        "{read:?} {planned:?}"
    );
    let stopped = format!("recovery stopping before commit of transaction {xid},");
    assert!(restored.log().contains(&stopped), "{}", restored.log());
    let total = all["wal"]["segments"].as_u64();
    assert!(total > wal["segments"].as_u64(), "{all:#} {before:#}");
}

fn remove(site: &Site, segment: &str) {
    fs::remove_file(site.object(&format!("wal_005/{segment}.zst"))).expect("could not remove a segment");
}

#[test]
fn the_plan_names_what_is_missing_and_the_timelines_on_the_way() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    for id in 1..=2 {
        insert(&primary, id);
        archive_all(&primary);
    }
    lose(&primary);
    // A new timeline.
    let target = site.restore("second", "LATEST", &["--take-over"]);
    let second = site.builder("second").attach(Path::new(&target));
    second.wait_promoted(PATIENCE);
    let mut segments = Vec::new();
    for id in 3..=8 {
        insert(&second, id);
        let segment = second.switch_wal();
        second.wait_archived(&segment, PATIENCE);
        segments.push(segment);
    }
    let (whole, output) = plan(&site, &[]);
    output.expect_success();
    let timelines = |plan: &Value| -> Vec<u64> {
        let ranges = plan["wal"]["ranges"].as_array().cloned().unwrap_or_default();
        ranges.iter().filter_map(|range| range["timeline"].as_u64()).collect()
    };
    assert_eq!(timelines(&whole), [1, 2], "{whole:#}");
    assert_eq!(window(&second, 2), [format!("{}|", whole["wal"]["end_lsn"])]);

    // Two holes: both are named, and the plan is refused as the restore is.
    remove(&site, &segments[1]);
    remove(&site, &segments[3]);
    remove(&site, &segments[4]);
    let (holes, output) = plan(&site, &[]);
    assert!(
        output.code == Some(1) && output.stderr.contains("would end too early, at LSN"),
        "{output:?}"
    );
    let missing: Vec<(String, u64)> = holes["wal"]["missing"]
        .as_array()
        .expect("missing")
        .iter()
        .map(|hole| {
            let first = hole["start_segment"].as_str().unwrap_or_default().to_owned();
            (first, hole["segments_count"].as_u64().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        missing,
        [(segments[1].clone(), 1), (segments[3].clone(), 2)],
        "{holes:#}"
    );
    assert_eq!(holes["wal"]["target_in_archive"], "no");
    assert_eq!(
        window(&second, 2)[0],
        format!("{}|{}", holes["wal"]["end_lsn"], segments[1])
    );
    // Whoever allows the gap is told, and nothing is refused.
    let (allowed, output) = plan(&site, &["--allow-gap"]);
    output.expect_success();
    assert_eq!(allowed["wal"]["missing"], holes["wal"]["missing"]);
}

//! The tail in whatever shows, checks and prunes the repository.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, PATIENCE, run};

const WINDOW: &str = "SELECT end_lsn, missing_after FROM walarchive_recovery_windows()";
const SHOWN: &str = "SELECT tail_lsn, tail_epoch, status FROM walarchive_wal_show()";

/// The segment that is being written, and up to where it is flushed: as an LSN, and as an offset in the segment.
struct Flushed {
    segment: String,
    lsn: String,
    offset: usize,
}

fn flushed(cluster: &Cluster) -> Flushed {
    let row = cluster
        .psql("SELECT lsn, file_name, file_offset FROM pg_current_wal_flush_lsn() AS lsn, pg_walfile_name_offset(lsn)");
    let parts: Vec<&str> = row.split('|').collect();
    let [lsn, segment, offset] = parts[..] else {
        panic!("{row}")
    };
    Flushed {
        segment: segment.to_owned(),
        lsn: lsn.to_owned(),
        offset: offset.parse().expect("an offset"),
    }
}

/// Stores what is from one offset to another in a segment, as a server's run of this number would. Returns the key.
#[track_caller]
fn store_chunk(site: &Site, cluster: &Cluster, segment: &str, epoch: u64, from: usize, to: usize) -> String {
    let wal = fs::read(cluster.datadir().join("pg_wal").join(segment)).expect("a segment");
    let key = format!("walarchive_005/tail/{segment}/{epoch:08}-{from:08X}-{to:08X}.zst");
    let object = site.object(&key);
    let folder = object.parent().expect("a folder");
    fs::create_dir_all(folder).expect("made");
    // The binary deletes in it as another user.
    fs::set_permissions(folder, Permissions::from_mode(0o777)).expect("set");
    let plain = site.dir().join("chunk");
    fs::write(&plain, &wal[from..to]).expect("written");
    let mut zstd = std::process::Command::new("zstd");
    run(zstd.args(["-q", "-f"]).arg(&plain).arg("-o").arg(&object)).expect_success();
    key
}

/// What the binary prints as JSON.
#[track_caller]
fn says(site: &Site, args: &[&str]) -> Value {
    let json = run(&mut site.walarchive(&[args, &["--json"]].concat())).expect_success();
    serde_json::from_str(&json).expect("JSON")
}

/// Key and reason of each row of the plan of `delete garbage` that is about the tail.
fn garbage(cluster: &Cluster) -> String {
    cluster
        .psql("SELECT key, why FROM walarchive_delete_garbage(confirm => false) WHERE key LIKE '%/tail/%' ORDER BY 1")
}

/// The chunks are made by hand, from `pg_wal`.
#[test]
fn the_tail_is_the_end_of_what_can_be_restored() {
    let site = Site::on_files();
    let primary = site.primary(&[("track_commit_timestamp", "on")]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    archive_all(&primary);
    let archived = primary.psql(WINDOW);

    primary.psql("INSERT INTO t VALUES (1)");
    let at = flushed(&primary);
    let half = at.offset / 2;
    // Without its beginning it is of no use.
    store_chunk(&site, &primary, &at.segment, 2, half, at.offset);
    assert_eq!(primary.psql(WINDOW), archived);
    store_chunk(&site, &primary, &at.segment, 2, 0, half);
    assert_eq!(primary.psql(WINDOW), format!("{}|", at.lsn));
    assert_eq!(primary.psql(SHOWN), format!("{}|2|ok", at.lsn));
    // The commit is in it, and in nothing else.
    let committed = "SELECT end_time > (SELECT stop_time FROM walarchive_backups) AND end_time < clock_timestamp()
                       AND end_time = (SELECT max(pg_xact_commit_timestamp(xmin)) FROM t)
                     FROM walarchive_recovery_windows()";
    assert_eq!(primary.psql(committed), "t");

    let windows = says(&site, &["recovery-windows"]);
    let lsn = primary.psql(&format!("SELECT '{}'::pg_lsn - '0/0'", at.lsn));
    assert_eq!(windows[0]["end_lsn"].to_string(), lsn, "{windows:#}");
    let shown = says(&site, &["wal-show"]);
    assert_eq!(shown[0]["tail"]["end_lsn"].to_string(), lsn, "{shown:#}");
    let table = run(&mut site.walarchive(&["wal-show", "--long"])).expect_success();
    assert!(table.contains(&at.lsn), "{table}");
    // WAL-G has no such thing.
    let wal_g = run(&mut site.walarchive(&["wal-show"])).expect_success();
    assert!(!wal_g.contains(&at.lsn), "{wal_g}");
    let (_, output) = site.backup_fetch("planned", "LATEST", &["--plan", "--json"]);
    let plan: Value = serde_json::from_str(&output.expect_success()).expect("JSON");
    assert_eq!(plan["wal"]["end_lsn"].to_string(), lsn, "{plan:#}");
    assert!(plan["wal"]["tail_stored"].is_string(), "{plan:#}");
    let (_, output) = site.backup_fetch("planned", "LATEST", &["--plan"]);
    let text = output.expect_success();
    assert!(text.contains(&format!("goes on to LSN {} on", at.lsn)), "{text}");
    assert!(text.contains("its tail: "), "{text}");
    let verified = "SELECT segment_status FROM walarchive_wal_verify('integrity')
                    WHERE end_segment = '{}' AND status = 'ok'";
    assert_eq!(primary.psql(&verified.replace("{}", &at.segment)), "tail");
    let content = "SELECT status, detail FROM walarchive_wal_verify('content') WHERE start_segment = '{}'";
    assert_eq!(primary.psql(&content.replace("{}", &at.segment)), "ok|");
    assert_eq!(garbage(&primary), "");

    // A later run of the server has stored more of it.
    primary.psql("INSERT INTO t VALUES (2)");
    let later = flushed(&primary);
    assert_eq!(later.segment, at.segment);
    store_chunk(&site, &primary, &at.segment, 3, 0, later.offset);
    assert_eq!(primary.psql(SHOWN), format!("{}|3|ok", later.lsn));
    let replaced = garbage(&primary);
    assert_eq!(
        replaced.matches("|other chunks have what is in it").count(),
        2,
        "{replaced}"
    );
    assert_eq!(replaced.matches("/00000002-").count(), 2, "{replaced}");

    // It is archived whole, and the server has gone on.
    archive_all(&primary);
    let window = primary.psql(
        "SELECT end_lsn = pg_lsn('0/0') + 16777216 * (SELECT max(('x' || right(end_segment, 8))::bit(32)::int + 1)
                                 FROM walarchive_wal_show()) FROM walarchive_recovery_windows()",
    );
    assert_eq!(window, "t");
    assert_eq!(primary.psql(SHOWN), "||ok");
    let done = garbage(&primary);
    assert_eq!(done.matches("|its segment is archived whole").count(), 3, "{done}");
    primary.psql("INSERT INTO t VALUES (3)");
    let next = flushed(&primary);
    let last = store_chunk(&site, &primary, &next.segment, 3, 0, next.offset);
    run(&mut site.walarchive(&["delete", "garbage", "--confirm"])).expect_success();
    assert_eq!(site.objects("walarchive_005/tail"), [last]);
    assert_eq!(primary.psql(SHOWN), format!("{}|3|ok", next.lsn));
}

/// The chunks are those of a server.
#[test]
fn what_is_shown_of_a_lost_server_is_what_the_restore_has() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.tail_interval", "200ms")]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    for row in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
        primary.wait_until("the tail is stored", PATIENCE, || {
            primary.psql(&format!("SELECT tail_lsn >= '{lsn}' FROM walarchive_status")) == "t"
        });
    }
    lose(&primary);
    let windows = says(&site, &["recovery-windows"]);
    let (_, output) = site.backup_fetch("planned", "LATEST", &["--plan", "--json"]);
    let plan: Value = serde_json::from_str(&output.expect_success()).expect("JSON");
    assert_eq!(windows[0]["end_lsn"], plan["wal"]["end_lsn"], "{windows:#} {plan:#}");
    assert!(plan["wal"]["tail_stored"].is_string(), "{plan:#}");
    assert_eq!(
        windows[0]["end_time"], plan["wal"]["last_transaction_time"],
        "{windows:#} {plan:#}"
    );

    let target = site.restore("restored", "LATEST", &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"),
        "1 2 3"
    );
    let log = restored.log();
    let last = log.split("last completed transaction was at log time ").nth(1);
    let last = last
        .and_then(|rest| rest.lines().next())
        .unwrap_or_else(|| panic!("{log}"));
    let shown = windows[0]["end_time"].as_str().expect("a time");
    let is_same = format!("SELECT '{last}'::timestamptz = '{shown}'::timestamptz");
    assert_eq!(restored.psql(&is_same), "t", "{last} {shown}");
}

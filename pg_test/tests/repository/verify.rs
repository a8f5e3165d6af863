//! `wal-verify` and `backup-verify`, by SQL and by the binary: what is healthy is never called damaged, and what is damaged
//! is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{SEGMENT, switch_segments, wait_drained};
use walarchive_pg_test::repository::{segment_name, segment_number};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, Output, PATIENCE, run};

/// A cluster with small segments, a backup and some WAL after it; all is archived.
fn archived(site: &Site) -> (Cluster, String) {
    let primary = site.builder("primary").initdb_arg("--wal-segsize=1").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int);");
    let name = backup(&primary, "");
    primary.psql("INSERT INTO t SELECT generate_series(1, 60000)");
    switch_segments(&primary, 3);
    archive_all(&primary);
    wait_drained(&primary);
    (primary, name)
}

/// The rows of the SQL function, as the binary's JSON has them.
fn by_sql(cluster: &Cluster, checks: &str) -> Vec<String> {
    let rows = cluster.psql(&format!(
        "SELECT check_name, status, timeline, start_segment, end_segment, segments_count, segment_status
           FROM walarchive_wal_verify({checks})"
    ));
    rows.lines().map(str::to_owned).collect()
}

fn by_binary(site: &Site, cluster: &Cluster, args: &[&str]) -> Output {
    let data_dir = cluster.datadir().to_string_lossy().into_owned();
    run(site
        .walarchive(&["wal-verify"])
        .args(args)
        .args(["--pgdata", &data_dir]))
}

/// `content` of everything: status and the rows that are no success, "segment: detail".
fn damaged(cluster: &Cluster) -> Vec<String> {
    let rows = cluster.psql(
        "SELECT start_segment || ': ' || detail FROM walarchive_wal_verify('content:all') WHERE segment_status <> 'ok'",
    );
    rows.lines().map(str::to_owned).collect()
}

fn object(site: &Site, segment: &str) -> PathBuf {
    site.object(&format!("wal_005/{segment}.zst"))
}

/// The segments of the archive, in order.
fn segments(site: &Site) -> Vec<String> {
    let keys = site.objects("wal_005");
    let names = keys
        .iter()
        .filter_map(|key| key.strip_prefix("wal_005/")?.strip_suffix(".zst"));
    names.filter(|name| name.len() == 24).map(str::to_owned).collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("could not read {}: {e}", path.display()))
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
}

/// As `zstd` packs it.
fn compressed(site: &Site, content: &[u8]) -> Vec<u8> {
    let (from, to) = (site.dir().join("plain"), site.dir().join("plain.zst"));
    write(&from, content);
    run(std::process::Command::new("zstd")
        .args(["-q", "-f"])
        .arg(&from)
        .arg("-o")
        .arg(&to))
    .expect_success();
    read(&to)
}

fn plain(object: &Path) -> Vec<u8> {
    let output = std::process::Command::new("zstd").arg("-dc").arg(object).output();
    output.expect("could not run zstd").stdout
}

#[test]
fn sql_and_binary_give_the_same_answer() {
    let site = Site::on_files();
    let (primary, name) = archived(&site);
    let rows = by_sql(&primary, "");
    let start = name.trim_start_matches("base_");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(
        rows[0].starts_with(&format!("integrity|ok|1|{start}|")) && rows[0].ends_with("|found"),
        "{rows:?}"
    );
    assert_eq!(rows[1], "timeline|ok|1||||");
    let output = by_binary(&site, &primary, &["--json"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let by_json = |path: &str| {
        primary.psql(&format!(
            "SELECT jsonb_path_query_array($json${}$json$, '{path}')",
            output.stdout
        ))
    };
    let cells: Vec<&str> = rows[0].split('|').collect();
    for (field, cell) in [("start_segment", 3), ("end_segment", 4), ("status", 6)] {
        let expected = format!("[\"{}\"]", cells[cell].to_uppercase());
        assert_eq!(
            by_json(&format!("$.integrity.details[*].{field}")),
            expected,
            "{output:?}"
        );
    }
    assert_eq!(
        by_json("$.integrity.details[*].segments_count"),
        format!("[{}]", cells[5])
    );
    assert_eq!(by_json("$.timeline.details.current_timeline_id"), "[1]");

    // One that is needed is gone: both say so.
    let lost = segment_name(1, segment_number(start) + 1);
    fs::remove_file(object(&site, &lost)).expect("could not remove");
    let rows = by_sql(&primary, "'integrity'");
    assert_eq!(
        rows[1],
        format!("integrity|failed|1|{lost}|{lost}|1|missing_lost"),
        "{rows:?}"
    );
    let output = by_binary(&site, &primary, &["integrity"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("MISSING_LOST") && output.stdout.contains(&lost),
        "{output:?}"
    );
    // Also without a data directory.
    let output = run(&mut site.walarchive(&["wal-verify", "integrity", "timeline"]));
    assert_eq!(output.code, Some(1), "{output:?}");
    let refused = primary
        .try_psql("SELECT walarchive_wal_verify('integrty')")
        .expect_err("refused");
    assert!(refused.contains("there is no check named \"integrty\""), "{refused}");
}

#[test]
fn damaged_wal_is_named() {
    let site = Site::on_files();
    let (primary, _) = archived(&site);
    assert_eq!(damaged(&primary), Vec::<String>::new());
    assert_eq!(by_sql(&primary, "'content'").len(), 1, "all is known");
    let names = segments(&site);
    let (one, two) = (&names[2], &names[3]);
    let (intact, neighbour) = (read(&object(&site, one)), read(&object(&site, two)));
    let only = |says: &str| {
        let found = damaged(&primary);
        assert_eq!(found.len(), 1, "{says}: {found:?}");
        assert!(
            found[0].starts_with(&format!("{one}: ")) && found[0].contains(says),
            "{says}: {found:?}"
        );
    };

    let mut flipped = intact.clone();
    flipped[intact.len() / 2] ^= 0x10;
    for content in [&intact[..intact.len() / 2], &flipped] {
        write(&object(&site, one), content);
        only("It cannot be decompressed");
    }
    // A bit that was turned over before it was compressed: only the record's checksum tells.
    write(&object(&site, one), &intact);
    let mut content = plain(&object(&site, one));
    assert_eq!(content.len(), SEGMENT);
    content[300_000] ^= 0x10;
    write(&object(&site, one), &compressed(&site, &content));
    let found = damaged(&primary);
    assert!(found.len() == 1 && found[0].contains("The "), "{found:?}");
    content[300_000] ^= 0x10;

    // Another cluster's: the system identifier stands at the 24th byte.
    content[24] ^= 1;
    write(&object(&site, one), &compressed(&site, &content));
    only("system identifier");
    write(&object(&site, one), &intact);

    // Under another timeline's name. It ends with a switch: of one that ends within a record it is not known what begins there.
    let last = names.last().expect("a segment");
    let other = format!("00000002{}", &last[8..]);
    write(&object(&site, &other), &read(&object(&site, last)));
    let found = damaged(&primary);
    assert_eq!(
        found,
        [format!(
            "{other}: All its WAL is of timeline 1, the file's name says 2."
        )]
    );
    assert_eq!(by_sql(&primary, "'timeline'"), ["timeline|failed|1||||"]);
    fs::remove_file(object(&site, &other)).expect("could not remove");

    write(&object(&site, one), &neighbour);
    write(&object(&site, two), &intact);
    let found = damaged(&primary);
    assert!(
        found.len() == 2 && found.iter().all(|row| row.contains("the file's name says")),
        "{found:?}"
    );
    let output = run(&mut site.walarchive(&["wal-verify", "content", "--all"]));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains(one.as_str()) && output.stdout.contains(two.as_str()),
        "{output:?}"
    );
    write(&object(&site, one), &intact);
    write(&object(&site, two), &neighbour);
    assert_eq!(damaged(&primary), Vec::<String>::new());
    let output = run(&mut site.walarchive(&["wal-verify", "content"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("Nothing is new"), "{output:?}");
}

#[test]
fn a_busy_server_is_never_called_damaged() {
    let site = Site::on_files();
    let (primary, _) = archived(&site);
    primary.pgbench(&["-i", "-q", "-s", "1"]);
    let mut busy = primary.background_pgbench(&["-c", "4", "-T", "30", "-n"]);
    let begun = Instant::now();
    let mut looks = 0;
    while busy.is_running() || looks == 0 {
        let bad = primary
            .psql("SELECT * FROM walarchive_wal_verify() WHERE status = 'failed' OR segment_status = 'missing_lost'");
        assert_eq!(bad, "", "after {looks} looks and {} s", begun.elapsed().as_secs());
        let output = by_binary(&site, &primary, &["--json"]);
        assert_eq!(output.code, Some(0), "after {looks} looks: {output:?}");
        switch_segments(&primary, 2);
        looks += 1;
    }
    busy.wait(PATIENCE).expect_success();
    assert!(begun.elapsed() > Duration::from_secs(20) && looks > 2, "{looks} looks");
    archive_all(&primary);
    wait_drained(&primary);
    assert!(
        by_sql(&primary, "")[0].starts_with("integrity|ok|"),
        "{:?}",
        by_sql(&primary, "")
    );
    assert_eq!(damaged(&primary), Vec::<String>::new());
}

#[test]
fn what_waits_is_delayed_and_not_lost() {
    let site = Site::on_files();
    let (primary, _) = archived(&site);
    let store = site.dir().join("store/wal_005");
    // Nothing can be stored: not a directory any more, until it is one again.
    let away = site.dir().join("away");
    fs::rename(&store, &away).expect("could not rename");
    write(&store, b"");
    switch_segments(&primary, 3);
    primary.wait_until("some wait", PATIENCE, || primary.waiting_files().len() >= 3);
    fs::remove_file(&store).expect("could not remove");
    fs::rename(&away, &store).expect("could not rename");
    let rows = by_sql(&primary, "'integrity'");
    assert!(rows.iter().all(|row| !row.contains("lost")), "{rows:?}");
    wait_drained(&primary);
    assert!(by_sql(&primary, "'integrity'")[0].starts_with("integrity|ok|"));
}

#[test]
fn damaged_backups_are_named() {
    let site = Site::on_files();
    let (primary, name) = archived(&site);
    let verify = |what: &str| {
        let rows = primary.psql(&format!(
            "SELECT what, path, detail FROM walarchive_backup_verify('{name}') WHERE status {what} ORDER BY what"
        ));
        rows.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(verify("<> 'ok'"), Vec::<String>::new());
    let good = verify("= 'ok'");
    for what in ["manifest|", "pages|", "sentinel|", "tar|", "wal|"] {
        assert!(
            good.iter().any(|row| row.starts_with(what)),
            "{what} is not in {good:?}"
        );
    }
    let latest = "SELECT count(*) > 0 FROM walarchive_backup_verify('LATEST') WHERE status = 'ok'";
    assert_eq!(primary.psql(latest), "t");
    let output = run(&mut site.walarchive(&["backup-verify", "LATEST"]));
    assert_eq!(output.code, Some(0), "{output:?}");
    let output = run(&mut site.walarchive(&["backup-verify", "--all", "--new", "--json"]));
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(0), "[]"),
        "it was verified: {output:?}"
    );

    let folder = site.object(&format!("basebackups_005/{name}"));
    let part = folder.join("tar_partitions/part_001.tar.zst");
    let intact = read(&part);
    let mut flipped = intact.clone();
    flipped[intact.len() / 2] ^= 0x10;
    for content in [&intact[..intact.len() / 2], &flipped] {
        write(&part, content);
        let found = verify("= 'failed'");
        assert!(
            found
                .iter()
                .any(|row| row.starts_with("tar|") && row.contains("part_001")),
            "{found:?}"
        );
        let output = run(&mut site.walarchive(&["backup-verify", &name, "--json"]));
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stdout.contains("part_001.tar.zst"), "{output:?}");
    }
    fs::remove_file(&part).expect("could not remove");
    let found = verify("= 'failed'");
    assert!(
        found
            .iter()
            .any(|row| row.starts_with("tar|") && row.contains("It is missing")),
        "{found:?}"
    );
    write(&part, &intact);
    let manifest = folder.join("backup_manifest");
    let text = read(&manifest);
    write(&manifest, &text[..text.len() / 2]);
    assert!(verify("= 'failed'").iter().any(|row| row.starts_with("manifest|")));
    write(&manifest, &text);
    assert_eq!(verify("<> 'ok'"), Vec::<String>::new());
    let segment = name.trim_start_matches("base_");
    fs::remove_file(object(&site, segment)).expect("could not remove");
    let found = verify("= 'failed'");
    assert!(
        found.len() == 1 && found[0].starts_with(&format!("wal|{segment}|")),
        "{found:?}"
    );
    assert_eq!(run(&mut site.walarchive(&["backup-verify", "base_none"])).code, Some(2));
}

//! Delta backups: when one is taken, its parent, and when a full one is taken instead.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_settled};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, run};

const STEPS: &str = "walarchive.delta_max_steps";

/// A cluster with a table of some pages, and a checkpoint between any two backups.
fn filled(site: &Site, settings: &[(&str, &str)]) -> Cluster {
    let primary = site.primary(settings);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 50000) i");
    wait_settled(&primary);
    primary
}

/// A cluster with those statements, and then a full backup.
fn backed_up_without_checksums(site: &Site, sql: &str) -> Cluster {
    let builder = site.builder("primary").data_checksums(false).setting(STEPS, "9");
    let primary = builder.start();
    primary.psql(&format!("CREATE EXTENSION walarchive; {sql}"));
    wait_settled(&primary);
    backup(&primary, "");
    primary
}

/// A restore of the backup when the cluster itself is lost.
fn after_its_loss(site: &Site, cluster: &Cluster, name: &str) -> Cluster {
    archive_all(cluster);
    lose(cluster);
    let target = site.restore("restored", name, &[]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    restored
}

fn change(primary: &Cluster, id: u32) {
    primary.psql(&format!("UPDATE t SET body = 'changed' WHERE id = {id}"));
}

/// The start of a backup's name; deltas that are based on it have it in their name.
fn start_of(name: &str) -> &str {
    &name["base_".len()..][..24]
}

fn column(cluster: &Cluster, column: &str, name: &str) -> String {
    cluster.psql(&format!(
        "SELECT {column} FROM walarchive_backups WHERE backup_name = '{name}'"
    ))
}

fn number(cluster: &Cluster, of: &str, name: &str) -> u64 {
    column(cluster, of, name).parse().expect("a number")
}

#[test]
fn the_settings_say_how_long_a_chain_gets() {
    let site = Site::on_files();
    let primary = filled(&site, &[(STEPS, "2")]);
    let mut names = Vec::new();
    for id in 0..4 {
        change(&primary, id);
        names.push(backup(&primary, ""));
    }
    let [full, first, second, again] = names.as_slice() else {
        panic!("{names:?}")
    };
    assert!(!full.contains("_D_") && !again.contains("_D_"), "{names:?}");
    assert!(first.ends_with(&format!("_D_{}", start_of(full))), "{names:?}");
    assert!(second.ends_with(&format!("_D_{}", start_of(first))), "{names:?}");
    // Most of it is skipped.
    assert!(number(&primary, "compressed_size", second) * 5 < number(&primary, "compressed_size", full));
    // Asked for, it is a full one, or one based on another parent; the latter even if the settings want none.
    let asked = backup(&primary, "full_backup => true");
    assert!(!asked.contains("_D_"), "{asked}");
    primary.set(STEPS, "0");
    primary.reload();
    change(&primary, 9);
    let based = backup(&primary, &format!("delta_from => '{full}'"));
    assert!(based.ends_with(&format!("_D_{}", start_of(full))), "{based}");
    change(&primary, 10);
    let off = backup(&primary, "");
    assert!(!off.contains("_D_"), "{off}");
    let both = primary.try_psql(&format!(
        "SELECT walarchive_backup_push(full_backup => true, delta_from => '{full}')"
    ));
    assert!(both.as_ref().is_err_and(|error| error.contains("HINT")), "{both:?}");
    let nobody = primary.try_psql("SELECT walarchive_backup_push(delta_from => 'base_000000010000000000000000')");
    assert!(
        nobody
            .as_ref()
            .is_err_and(|error| error.contains("there is no backup named")),
        "{nobody:?}"
    );

    primary.set(STEPS, "5");
    primary.set("walarchive.delta_origin", "latest_full");
    primary.reload();
    for id in 11..13 {
        change(&primary, id);
        let name = backup(&primary, "");
        assert!(
            name.ends_with(&format!("_D_{}", start_of(&off))),
            "{name} is not based on {off}"
        );
    }
}

#[test]
fn every_step_of_a_chain_comes_back() {
    let site = Site::on_files();
    let primary = filled(&site, &[(STEPS, "9")]);
    let mut taken = Vec::new();
    for id in 1..5 {
        change(&primary, id);
        primary.psql(&format!(
            "CREATE TABLE t{id} AS SELECT generate_series(1, 1000 * {id}) AS a"
        ));
        let name = backup(&primary, "");
        taken.push((name, id));
    }
    primary.psql("TRUNCATE t1; DROP TABLE t2; DELETE FROM t WHERE id > 100; VACUUM t");
    let last = backup(&primary, "");
    lose(&primary);
    for (name, id) in &taken {
        let target = site.restore("restored", name, &["--target-immediate", "--target-action", "promote"]);
        let restored = site.restored("restored").attach(&target);
        restored.wait_promoted(PATIENCE);
        assert_eq!(
            restored.psql("SELECT count(*) FROM t WHERE body = 'changed'"),
            id.to_string()
        );
        assert_eq!(
            restored.psql(&format!("SELECT count(*) FROM t{id}")),
            (1000 * id).to_string()
        );
        restored.amcheck();
        drop(restored);
        fs::remove_dir_all(&target).expect("could not remove what was restored");
    }
    let target = site.restore("restored", "LATEST", &[]);
    assert!(fs::read_to_string(target.join("backup_label")).is_ok_and(|label| label.contains(start_of(&last))));
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM t1), to_regclass('t2') IS NULL"),
        "100|0|t"
    );
}

/// Pages of the new timeline have lower LSNs than the parent's start, and other content.
#[test]
fn a_backup_of_another_past_is_no_parent() {
    let site = Site::on_files();
    let primary = filled(&site, &[(STEPS, "9")]);
    let root = backup(&primary, "");
    primary.psql("SELECT pg_create_restore_point('fork')");
    change(&primary, 1);
    let other = backup(&primary, "");
    assert!(other.contains("_D_"), "{other}");
    archive_all(&primary);
    lose(&primary);
    let target = site.restore(
        "forked",
        &root,
        &["--target-name", "fork", "--target-action", "promote", "--take-over"],
    );
    let forked = site.builder("forked").setting(STEPS, "9").attach(&target);
    forked.wait_promoted(PATIENCE);
    change(&forked, 2);
    let refused = forked.try_psql(&format!("SELECT walarchive_backup_push(delta_from => '{other}')"));
    assert!(
        refused.as_ref().is_err_and(|error| error.contains("HINT")),
        "{refused:?}"
    );
    let name = backup(&forked, "");
    assert!(!name.ends_with(start_of(&other)), "{name}");
    let restored = after_its_loss(&site, &forked, &name);
    assert_eq!(
        restored.psql("SELECT string_agg(id::text, ' ') FROM t WHERE body = 'changed'"),
        "2"
    );
    restored.amcheck();
}

/// `pg_checksums` writes every page and leaves its LSN as it is.
#[test]
fn pages_that_got_checksums_meanwhile_are_all_taken() {
    let site = Site::on_files();
    let sql = "CREATE TABLE t AS SELECT generate_series(1, 50000) AS id, 'x' AS body";
    let primary = backed_up_without_checksums(&site, sql);
    primary.stop(StopMode::Fast);
    let mut enable = site.pg().program("pg_checksums");
    run(enable.args(["--enable", "--no-sync", "-D"]).arg(primary.datadir())).expect_success();
    primary.start_again();
    let mark = primary.log_mark();
    let name = backup(&primary, "");
    assert!(!name.contains("_D_"), "{name}: {}", primary.log_since(mark));
    assert!(
        primary.log_since(mark).contains("checksums"),
        "{}",
        primary.log_since(mark)
    );
    let restored = after_its_loss(&site, &primary, &name);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "50000");
}

/// Without checksums VACUUM marks a table's pages and leaves their LSNs. The visibility map must not know more than they do, or
/// what is deleted later is still seen through an index.
#[test]
fn pages_that_vacuum_marks_silently_are_taken_with_the_map() {
    let site = Site::on_files();
    let sql = "CREATE TABLE t (id int PRIMARY KEY, body text) WITH (autovacuum_enabled = off);
               INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 50000) i";
    let primary = backed_up_without_checksums(&site, sql);
    primary.psql("VACUUM t; INSERT INTO t VALUES (0, 'later')");
    let name = backup(&primary, "");
    assert!(name.contains("_D_"), "{name}");
    let restored = after_its_loss(&site, &primary, &name);
    restored.psql("DELETE FROM t WHERE id % 2 = 0");
    let through_index = "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM t WHERE id >= 0";
    let plan = restored.psql(&format!(
        "{}; EXPLAIN SELECT count(*) FROM t WHERE id >= 0",
        "SET enable_seqscan = off; SET enable_bitmapscan = off"
    ));
    assert!(plan.contains("Index Only Scan"), "{plan}");
    assert_eq!(restored.psql(through_index), "25000");
}

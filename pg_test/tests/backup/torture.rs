//! Chains of delta backups under a random workload: each backup of each chain, replayed to the moment after it, is what the
//! server was at that moment.
//!
//! A failure names its seed. `WALARCHIVE_TORTURE_SEED=N` runs that one; `make torture` runs new ones for hours.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use walarchive_pg_test::encrypted::sodium_file;
use walarchive_pg_test::site::{Site, archive_all, wait_settled};
use walarchive_pg_test::workload::{SPACES, Workload};
use walarchive_testkit::{Cluster, PATIENCE, run};

const PUSH: &str = "SELECT walarchive_backup_push()";

/// A full backup and five deltas.
const BACKUPS: usize = 6;
const STATEMENTS: usize = 25;

/// A backup, and the cluster as it was when it was complete.
struct Point {
    backup: String,
    name: String,
    dump: String,
}

/// All databases as text, without the parts that a restore changes by right: the places of tablespaces, and how far sequences
/// were read ahead. Unlogged tables come back empty.
fn dump(cluster: &Cluster) -> String {
    let mut program = cluster.client("pg_dumpall");
    let all = run(program.args(["--no-unlogged-table-data", "--no-sync"])).expect_success();
    let kept = all.lines().filter(|line| {
        ![
            "CREATE TABLESPACE",
            "\\restrict",
            "\\unrestrict",
            "SELECT pg_catalog.setval",
        ]
        .iter()
        .any(|prefix| line.starts_with(prefix))
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Half of the seeds encrypt. Returns the file of the key.
fn key_of(site: &Site, seed: u64) -> Option<String> {
    (seed % 2 == 1).then(|| sodium_file(site, "key", &[1]))
}

fn primary(site: &Site, seed: u64, key: Option<&str>) -> Cluster {
    let origin = if seed % 4 < 2 { "latest" } else { "latest_full" };
    let mut builder = site
        .builder("primary")
        .initdb_arg("--wal-segsize=4")
        .data_checksums(!seed.is_multiple_of(3))
        .setting("max_prepared_transactions", "10")
        .setting("autovacuum_naptime", "1s")
        .setting("walarchive.delta_max_steps", "9")
        .setting("walarchive.delta_origin", origin);
    if let Some(key) = key {
        builder = builder
            .setting("walarchive.encryption", "libsodium")
            .setting("walarchive.encryption_key_file", key);
    }
    if site.pg().major() >= 17 && seed.is_multiple_of(2) {
        builder = builder.setting("summarize_wal", "on");
    }
    let cluster = builder.start();
    cluster.psql("CREATE EXTENSION walarchive");
    for number in 1..=SPACES {
        let location = site.dir().subdir(&format!("space{number}"));
        cluster.psql(&format!(
            "CREATE TABLESPACE space{number} LOCATION '{}'",
            location.display()
        ));
    }
    cluster
}

fn take(cluster: &Cluster, workload: &mut Workload, number: usize) -> Point {
    let mut statement = cluster.background_psql(PUSH);
    workload.run(cluster, STATEMENTS);
    if statement.is_running() {
        archive_all(cluster);
    }
    let mut taken = statement.wait(PATIENCE);
    // That is how such a backup must end, the second where it was moved there and back; nothing moves during the next one.
    let moved = [
        "was moved to another tablespace",
        "PG_VERSION\" is not in the data directory",
    ];
    if moved.iter().any(|text| taken.stderr.contains(text)) {
        taken = cluster.background_psql(PUSH).wait(PATIENCE);
    }
    let backup = taken.expect_success();
    workload.run(cluster, STATEMENTS / 3);
    workload.settle(cluster);
    let name = format!("point {number}");
    cluster.psql(&format!("SELECT pg_create_restore_point('{name}')"));
    Point {
        backup,
        dump: dump(cluster),
        name,
    }
}

/// Restores the backup, replays to its point and compares.
fn check(site: &Site, point: &Point, key: Option<&str>) {
    let spaces = site.dir().join("restored spaces");
    let maps: Vec<String> = (1..=SPACES)
        .map(|number| {
            let of = |dir: &Path| dir.join(format!("space{number}")).display().to_string();
            format!("{}={}", of(site.dir()), of(&spaces))
        })
        .collect();
    let mut args = vec!["--target-name", &point.name, "--target-action", "promote"];
    maps.iter().for_each(|map| args.extend(["--tablespace-map", map]));
    args.extend(key.into_iter().flat_map(|key| ["--encryption-key-file", key]));
    let target = site.restore("restored", &point.backup, &args);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    let found = dump(&restored);
    if found != point.dump {
        let differ = |(left, right): &(&str, &str)| left != right;
        let first = point.dump.lines().zip(found.lines()).find(differ);
        panic!("{} of {} is not what was: {first:?}", point.name, point.backup);
    }
    if !restored.amcheck() {
        assert_ne!(restored.pg().major(), 15, "Debian's PostgreSQL 15 has amcheck");
    }
    drop(restored);
    for gone in [&target, &spaces] {
        fs::remove_dir_all(gone).expect("could not remove what was restored");
    }
}

fn chain(seed: u64) {
    let site = Site::on_files();
    let key = key_of(&site, seed);
    let primary = primary(&site, seed, key.as_deref());
    let mut workload = Workload::new(seed);
    workload.run(&primary, STATEMENTS);
    wait_settled(&primary);
    let points: Vec<Point> = (0..BACKUPS)
        .map(|number| take(&primary, &mut workload, number))
        .collect();
    archive_all(&primary);
    drop(primary);
    let deltas = points.iter().filter(|point| point.backup.contains("_D_")).count();
    assert_eq!(deltas, BACKUPS - 1, "the first is full, the others are not");
    points.iter().for_each(|point| check(&site, point, key.as_deref()));
}

/// With the seed in the message, whatever fails.
fn run_seed(seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| chain(seed))) {
        eprintln!("the seed was {seed}: WALARCHIVE_TORTURE_SEED={seed} cargo test … --test torture one_seed");
        std::panic::resume_unwind(panic);
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

macro_rules! seeds {
    ($($name:ident = $seed:expr),*) => {
        $(
            #[test]
            fn $name() {
                // Each PostgreSQL has seeds of its own.
                run_seed(u64::from(walarchive_testkit::Pg::find().major()) * 1000 + $seed);
            }
        )*
    };
}

seeds!(
    seed_0 = 0,
    seed_1 = 1,
    seed_2 = 2,
    seed_3 = 3,
    seed_4 = 4,
    seed_5 = 5,
    seed_6 = 6,
    seed_7 = 7,
    seed_8 = 8,
    seed_9 = 9
);

/// The one that WALARCHIVE_TORTURE_SEED names, or new ones for WALARCHIVE_TORTURE_MINUTES.
#[test]
#[ignore = "runs for as long as one wants; see make torture"]
fn one_seed() {
    if let Some(seed) = variable("WALARCHIVE_TORTURE_SEED") {
        return run_seed(seed);
    }
    let minutes = variable("WALARCHIVE_TORTURE_MINUTES").unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let mut seed = now.as_nanos() as u64;
    while Instant::now() < end {
        seed = seed.wrapping_add(1);
        eprintln!("seed {seed}");
        run_seed(seed);
    }
}

//! Chains of backups of a real server that works in the meantime: each one of the chain is restored as it is put together in the
//! plainest way, and recovered to a point it is what the server was at that point.
//!
//! `WALARCHIVE_TEST_SEEDS` is the number of runs, each with work of its own (1 unless set). PostgreSQL 17 and later are asked
//! for their WAL summaries in every second one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walarchive_core::backup::delta::{Choice, Origin, WantedParent, choose};
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::codec::Format;
use walarchive_core::control_file::ControlFile;
use walarchive_core::formats::files_metadata::{FileDescription, FilesMetadata};
use walarchive_core::formats::increment::{IncrementHeader, PAGE_BYTES};
use walarchive_core::formats::manifest;
use walarchive_core::repository::{inventory, layout};
use walarchive_core::restore::{self, RestoreOptions};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{Cluster, PATIENCE, Pg, Session, StopMode, TestDir, run, wait_until};

/// Backups after the full one.
const DELTAS: usize = 3;

/// The server at the restore point after a backup.
struct Point {
    backup: String,
    name: String,
    dump: String,
}

struct Site {
    dir: TestDir,
    cluster: Cluster,
    repository: PathBuf,
    store: Store,
    wal_summaries: bool,
}

impl Site {
    fn new(seed: u64) -> Self {
        let dir = TestDir::new();
        let (repository, temporary) = (dir.subdir("repository"), dir.subdir("temporary"));
        let wal = dir.subdir("repository/wal_005");
        let archive = format!(
            "cp %p {}/%f && mv {}/%f {}/%f",
            temporary.display(),
            temporary.display(),
            wal.display()
        );
        let builder = Cluster::builder(&dir, "primary")
            .setting("archive_mode", "on")
            .setting("archive_command", &archive)
            .setting("wal_level", "replica")
            .setting("max_prepared_transactions", "3")
            // A prepared transaction holds its locks.
            .setting("lock_timeout", "300ms")
            .setting("autovacuum_naptime", "1s")
            .data_checksums(seed % 4 < 2);
        let cluster = match has_tablespaces(&Pg::find()) {
            true => builder.setting("allow_in_place_tablespaces", "on").start(),
            false => builder.setting("hot_standby", "on").start(),
        };
        let wal_summaries = cluster.pg().major() >= 17 && seed.is_multiple_of(2);
        if wal_summaries {
            cluster.set("summarize_wal", "on");
            cluster.reload();
        }
        let store = Store::open(&StorageConfig::new(format!("file://{}", repository.display()))).expect("a store");
        Site {
            dir,
            cluster,
            repository,
            store,
            wal_summaries,
        }
    }

    /// A backup, while `work` goes on. Returns its name, and how many of its files are increments and are left out.
    async fn back_up(&self, wanted: &WantedParent) -> (String, usize, usize) {
        let mut session = Session::begin(&self.cluster);
        let before = databases(&mut session);
        let start = session.ask("SELECT pg_backup_start('test', true)");
        let control = ControlFile::read(self.cluster.datadir()).expect("intact");
        let version = session.ask("SHOW server_version_num").parse().expect("a number");
        let start = start.parse().expect("an LSN");
        let mut request = BackupRequest::full(self.cluster.datadir().to_owned(), &control, version, start);
        match choose(&self.store, &request, false, wanted).await.expect("chosen") {
            Choice::Delta(parent) => request.parent = Some(parent),
            Choice::Full { why } => assert!(why.is_none(), "no delta: {why:?}"),
        }
        let options = BackupOptions {
            wal_summaries: self.wal_summaries,
            tar_bytes: 4 << 20,
            ..BackupOptions::default()
        };
        let begun = Backup::begin(&self.store, request, options, Arc::default(), CancellationToken::new());
        let mut backup = begun.await.expect("begun");
        backup.databases_before(before.keys().copied());
        backup.copy().await.expect("copied");
        // One that was dropped and made anew under its OID meanwhile was not there all the time.
        let after = databases(&mut session);
        let stayed = after
            .iter()
            .filter(|(oid, row)| before.get(oid).is_none_or(|then| then == *row));
        backup.databases_after(stayed.map(|(oid, _)| *oid));
        let stopped = session.ask("SELECT lsn || '|' || replace(labelfile, E'\\n', '~') FROM pg_backup_stop(false)");
        let (lsn, label) = stopped.split_once('|').expect("two columns");
        let stop = StopResult::new(lsn.parse().expect("an LSN"), label.replace('~', "\n"));
        let prepared = backup.finish(stop).await.expect("finished");
        assert_eq!(prepared.corrupt_pages().pages, 0, "{}", prepared.corrupt_pages());
        self.cluster.switch_wal();
        let segments = prepared.needed_segments().to_vec();
        wait_until("the WAL of the backup is archived", PATIENCE, || {
            let is_there = |segment: &_| self.repository.join(format!("wal_005/{segment}")).exists();
            segments.iter().all(is_there)
        });
        let name = prepared.commit().await.expect("committed");
        let files = self.files(&name).await.files;
        let count = |is: fn(&FileDescription) -> bool| files.values().filter(|file| is(file)).count();
        self.check_sums(&name, &files).await;
        let (incremented, skipped) = (count(|file| file.is_incremented), count(|file| file.is_skipped));
        eprintln!(
            "{name}: {} files, {incremented} increments, {skipped} left out",
            files.len()
        );
        (name, incremented, skipped)
    }

    async fn files(&self, name: &str) -> FilesMetadata {
        let metadata = self.store.get(&layout::files_metadata(name), u64::MAX).await;
        FilesMetadata::read_from(&metadata.expect("read").expect("there")[..]).expect("files metadata")
    }

    /// A file that was read as a whole and verified has a checksum; if the WAL summaries tell the blocks, nothing else is read.
    async fn check_sums(&self, name: &str, files: &BTreeMap<String, FileDescription>) {
        let text = self.store.get(&layout::backup_manifest(name), u64::MAX).await;
        let manifest = manifest::parse(&text.expect("read").expect("there")).expect("a manifest");
        let verified = ControlFile::read(self.cluster.datadir())
            .expect("intact")
            .data_checksums;
        for file in &manifest.files {
            let path = format!("/{}", file.path.display());
            let is_whole = files
                .get(&path)
                .is_none_or(|file| !file.is_incremented && !file.is_skipped);
            if is_whole {
                assert!(file.checksum.is_some(), "{path} of {name}");
            } else if files[&path].is_incremented {
                let known = verified && !self.wal_summaries;
                assert_eq!(file.checksum.is_some(), known, "{path} of {name}");
            }
        }
    }

    /// The files of a backup, by name; directories have no content.
    async fn content(&self, name: &str) -> BTreeMap<String, Option<Vec<u8>>> {
        let sentinel = inventory::read_sentinel(&self.store, name).await.expect("a sentinel");
        let base = match sentinel.delta_from {
            Some(parent) => Box::pin(self.content(&parent)).await,
            None => BTreeMap::new(),
        };
        let mut members = BTreeMap::new();
        for object in self.store.list(&layout::tar_folder(name)).await.expect("listed") {
            let stored = self
                .store
                .get(&object.key, u64::MAX)
                .await
                .expect("read")
                .expect("there");
            let (format, _) = Format::of_key(&object.key);
            let decoder = format.decoder(&stored[..]).expect("a decoder");
            for member in tar::Archive::new(decoder).entries().expect("a tar") {
                let mut member = member.expect("a member");
                let path = String::from_utf8(member.path_bytes().into_owned()).expect("UTF-8");
                let mut content = Vec::new();
                member.read_to_end(&mut content).expect("read");
                members.insert(path, member.header().entry_type().is_file().then_some(content));
            }
        }
        let files = self.files(name).await.files;
        let put_together = files.into_iter().map(|(path, file)| {
            let content = match (file.is_skipped, file.is_incremented) {
                (true, _) => base[&path].clone(),
                (_, true) => {
                    let (base, member) = (base[&path].as_ref(), members[&path].as_ref());
                    Some(applied(base.expect("a file"), member.expect("a file")))
                }
                _ => members[&path].clone(),
            };
            (path, content)
        });
        put_together.collect()
    }

    /// Recover the backup to the point, and compare.
    async fn prove(&self, point: &Point) {
        let place = self.dir.subdir(&format!("restored-{}", point.name));
        let target = place.join("data");
        let planned = restore::plan(&self.store, &point.backup, &target, RestoreOptions::default()).await;
        let restored = restore::apply(planned.expect("planned"), Arc::default(), CancellationToken::new());
        restored.await.expect("restored");
        for (path, expected) in self.content(&point.backup).await {
            let full = target.join(path.trim_start_matches('/'));
            match expected {
                None => assert!(full.is_dir(), "{path}"),
                Some(expected) => assert!(std::fs::read(&full).expect(&path) == expected, "{path}"),
            }
        }
        let chown = Command::new("chown").arg("-R").arg("postgres").arg(&place).status();
        assert!(!nix::unistd::geteuid().is_root() || chown.is_ok_and(|status| status.success()));
        let mut verify = self.cluster.pg().program("pg_verifybackup");
        let has_manifest = target.join("backup_manifest").exists();
        assert_eq!(has_manifest, self.cluster.pg().major() >= 13);
        if has_manifest && run(self.cluster.pg().program("pg_verifybackup").arg("--version")).success() {
            run(verify.arg("--no-parse-wal").arg(&target)).expect_success();
        }
        let restore = format!("cp {}/wal_005/%f %p", self.repository.display());
        let recovery = [
            ("restore_command", restore.as_str()),
            ("recovery_target_name", &point.name),
            ("recovery_target_action", "promote"),
        ];
        self.cluster.pg().tell_to_recover(&target, recovery);
        let restored = Cluster::builder(&place, "server")
            .setting("archive_mode", "off")
            .attach(&target);
        restored.wait_promoted(PATIENCE);
        let found = dump(&restored);
        if found != point.dump {
            let differ = found
                .lines()
                .zip(point.dump.lines())
                .find(|(found, there)| found != there);
            panic!("{} is not what the server was: {differ:?}", point.backup);
        }
        // amcheck would wait for their locks.
        for prepared in restored.psql("SELECT gid FROM pg_prepared_xacts").lines() {
            restored.psql(&format!("ROLLBACK PREPARED '{prepared}'"));
        }
        restored.amcheck();
        restored.stop(StopMode::Immediate);
    }
}

/// The OIDs of the databases, as a server says when a backup begins and when all is copied, and the transactions that made their rows
/// what they are.
fn databases(session: &mut Session) -> BTreeMap<u32, String> {
    let list = session.ask("SELECT string_agg(oid || ' ' || xmin, ',') FROM pg_database WHERE datconnlimit <> -2");
    let row = |row: &str| {
        row.split_once(' ')
            .and_then(|(oid, xmin)| Some((oid.parse().ok()?, xmin.to_owned())))
    };
    list.split(',').filter_map(row).collect()
}

/// The server's content as text, without the random parts of a dump and the parts that a crash removes.
fn dump(cluster: &Cluster) -> String {
    let mut dumpall = cluster.client("pg_dumpall");
    let text = run(dumpall.arg("--no-unlogged-table-data")).expect_success();
    let lines = text.lines().filter(|line| !line.contains("restrict "));
    lines.collect::<Vec<_>>().join("\n")
}

fn applied(base: &[u8], member: &[u8]) -> Vec<u8> {
    let mut rest = member;
    let header = IncrementHeader::read_from(&mut rest, member.len() as u64, "member");
    let header = header.expect("an increment").expect("read");
    let mut content = base.to_vec();
    // Files that nobody writes are seen.
    content.resize(header.file_size as usize, 0xAA);
    for (page, number) in rest.chunks_exact(PAGE_BYTES as usize).zip(&header.blocks) {
        let at = *number as usize * PAGE_BYTES as usize;
        content[at..at + page.len()].copy_from_slice(page);
    }
    content
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Can tablespaces be in the data directory? Elsewhere all that is restored would have them at the same place.
fn has_tablespaces(pg: &Pg) -> bool {
    pg.major() >= 10
}

/// Something that a server is asked to do. It may fail, as what it is about may not be there.
fn work(pg: &Pg, random: &mut Random) -> (String, String) {
    let (table, other) = (random.below(6), random.below(6));
    let database = format!("d{}", random.below(3));
    let row = "g, repeat(md5(g::text), 1 + g % 9), ARRAY[g % 7, g % 5], point(g, -g)";
    let place = ["pg_default", "ts1", "ts2"][random.below(3) as usize];
    let place = if has_tablespaces(pg) { place } else { "pg_default" };
    // Up to 9.6 no WAL tells of a hash index.
    let hash = if pg.major() >= 10 { "hash (a)" } else { "btree (b)" };
    let sql = match random.below(26) {
        0..=3 => format!("UPDATE t{table} SET b = 'new' WHERE a % 97 = {other}"),
        4 | 5 => format!("DELETE FROM t{table} WHERE a % 3 = {}", other % 3),
        6..=8 => format!(
            "INSERT INTO t{table} SELECT {row} FROM generate_series(1, {}) g",
            500 * other
        ),
        9 => format!("DROP TABLE t{table}"),
        10 | 11 => {
            let kind = if other == 0 { "UNLOGGED" } else { "" };
            format!(
                "CREATE {kind} TABLE t{table} TABLESPACE {place} AS SELECT g AS a, repeat(md5(g::text), 3) AS b, ARRAY[g % 7] AS c, \
                 point(g, g) AS d FROM generate_series(1, 3000) g"
            )
        }
        12 => format!("TRUNCATE t{table}"),
        13 => format!("VACUUM (FULL) t{table}"),
        14 | 15 => format!("VACUUM (FREEZE) t{table}"),
        16 => format!("ALTER TABLE t{table} SET TABLESPACE {place}"),
        17 => {
            let index = ["btree (a)", "gin (c)", "gist (d)", "brin (a)", hash, "spgist (d)"][other as usize];
            format!("CREATE INDEX ON t{table} USING {index}")
        }
        18 => format!("CREATE INDEX IF NOT EXISTS t{table}_c ON t{table} (a); CLUSTER t{table} USING t{table}_c"),
        19 => format!(
            "SELECT lo_from_bytea(0, decode(repeat('ab', {}), 'hex'))",
            5000 * (other + 1)
        ),
        20 => format!(
            "BEGIN; INSERT INTO t{table} SELECT {row} FROM generate_series(1, 50) g; PREPARE TRANSACTION 'p{other}'"
        ),
        21 => format!("COMMIT PREPARED 'p{other}'"),
        22 => format!("DROP DATABASE IF EXISTS {database}"),
        // With an OID of its own, which it had before.
        23 | 24 if pg.major() < 15 => format!("CREATE DATABASE {database} TEMPLATE template{}", other % 2),
        23 => format!(
            "CREATE DATABASE {database} STRATEGY file_copy OID {}",
            50_000 + other % 2
        ),
        24 => format!("CREATE DATABASE {database} STRATEGY wal_log TEMPLATE template0"),
        _ => format!("ALTER DATABASE {database} SET TABLESPACE {}", place),
    };
    let target = match random.below(4) {
        0 if !sql.contains("DATABASE") && !sql.contains("PREPARE") => database,
        _ => "postgres".to_owned(),
    };
    (target, sql)
}

/// Some work. While a backup is taken it does nothing that no base backup survives: replay moves a database by copying a
/// directory, and the backup may have only a part of that.
fn labour(cluster: &Cluster, random: &mut Random, in_backup: bool) {
    let (database, sql) = work(cluster.pg(), random);
    if in_backup && sql.starts_with("ALTER DATABASE") {
        return;
    }
    let mut psql = cluster.client("psql");
    psql.args(["-qAtX", "-d", &database, "-c", &sql]);
    psql.stdout(Stdio::null()).stderr(Stdio::null());
    let _ = psql.status().expect("started");
}

fn torture(seed: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let site = Site::new(seed);
    let mut random = Random(seed);
    for name in ["ts1", "ts2"].iter().filter(|_| has_tablespaces(site.cluster.pg())) {
        // It has no directory of its own.
        site.cluster.psql(&format!(
            "SET allow_in_place_tablespaces = on; CREATE TABLESPACE {name} LOCATION ''"
        ));
    }
    (0..40).for_each(|_| labour(&site.cluster, &mut random, false));
    // A file that was written just before a backup is not told from one that is written again.
    let template = site.cluster.datadir().join("base/1/PG_VERSION");
    wait_until("the databases are old enough", PATIENCE, || {
        let age = std::fs::metadata(&template)
            .and_then(|found| found.modified())
            .expect("there")
            .elapsed();
        age.is_ok_and(|age| age > Duration::from_secs(3))
    });
    let wanted = WantedParent::Automatic {
        max_steps: DELTAS as u32,
        origin: if seed % 3 == 2 {
            Origin::LatestFull
        } else {
            Origin::Latest
        },
    };
    let mut points = Vec::new();
    for step in 0..=DELTAS {
        let kind = if step == 0 { &WantedParent::Full } else { &wanted };
        let done = AtomicBool::new(false);
        let (backup, incremented, skipped) = std::thread::scope(|scope| {
            let (mut random, done, cluster) = (Random(random.below(u64::MAX)), &done, &site.cluster);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    labour(cluster, &mut random, true);
                }
            });
            let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(site.back_up(kind))));
            done.store(true, Ordering::Relaxed);
            taken.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        assert!(step == 0 || incremented > 0, "nothing of {backup} is an increment");
        assert!(step == 0 || skipped > 0, "nothing is left out of {backup}");
        (0..5).for_each(|_| labour(&site.cluster, &mut random, false));
        let name = format!("point{step}");
        let dump = dump(&site.cluster);
        site.cluster.psql(&format!("SELECT pg_create_restore_point('{name}')"));
        let file = site.cluster.switch_wal();
        site.cluster.wait_archived(&file, PATIENCE);
        points.push(Point { backup, name, dump });
        (0..10).for_each(|_| labour(&site.cluster, &mut random, false));
    }
    site.cluster.stop(StopMode::Fast);
    for point in &points {
        runtime.block_on(site.prove(point));
    }
}

#[test]
fn every_backup_of_a_chain_is_what_the_server_was() {
    let program = Path::new("/usr/lib/postgresql/15/bin/initdb");
    if std::env::var_os("WALARCHIVE_TEST_PG_CONFIG").is_none() && !program.exists() {
        eprintln!("no PostgreSQL is installed: nothing was tested");
        return;
    }
    let seeds = std::env::var("WALARCHIVE_TEST_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(1) {
        eprintln!("seed {seed}");
        torture(seed);
    }
}

//! A primary whose commits wait for the store, and what the store has of its WAL.

use walarchive_testkit::{Background, Builder, Cluster, PATIENCE, Session};

use crate::archiving::{SEGMENT, status};
use crate::repository::segment_name;
use crate::site::Site;

/// A cluster whose commits wait for the store.
#[must_use]
pub fn builder(site: &Site, name: &str) -> Builder {
    site.builder(name)
        .initdb_arg("--wal-segsize=1")
        .setting("walarchive.synchronous", "on")
        // The operating system's user may be another one.
        .setting("walarchive.synchronous_conninfo", "user=postgres")
        .setting("walarchive.shutdown_timeout", "2s")
        .setting("synchronous_standby_names", "walarchive")
}

/// Such a cluster that runs, with the extension and a table `t`.
#[track_caller]
pub fn start(builder: Builder) -> Cluster {
    let cluster = builder.start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (id int, filler text)");
    wait_state(&cluster, "synchronous");
    cluster
}

/// Waits until `synchronous_state` is this.
#[track_caller]
pub fn wait_state(cluster: &Cluster, state: &str) {
    cluster.wait_until(&format!("it is {state}"), PATIENCE, || {
        status(cluster, "synchronous_state") == state
    });
}

/// Commits a row, and returns a position in the middle of its transaction's WAL.
pub fn commit(session: &mut Session, id: usize) -> u64 {
    let insert = format!(
        "WITH x AS (INSERT INTO t SELECT {id}, string_agg(md5(random()::text), '') FROM generate_series(1, 300) RETURNING id)
         SELECT pg_current_wal_insert_lsn() FROM x"
    );
    lsn(&session.ask(&insert.replace('\n', " ")))
}

/// A commit that waits.
#[track_caller]
pub fn waiting_commit(cluster: &Cluster, id: usize) -> Background {
    let commit = cluster.background_psql(&format!("INSERT INTO t VALUES ({id})"));
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    cluster.wait_until("the commit waits", PATIENCE, || cluster.psql(waits) == "t");
    commit
}

/// An LSN as a number.
pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap_or_else(|| panic!("{text} is no LSN"));
    let hex = |text| u64::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text}: {e}"));
    (hex(high) << 32) | hex(low)
}

/// Whether the store has the WAL at an LSN, and that of its segment before: whole, or in chunks of the newest epoch that has the
/// beginning.
pub fn has(site: &Site, timeline: u32, lsn: u64) -> bool {
    let (number, offset) = (lsn as usize / SEGMENT, lsn as usize % SEGMENT);
    let segment = segment_name(timeline, number);
    let tail = format!("walarchive_005/tail/{segment}");
    // The whole segment comes before its chunks go.
    let chunks: Vec<(u64, usize, usize)> = site.objects(&tail).iter().filter_map(|key| chunk(key)).collect();
    let epoch = chunks.iter().filter(|chunk| chunk.1 == 0).map(|chunk| chunk.0).max();
    let mut end = 0;
    while let Some(further) = chunks
        .iter()
        .filter(|chunk| Some(chunk.0) == epoch && chunk.1 <= end && chunk.2 > end)
        .map(|chunk| chunk.2)
        .max()
    {
        end = further;
    }
    end > offset || site.object(&format!("wal_005/{segment}.zst")).exists()
}

/// Epoch, start and end.
fn chunk(key: &str) -> Option<(u64, usize, usize)> {
    let name = key.rsplit('/').next()?.strip_suffix(".zst")?;
    let mut parts = name.split('-');
    let epoch = parts.next()?.parse().ok()?;
    let mut offset = || usize::from_str_radix(parts.next()?, 16).ok();
    Some((epoch, offset()?, offset()?))
}

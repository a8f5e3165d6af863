//! Primary and standbys on one store, and the end of the primary while its WAL still waits to be archived.

use std::time::Duration;

use walarchive_testkit::{Builder, Cluster, Fault, FaultProxy, PATIENCE};

use crate::archiving::{SEGMENT, status};
use crate::repository::{segment_name, segment_number};
use crate::site::Site;

/// A store that the primary reaches through a proxy of its own, so that it can be cut off alone.
pub struct Pair {
    /// Between the primary and the store.
    pub proxy: FaultProxy,
    /// The primary.
    pub primary: Cluster,
    /// The store. Dropped last.
    pub site: Site,
}

impl Pair {
    /// A primary that has archived and backed up a table `t` with one row.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Pair {
        let site = Site::on_s3();
        let proxy = FaultProxy::start(site.s3().expect("an S3 server").port());
        let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
        let builder = site
            .builder("primary")
            .initdb_arg("--wal-segsize=1")
            .setting("walarchive.storage_options", &proxy.options())
            .setting("walarchive.lease_interval", "1s");
        let primary = settings.iter().fold(builder, with).start();
        primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT 1 AS id");
        crate::site::backup(&primary, "");
        crate::site::archive_all(&primary);
        Pair { proxy, primary, site }
    }

    /// A standby of a server. It reaches the store.
    #[track_caller]
    pub fn standby(&self, name: &str, of: &Cluster, settings: &[(&str, &str)]) -> Cluster {
        let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
        let standby = settings.iter().fold(self.site.builder(name), with).standby_of(of);
        wait_caught_up(&standby, of);
        standby
    }

    /// The primary reaches the store no more, and then writes so many segments, with a row in each.
    #[track_caller]
    pub fn write_cut_off(&self, rows: std::ops::RangeInclusive<usize>) {
        self.proxy.set([Fault::Refuse]);
        write_rows(&self.primary, rows);
    }

    /// The segments of the timelines of a server's history, from its first backup on, that are not in the archive. Of its own
    /// timeline only those before its present segment count.
    #[track_caller]
    pub fn missing(&self, server: &Cluster) -> Vec<String> {
        let (timeline, ancestors) = history(server);
        let wal = self.site.objects("wal_005");
        let is_there = |name: &str| {
            wal.iter()
                .any(|key| key.starts_with(&format!("wal_005/{name}.")) && is_whole(key))
        };
        let backup = server.psql("SELECT min(start_lsn) FROM walarchive_backups");
        let first = number(&backup);
        let present = segment_number(&server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())"));
        let of = |at: usize| {
            let left = ancestors.iter().find(|(_, switch)| at < *switch);
            segment_name(left.map_or(timeline, |(ancestor, _)| *ancestor), at)
        };
        let all = (first..present).map(of);
        all.filter(|name| !is_there(name)).collect()
    }
}

fn is_whole(key: &str) -> bool {
    !key.contains(".partial") && !key.contains(".backup")
}

/// The number of the segment with an LSN.
fn number(lsn: &str) -> usize {
    let (high, low) = lsn.split_once('/').unwrap_or_else(|| panic!("{lsn} is no LSN"));
    let hex = |text| usize::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{lsn}: {e}"));
    ((hex(high) << 32) | hex(low)) / SEGMENT
}

/// The timeline of a server, and its ancestors with the segments in which they were left.
#[track_caller]
fn history(server: &Cluster) -> (u32, Vec<(u32, usize)>) {
    let name = server.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let timeline = u32::from_str_radix(&name[..8], 16).unwrap_or_else(|e| panic!("{name}: {e}"));
    let text =
        std::fs::read_to_string(server.wal_directory().join(format!("{timeline:08X}.history"))).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, number(words.next()?)))
    };
    (timeline, text.lines().filter_map(line).collect())
}

/// Writes rows into `t`, each in a segment of its own.
#[track_caller]
pub fn write_rows(server: &Cluster, rows: std::ops::RangeInclusive<usize>) {
    for row in rows {
        server.psql(&format!("INSERT INTO t VALUES ({row})"));
        server.psql("SELECT pg_switch_wal()");
    }
}

/// The rows of `t`.
#[track_caller]
pub fn rows(server: &Cluster) -> String {
    server.psql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t")
}

/// Waits until a standby has replayed all that a server has written.
#[track_caller]
pub fn wait_caught_up(standby: &Cluster, of: &Cluster) {
    let is_standby = of.psql("SELECT pg_is_in_recovery()") == "t";
    let lsn = match is_standby {
        true => of.psql("SELECT pg_last_wal_replay_lsn()"),
        false => of.psql("SELECT pg_current_wal_flush_lsn()"),
    };
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("the standby has caught up", PATIENCE, || {
        standby.try_psql(&replayed).as_deref() == Ok("t")
    });
}

/// Has a standby throw away the WAL that it does not need any more, as it does every few minutes.
#[track_caller]
pub fn recycle(standby: &Cluster, primary: &Cluster) {
    primary.psql("CHECKPOINT");
    wait_caught_up(standby, primary);
    standby.psql("CHECKPOINT");
}

/// Promotes a standby.
#[track_caller]
pub fn promote(standby: &Cluster) {
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
}

/// Waits until a promoted server has archived what nobody else has.
#[track_caller]
pub fn wait_backfilled(server: &Cluster, deadline: Duration) {
    server.wait_until("the WAL of before the promotion is archived", deadline, || {
        ["done", "incomplete"].contains(&status(server, "backfill_state").as_str())
    });
}

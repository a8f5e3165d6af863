//! A file in `pg_wal` with the name of a segment that is not that segment: it has only what is before the fork of an older timeline, or
//! only what the tail had.
//!
//! A standby gets such a file by streaming, or from `wal-fetch`, and with `archive_mode = always` PostgreSQL wants it archived. In an
//! archive it would be taken for the segment. What it has before a fork is in the newer timeline's segment, too; and what comes in
//! place of the tail is to be archived again, says PostgreSQL.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::hole::history_file;
use super::hole::local::has_all;
use super::push::Archive;
use super::source::SegmentSource;
use crate::blocking::blocking;
use crate::control_file::ControlFile;
use crate::data_dir::above_pg_wal;
use crate::error::{Error, Result};
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

impl Archive {
    /// Why the file of a server is not the segment of its name, if it is not.
    pub(super) async fn no_segment(&self, source: &SegmentSource, name: &WalFileName) -> Result<Option<&'static str>> {
        let (Some(writer), WalFileName::Segment(segment)) = (self.writer(), *name) else {
            return Ok(None);
        };
        let (in_recovery, identity, path) = (writer.in_recovery(), *self.identity(), source.path().to_owned());
        let file = source.file();
        let look = move || {
            let Some(server) = Server::of(&path, in_recovery) else {
                return Ok(None);
            };
            let size = identity.segment_size;
            if ends_at_fork(&server, &path, segment, size)? {
                return Ok(Some("it has only what is before the fork of its timeline"));
            }
            let may_be_tail = in_recovery || server.timeline > segment.timeline;
            match may_be_tail && !has_all(&file?, segment, size, identity.system_identifier)? {
                true => Ok(Some("it has only what the tail had of it")),
                false => Ok(None),
            }
        };
        let path = source.path().to_owned();
        blocking(move || look().map_err(|error| Error::io("read", path, error))).await
    }
}

/// The server in whose `pg_wal` a file is.
struct Server {
    wal_directory: PathBuf,
    /// The timeline that it is on, as far as `pg_control` tells.
    timeline: u32,
    in_recovery: bool,
}

impl Server {
    fn of(path: &Path, in_recovery: bool) -> Option<Self> {
        let control = ControlFile::read(&above_pg_wal(path)?).ok()?;
        Some(Server {
            wal_directory: path.parent()?.to_owned(),
            timeline: control.timeline.max(control.min_recovery_timeline),
            in_recovery,
        })
    }
}

/// Does this file end at the fork at which the server has left the timeline?
fn ends_at_fork(server: &Server, path: &Path, segment: Segment, size: SegmentSize) -> io::Result<bool> {
    let fork =
        |timeline| history_file(timeline, &server.wal_directory).and_then(|history| fork_in(&history, segment, size));
    if let Some(fork) = fork(server.timeline).filter(|_| server.timeline > segment.timeline) {
        return Ok(server.in_recovery || is_zero_from(path, fork)?);
    }
    if !server.in_recovery {
        return Ok(false);
    }
    // pg_control tells late what recovery follows, and a history alone does not: recovery may have turned away from it.
    for entry in std::fs::read_dir(&server.wal_directory)? {
        let name = entry?.file_name();
        let Some(Ok(WalFileName::History(newer))) = name.to_str().map(str::parse) else {
            continue;
        };
        if newer > segment.timeline
            && let Some(fork) = fork(newer)
            && is_zero_from(path, fork)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The bytes of the segment that are before the fork, if that is in it.
fn fork_in(history: &TimelineHistory, segment: Segment, size: SegmentSize) -> Option<u64> {
    let mut ancestors = history.ancestors.iter();
    let (_, switch) = ancestors.find(|(ancestor, _)| *ancestor == segment.timeline)?;
    let bytes = switch.0.checked_sub(segment.start(size).0)?;
    (1..size.bytes()).contains(&bytes).then_some(bytes)
}

fn is_zero_from(path: &Path, offset: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(true),
            bytes if buffer[..bytes].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use walarchive_storage::Store;

    use crate::codec::Compression;
    use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};
    use crate::data_dir::PG_WAL;
    use crate::lease::{INTERVAL, Situation, Writer};
    use crate::repository::cluster::ClusterIdentity;
    use crate::repository::layout;
    use crate::wal::generator::segments;

    const MB: u64 = 1 << 20;

    #[test]
    fn what_recovery_has_cut_off_is_told_from_a_segment() {
        let dir = tempfile::tempdir().expect("a directory");
        let pg_wal = dir.path().join(PG_WAL);
        std::fs::create_dir(&pg_wal).expect("created");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        std::fs::write(dir.path().join("global/pg_control"), sample(MB as u32, 288)).expect("written");
        let size = SegmentSize::new(MB).expect("a size");
        let is_cut = |segment: &str, used: usize, in_recovery| {
            let mut content = vec![7; used];
            content.resize(MB as usize, 0);
            let path = pg_wal.join(segment);
            std::fs::write(&path, content).expect("written");
            let server = Server::of(&path, in_recovery).expect("a server");
            ends_at_fork(&server, &path, segment.parse().expect("a segment"), size).expect("read")
        };
        let timeline = 1;
        let of = |timeline: u32, number: u32| format!("{timeline:08X}00000000{number:08X}");
        let forked = of(timeline, 5);
        assert!(!is_cut(&forked, 0x100, true), "no fork is known");
        let history = pg_wal.join(format!("{:08X}.history", timeline + 1));
        std::fs::write(history, format!("{timeline}\t0/500100\tx\n")).expect("written");
        assert!(is_cut(&forked, 0x100, true));
        assert!(
            !is_cut(&forked, 0x101, true),
            "recovery has turned away from that timeline"
        );
        assert!(!is_cut(&of(timeline, 4), 0x100, true) && !is_cut(&of(timeline, 6), 0x100, true));
        assert!(!is_cut(&of(timeline + 1, 5), 0x100, true));
        assert!(!is_cut(&forked, 0x100, false), "the server's own timeline");
    }
    /// With `archive_mode = always` PostgreSQL wants each file archived that it has got from the archive.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_tail_had_of_a_segment_is_not_archived_as_the_segment() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["base", "global", PG_WAL] {
            std::fs::create_dir(dir.path().join(name)).expect("created");
        }
        std::fs::write(dir.path().join("global/pg_control"), sample(MB as u32, 288)).expect("written");
        let (segment, whole) = segments(1, 7, 1).swap_remove(0);
        let (name, pg_wal) = (WalFileName::Segment(segment), dir.path().join(PG_WAL));
        let store = Store::of(Arc::new(InMemory::new()), "memory:");
        let situation = Situation {
            in_recovery: true,
            is_standby: true,
            timeline: 1,
            interval: INTERVAL,
        };
        let identity = ClusterIdentity {
            system_identifier: SYSTEM_IDENTIFIER,
            major_version: 15,
            segment_size: SegmentSize::new(MB).expect("a size"),
        };
        let archive = Archive::new(store.clone(), identity, Compression::Plain).with_writer(Writer::new(
            store.clone(),
            dir.path(),
            situation,
        ));
        let push = async |content: &[u8]| {
            std::fs::write(pg_wal.join(name.to_string()), content).expect("written");
            archive.push(&pg_wal, &name).await.expect("pushed").already_there
        };
        let is_there = async || !store.list(&layout::WAL_FOLDER).await.expect("listed").is_empty();
        let mut part = whole.clone();
        part[300_000..].fill(0);
        assert!(push(&part).await && !is_there().await);
        assert!(!push(&whole).await && is_there().await);
    }
}

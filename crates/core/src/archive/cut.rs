//! A file in `pg_wal` with the name of a segment that is not that segment: it has only what is before the fork of an older timeline, or
//! only what the tail had.
//!
//! A standby gets such a file by streaming, or from `wal-fetch`, and with `archive_mode = always` PostgreSQL wants it archived. In an
//! archive it would be taken for the segment. What it has before a fork is in the newer timeline's segment, too; and what came from
//! the tail is there, and is to be archived again when the server has got all of it, says PostgreSQL.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::hole::history_file;
use super::hole::local::{Content, content_of, ends_at};
use super::push::Archive;
use super::source::SegmentSource;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::control_file::ControlFile;
use crate::data_dir::above_pg_wal;
use crate::error::{Error, ONLY_BEGINNING, Result};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout;
use crate::repository::tail::Cover;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// What the file of a server is.
enum Found {
    /// The segment of its name, as far as is known here. It is archived, or refused, as ever.
    Segment,
    /// What is before the fork of its timeline. The newer timeline's segment has that, too.
    BeforeFork,
    /// So many bytes of the segment, and zeros.
    Beginning(u64),
}

impl Archive {
    /// Why the file of a server is not the segment of its name, if it is not, and all that it has is stored in another way. An error if
    /// it is not the segment, and may have what nobody else has.
    pub(super) async fn no_segment(&self, source: &SegmentSource, name: &WalFileName) -> Result<Option<&'static str>> {
        let (Some(writer), WalFileName::Segment(segment)) = (self.writer(), *name) else {
            return Ok(None);
        };
        let (in_recovery, identity, path) = (writer.in_recovery(), *self.identity(), source.path().to_owned());
        let file = source.file();
        let look = move || match Server::of(&path, in_recovery) {
            Some(server) => look(&server, &path, &file?, segment, &identity),
            None => Ok(Found::Segment),
        };
        let path = source.path().to_owned();
        match blocking(move || look().map_err(|error| Error::io("read", path, error))).await? {
            Found::Segment => Ok(None),
            Found::BeforeFork => Ok(Some("it has only what is before the fork of its timeline")),
            Found::Beginning(bytes) if self.has_beginning(segment, bytes).await? => Ok(Some(
                "the server has only the beginning of it, from the tail, and archives it when it has got all of it",
            )),
            Found::Beginning(bytes) => Err(Error::InvalidWal {
                file: source.path().display().to_string(),
                reason: format!(
                    "It has only the first {bytes} bytes of the segment, {ONLY_BEGINNING}, and the store has neither the segment nor \
                     as much of it."
                ),
            }),
        }
    }

    /// Does the store have so much of the segment: all of it, or in the tail?
    async fn has_beginning(&self, segment: Segment, bytes: u64) -> Result<bool> {
        // The chunks go after the segment has come.
        let cover = Cover::find(self.store(), segment).await?;
        if cover.is_some_and(|cover| cover.end() >= bytes) {
            return Ok(true);
        }
        for format in Format::in_order(self.compression().format()) {
            let key = layout::wal(&WalFileName::Segment(segment), format);
            if self.store().size(&key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn look(server: &Server, path: &Path, file: &File, segment: Segment, identity: &ClusterIdentity) -> io::Result<Found> {
    if ends_at_fork(server, path, segment, identity)? {
        return Ok(Found::BeforeFork);
    }
    if !server.in_recovery && server.timeline <= segment.timeline {
        return Ok(Found::Segment);
    }
    Ok(
        match content_of(file, segment, identity.segment_size, identity.system_identifier)? {
            Content::Beginning(bytes) => Found::Beginning(bytes),
            Content::Whole | Content::Other => Found::Segment,
        },
    )
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
fn ends_at_fork(server: &Server, path: &Path, segment: Segment, identity: &ClusterIdentity) -> io::Result<bool> {
    let size = identity.segment_size;
    let fork =
        |timeline| history_file(timeline, &server.wal_directory).and_then(|history| fork_in(&history, segment, size));
    // What comes by streaming may have something of the next record behind it, and what had been in the file before. Complete records
    // are what this server has turned away from, and nobody else may have them.
    let has_no_more = |fork: u64| {
        let end = Lsn(segment.start(size).0.saturating_add(fork));
        Ok::<_, io::Error>(
            is_zero_from(path, fork)? || ends_at(&File::open(path)?, segment, size, identity.system_identifier, end)?,
        )
    };
    if let Some(fork) = fork(server.timeline).filter(|_| server.timeline > segment.timeline) {
        return has_no_more(fork);
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
            && has_no_more(fork)?
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
    use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample, sample_of_timeline};
    use crate::data_dir::PG_WAL;
    use crate::lease::{INTERVAL, Situation, Writer};
    use crate::repository::layout::TailChunk;
    use crate::wal::generator::{Generator, segments};

    const MB: u64 = 1 << 20;

    #[test]
    fn what_recovery_has_cut_off_is_told_from_a_segment() {
        let dir = tempfile::tempdir().expect("a directory");
        let pg_wal = dir.path().join(PG_WAL);
        std::fs::create_dir(&pg_wal).expect("created");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        std::fs::write(dir.path().join("global/pg_control"), sample(MB as u32, 288)).expect("written");
        let identity = identity();
        let is_cut = |segment: &str, used: usize, in_recovery| {
            let mut content = vec![7; used];
            content.resize(MB as usize, 0);
            let path = pg_wal.join(segment);
            std::fs::write(&path, content).expect("written");
            let server = Server::of(&path, in_recovery).expect("a server");
            ends_at_fork(&server, &path, segment.parse().expect("a segment"), &identity).expect("read")
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

    fn identity() -> ClusterIdentity {
        ClusterIdentity {
            system_identifier: SYSTEM_IDENTIFIER,
            major_version: 15,
            segment_size: SegmentSize::new(MB).expect("a size"),
        }
    }

    /// A server of this timeline in a directory, and its archive.
    struct Fixture {
        dir: tempfile::TempDir,
        store: Store,
        archive: Archive,
    }

    impl Fixture {
        fn new(timeline: u32, in_recovery: bool) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            for name in ["base", "global", PG_WAL] {
                std::fs::create_dir(dir.path().join(name)).expect("created");
            }
            let control = sample_of_timeline(MB as u32, timeline);
            std::fs::write(dir.path().join("global/pg_control"), control).expect("written");
            let store = Store::of(Arc::new(InMemory::new()), "memory:");
            let situation = Situation {
                in_recovery,
                is_standby: in_recovery,
                timeline,
                interval: INTERVAL,
            };
            let writer = Writer::new(store.clone(), dir.path(), situation);
            let archive = Archive::new(store.clone(), identity(), Compression::Plain).with_writer(writer);
            Fixture { dir, store, archive }
        }

        fn write(&self, name: &str, content: &[u8]) {
            std::fs::write(self.dir.path().join(PG_WAL).join(name), content).expect("written");
        }

        /// Was it stored? Or else it is said to be there.
        async fn push(&self, segment: Segment, content: &[u8]) -> Result<bool> {
            self.write(&segment.to_string(), content);
            let pg_wal = self.dir.path().join(PG_WAL);
            let pushed = self.archive.push(&pg_wal, &WalFileName::Segment(segment)).await?;
            Ok(!pushed.already_there)
        }

        /// The tail has so much of it.
        async fn ship(&self, segment: Segment, end: u64) {
            let chunk = TailChunk {
                segment,
                epoch: 1,
                start: 0,
                end,
            };
            self.store.put(&chunk.key(), "x".into()).await.expect("stored");
        }

        async fn is_there(&self) -> bool {
            !self.store.list(&layout::WAL_FOLDER).await.expect("listed").is_empty()
        }
    }

    /// With `archive_mode = always` PostgreSQL wants each file archived that it has got from the archive.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_tail_had_of_a_segment_is_not_archived_as_the_segment() {
        let standby = Fixture::new(1, true);
        let (segment, whole) = segments(1, 7, 1).swap_remove(0);
        let mut part = whole.clone();
        part[300_000..].fill(0);
        let has = part.iter().rposition(|byte| *byte != 0).expect("bytes") as u64 + 1;
        // Whatever it is, it is nowhere else.
        for end in [0, has - 1] {
            if end > 0 {
                standby.ship(segment, end).await;
            }
            let refused = standby.push(segment, &part).await.expect_err("refused");
            assert!(matches!(refused, Error::InvalidWal { .. }), "{refused}");
        }
        standby.ship(segment, has).await;
        assert!(!standby.push(segment, &part).await.expect("there") && !standby.is_there().await);
        assert!(standby.push(segment, &whole).await.expect("stored") && standby.is_there().await);
        // The chunks go then.
        let (next, whole) = segments(1, 8, 1).swap_remove(0);
        let key = layout::wal(&WalFileName::Segment(next), Format::Zstd);
        standby.store.put(&key, "x".into()).await.expect("stored");
        let mut part = whole;
        part[300_000..].fill(0);
        assert!(!standby.push(next, &part).await.expect("there"));
    }

    /// A disk has lost what was in a segment, and nobody has archived that yet.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_promoted_server_does_not_count_a_segment_as_archived_that_has_lost_its_end() {
        let server = Fixture::new(2, false);
        server.write("00000002.history", b"1\t0/800100\tx\n");
        let (segment, whole) = segments(1, 7, 1).swap_remove(0);
        let mut part = whole.clone();
        part[300_000..].fill(0);
        let refused = server.push(segment, &part).await.expect_err("refused");
        assert!(matches!(refused, Error::InvalidWal { .. }), "{refused}");
        assert!(server.push(segment, &whole).await.expect("stored"));
    }

    /// A standby may have received what was never replayed, and what no other server has.
    #[tokio::test(flavor = "multi_thread")]
    async fn records_behind_a_fork_count_as_archived_when_they_are() {
        let mut wal = Generator::new(1, 7);
        while wal.position() < 7 * MB + 300_000 {
            wal.record(10, 0, &[7; 1000]);
        }
        let fork = wal.position();
        wal.record(10, 0, &[9; 2000]);
        wal.fill(1);
        let (segment, whole) = wal.segments().swap_remove(0);
        let at = (fork - 7 * MB) as usize;
        let cut = |from: usize, rest: &dyn Fn(usize) -> u8| {
            let mut bytes = whole.clone();
            for (place, byte) in bytes.iter_mut().enumerate().skip(from) {
                *byte = rest(place);
            }
            bytes
        };
        for in_recovery in [true, false] {
            let server = Fixture::new(2, in_recovery);
            server.write("00000002.history", format!("1\t0/{fork:X}\tx\n").as_bytes());
            let says = async |content: &[u8]| server.push(segment, content).await;
            assert!(!says(&cut(at, &|_| 0)).await.expect("nothing is behind it"));
            assert!(!says(&cut(at + 100, &|_| 0)).await.expect("the beginning of a record"));
            assert!(
                !says(&cut(at + 100, &|place| place as u8))
                    .await
                    .expect("what had been there")
            );
            assert!(!server.is_there().await);
            // One record behind it, and damage before it.
            for content in [cut(at + 3000, &|place| place as u8), {
                let mut damaged = cut(at + 100, &|place| place as u8);
                damaged[at - 500] ^= 1;
                damaged
            }] {
                let said = says(&content).await;
                assert!(!matches!(said, Ok(false)), "{said:?}");
            }
        }
        let server = Fixture::new(2, true);
        server.write("00000002.history", format!("1\t0/{fork:X}\tx\n").as_bytes());
        assert!(
            server.push(segment, &whole).await.expect("archived"),
            "there is no lease"
        );
        assert!(!server.push(segment, &whole).await.expect("it is there"));
    }
}

//! Chains of backups of a made-up cluster, put together again in the plainest way.

mod commit;
mod life;
mod parents;
mod primaries;
mod rules;
mod sealed;
mod summaries;
mod unlogged;
mod visible;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::*;
use crate::backup::delta::{Choice, Origin, Parent, WantedParent, choose};
use crate::control_file::tests::sample_with;
use crate::formats::files_metadata::{AllVisible, FileDescription, FilesMetadata};
use crate::formats::increment::IncrementHeader;
use crate::formats::manifest::Checksummer;
use crate::formats::{SENTINEL_LIMIT, Sentinel, manifest};
use crate::page::PAGE_BYTES;
use crate::page::tests::sample;
use crate::repository::cluster;
use crate::repository::cluster::ClusterIdentity;
use crate::retention;
use walarchive_testkit::meddler::Meddler;

const SEGMENT: u64 = 16 << 20;

/// The files of a backup, by path.
type Contents = BTreeMap<String, Vec<u8>>;

struct World {
    dir: tempfile::TempDir,
    store: Store,
    /// The store, with a name for messages of failed tests.
    meddler: Meddler,
    /// The segment in which the next backup starts.
    next: u64,
    timeline: u32,
    options: BackupOptions,
}

impl World {
    /// A cluster with the database 5, and some of its tables in the tablespace 16400.
    async fn new(data_checksums: bool) -> Self {
        let meddler = Meddler::new(Arc::default());
        let store = Store::of(Arc::new(meddler.clone()), "memory:");
        let identity = ClusterIdentity {
            system_identifier: SYSTEM_IDENTIFIER,
            major_version: 15,
            segment_size: SegmentSize::DEFAULT,
        };
        cluster::claim(&store, &identity).await.expect("claimed");
        let world = World {
            dir: tempfile::tempdir().expect("a directory"),
            store,
            meddler,
            next: 2,
            timeline: 1,
            options: BackupOptions::default(),
        };
        for (path, content) in [
            ("PG_VERSION", &b"15\n"[..]),
            ("global/pg_control", &sample_with(16 << 20, 288, data_checksums)),
            ("pg_xact/0000", &[7; 100]),
        ] {
            world.write(path, content);
        }
        world.database("base/1");
        world.database("base/5");
        std::fs::create_dir_all(world.dir.path().join("ts/PG_15_1/5")).expect("made");
        std::fs::create_dir_all(world.data().join("pg_tblspc")).expect("made");
        std::os::unix::fs::symlink(world.dir.path().join("ts"), world.data().join("pg_tblspc/16400")).expect("linked");
        world
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, path: &str, content: &[u8]) {
        let full = self.data().join(path);
        std::fs::create_dir_all(full.parent().expect("a parent")).expect("made");
        std::fs::write(full, content).expect("written");
    }

    /// The directory of a database that was made hours ago.
    fn database(&self, directory: &str) {
        let path = format!("{directory}/PG_VERSION");
        self.write(&path, b"15\n");
        let file = std::fs::File::open(self.data().join(path)).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(7200))
            .expect("set");
    }

    /// A relation's file of so many pages, which were changed last at that LSN.
    fn relation(&self, path: &str, pages: u32, lsn: Lsn) {
        let pages: Vec<_> = (0..pages).map(|number| sample(lsn, number, number as u8)).collect();
        self.write(path, pages.concat().as_slice());
    }

    /// Put pages into a file.
    fn change(&self, path: &str, pages: &[(u32, [u8; PAGE_BYTES])]) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.data().join(path))
            .expect("opened");
        for (number, page) in pages {
            let at = u64::from(*number) * PAGE_BYTES as u64;
            file.write_all_at(page, at).expect("written");
        }
    }

    fn cut(&self, path: &str, pages: u64) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.data().join(path))
            .expect("opened");
        file.set_len(pages * PAGE_BYTES as u64).expect("cut off");
    }

    /// As the checkpoint of `pg_backup_start` does: write `pg_control`, long enough after all other files were written.
    fn settle(&self) {
        let path = self.data().join("global/pg_control");
        let content = std::fs::read(&path).expect("read");
        let changed = |path: &Path| crate::backup::read::source::changed(&std::fs::metadata(path).expect("there"));
        let newest = files_below(&self.data()).iter().map(|path| changed(path)).max();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while Some(changed(&path) - 2_100_000_000) < newest {
            assert!(std::time::Instant::now() < deadline, "the clock stands still");
            std::thread::sleep(Duration::from_millis(20));
            std::fs::write(&path, &content).expect("written");
        }
    }

    /// The start of the next backup.
    fn start(&self) -> Lsn {
        Lsn(self.next * SEGMENT + 0x28)
    }

    fn request(&self) -> BackupRequest {
        BackupRequest {
            start_lsn: self.start(),
            timeline: self.timeline,
            permanent: false,
            ..request(&self.data())
        }
    }

    async fn choose(&self, wanted: &WantedParent) -> crate::Result<Choice> {
        choose(&self.store, &self.request(), false, wanted).await
    }

    async fn parent(&self, wanted: &WantedParent) -> Parent {
        match self.choose(wanted).await.expect("chosen") {
            Choice::Delta(parent) => parent,
            Choice::Full { why } => panic!("no parent: {why:?}"),
        }
    }

    fn stop(&self) -> StopResult {
        let (start, timeline) = (self.start(), self.timeline);
        let file = Segment::containing(timeline, start, SegmentSize::DEFAULT);
        StopResult {
            stop_lsn: Lsn(start.0 + 0x100),
            backup_label: format!("START WAL LOCATION: {start} (file {file})\nSTART TIMELINE: {timeline}\n"),
            tablespace_map: None,
            next_xid: None,
        }
    }

    async fn prepare(&self, request: BackupRequest) -> crate::Result<PreparedBackup> {
        let mut backup = begin(&self.store, request, self.options.clone()).await?;
        backup.copy().await?;
        backup.finish(self.stop()).await
    }

    /// A whole backup, with its WAL. Returns its name.
    async fn take(&mut self, parent: Option<Parent>) -> String {
        let request = BackupRequest {
            parent,
            ..self.request()
        };
        self.take_as(request).await
    }

    async fn take_as(&mut self, request: BackupRequest) -> String {
        let prepared = self.prepare(request).await.expect("prepared");
        self.archive(prepared.needed_segments()).await;
        self.next += 1;
        prepared.commit().await.expect("committed")
    }

    async fn archive(&self, segments: &[Segment]) {
        for segment in segments {
            let key = format!("wal_005/{segment}.zst");
            self.store.put(&key, bytes::Bytes::new()).await.expect("written");
        }
    }

    async fn full(&mut self) -> String {
        self.take(None).await
    }

    /// A delta on the newest backup.
    async fn delta(&mut self) -> String {
        let parent = self.parent(&latest(10)).await;
        self.take(Some(parent)).await
    }

    async fn sentinel(&self, name: &str) -> Sentinel {
        serde_json::from_slice(&self.object(&layout::sentinel(name)).await).expect("a sentinel")
    }

    async fn object(&self, key: &str) -> bytes::Bytes {
        self.store.get(key, SENTINEL_LIMIT).await.expect("read").expect(key)
    }

    async fn files(&self, name: &str) -> BTreeMap<String, FileDescription> {
        let metadata = self.object(&layout::files_metadata(name)).await;
        FilesMetadata::read_from(&metadata[..]).expect("files metadata").files
    }

    /// The members of a backup's tars, as they are stored.
    async fn members(&self, name: &str) -> Contents {
        let found = members_of(&self.store, name).await;
        found
            .into_iter()
            .filter_map(|(name, content)| Some((name, content?)))
            .collect()
    }

    /// The header of an increment.
    async fn increment(&self, name: &str, path: &str) -> IncrementHeader {
        let member = &self.members(name).await[&format!("/{path}")];
        let read = IncrementHeader::read_from(&mut &member[..], member.len() as u64, path);
        read.expect("an increment").expect("read")
    }

    /// The regular files of a backup, from it and all that it is based on.
    async fn restored(&self, name: &str) -> Contents {
        let base = match self.sentinel(name).await.delta_from {
            Some(parent) => Box::pin(self.restored(&parent)).await,
            None => Contents::new(),
        };
        let mut members = self.members(name).await;
        let mut restored = Contents::new();
        for (path, file) in self.files(name).await {
            let content = match (file.is_skipped, file.is_incremented) {
                (true, false) => base[&path].clone(),
                (false, true) => applied(&base[&path], &members.remove(&path).expect("a member")),
                (false, false) => match members.remove(&path) {
                    Some(content) => content,
                    None => continue,
                },
                (true, true) => panic!("{path} is skipped and incremented"),
            };
            restored.insert(path, content);
        }
        assert_eq!(
            members,
            Contents::new(),
            "members that the files metadata does not know"
        );
        restored
    }

    /// The content that the backup must have now.
    fn expected(&self) -> Contents {
        let data = self.data();
        let mut expected = BTreeMap::new();
        for (root, prefix) in [(data.clone(), ""), (self.dir.path().join("ts"), "/pg_tblspc/16400")] {
            for path in files_below(&root).into_iter().filter(|path| path.starts_with(&root)) {
                let below = path.strip_prefix(&root).expect("below");
                let is_wal = below.starts_with("pg_wal");
                let is_link = below.starts_with("pg_tblspc");
                if !is_wal && !is_link {
                    let content = std::fs::read(&path).expect("read");
                    expected.insert(format!("{prefix}/{}", below.display()), content);
                }
            }
        }
        expected
    }

    /// The backup, which was taken just now, is what the cluster is, and its manifest says so.
    async fn check(&self, name: &str) {
        let mut restored = self.restored(name).await;
        restored.remove("backup_label");
        let expected = self.expected();
        assert!(
            restored.keys().eq(expected.keys()),
            "{:?} {:?}",
            restored.keys(),
            expected.keys()
        );
        for (path, content) in &expected {
            assert!(restored[path] == *content, "{path} differs in {name}");
        }
        let manifest = manifest::parse(&self.object(&layout::backup_manifest(name)).await).expect("a manifest");
        assert_eq!(manifest.files.len(), expected.len() + 1);
        for file in manifest
            .files
            .iter()
            .filter(|file| file.path != Path::new("backup_label"))
        {
            let content = &expected[&format!("/{}", file.path.display())];
            assert_eq!(file.size, content.len() as u64, "{file:?}");
            if let Some((algorithm, expected)) = &file.checksum {
                let mut sum = Checksummer::new(*algorithm);
                sum.update(content);
                assert_eq!(sum.finish(), *expected, "{file:?}");
            }
        }
    }

    /// The checksum that the manifest has of a file, if it has one.
    async fn sum(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let manifest = manifest::parse(&self.object(&layout::backup_manifest(name)).await).expect("a manifest");
        let file = manifest.files.into_iter().find(|file| file.path == Path::new(path));
        file.expect(path).checksum.map(|(_, sum)| sum)
    }
}

fn latest(max_steps: u32) -> WantedParent {
    WantedParent::Automatic {
        max_steps,
        origin: Origin::Latest,
    }
}

/// A page that is on disk nowhere yet.
fn page(lsn: Lsn, number: u32) -> [u8; PAGE_BYTES] {
    sample(lsn, number, 0xEE)
}

fn applied(base: &[u8], member: &[u8]) -> Vec<u8> {
    let mut rest = member;
    let header = IncrementHeader::read_from(&mut rest, member.len() as u64, "member");
    let header = header.expect("an increment").expect("read");
    let mut content = base.to_vec();
    content.resize(header.file_size as usize, 0xAA);
    let (pages, _) = rest.as_chunks::<PAGE_BYTES>();
    assert_eq!(pages.len(), header.blocks.len());
    assert!(header.blocks.is_sorted(), "{:?}", header.blocks);
    for (page, number) in pages.iter().zip(&header.blocks) {
        let at = *number as usize * PAGE_BYTES;
        content[at..at + PAGE_BYTES].copy_from_slice(page);
    }
    content
}

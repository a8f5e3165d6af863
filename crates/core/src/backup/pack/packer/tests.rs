use std::io::Read;

use super::*;
use crate::backup::OnChecksumFailure;
use crate::backup::pack::spool::Lines;
use crate::backup::pack::stream::store_stream;
use crate::codec::Compression;
use crate::repository::layout;
use walarchive_storage::Store;

/// Pack with `fill` and give back what the tar holds.
async fn packed(data_dir: &Path, fill: impl FnOnce(&mut Packer) -> Result<()> + Send + 'static) -> (Packed, Vec<u8>) {
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
    let shared = Arc::new(Shared {
        data_dir: data_dir.to_owned(),
        start: Lsn(0),
        source: OnceLock::new(),
        delta: OnceLock::new(),
        corrupt: Findings::new(OnChecksumFailure::Warning),
        find_resident: None,
        wrapping: Wrapping::plain(Compression::Plain),
        algorithm: ChecksumAlgorithm::Crc32c,
        limiter: Limiter::new(None),
        network: Limiter::new(None),
        all_corrupt_pages: false,
        links: Links::default(),
        progress: Arc::default(),
        stop: CancellationToken::new(),
    });
    let (stop, key) = (shared.stop.clone(), layout::tar("b", "part_001.tar"));
    let object = key.clone();
    let stored = store_stream(&store, &key, &stop, move |upload| {
        let mut packer = Packer::new(shared, (&object, "tar".to_owned()), upload, 0)?;
        fill(&mut packer)?;
        packer.finish()
    });
    let (packed, _) = stored.await.expect("packed");
    (
        packed,
        store.get(&key, u64::MAX).await.expect("read").expect("there").to_vec(),
    )
}

fn lines(spooled: &Lines) -> Vec<String> {
    let mut lines = Vec::new();
    spooled
        .each(|line| {
            lines.push(line.to_owned());
            Ok(())
        })
        .expect("read");
    lines
}

fn content(tar: &[u8]) -> Vec<u8> {
    let mut archive = tar::Archive::new(tar);
    let mut entries = archive.entries().expect("a tar");
    let mut entry = entries.next().expect("a member").expect("a member");
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("its content");
    assert!(entries.next().is_none());
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_several_chunks_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    for length in [0, 1, CHUNK, CHUNK * 2 + 17] {
        let expected: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        std::fs::write(dir.path().join("f"), &expected).expect("written");
        let (packed, tar) = packed(dir.path(), |packer| {
            packer.file(&FileEntry {
                path: "f".into(),
                size: 1,
            })
        })
        .await;
        assert!(content(&tar) == expected, "{length}");
        let mut sum = Checksummer::new(ChecksumAlgorithm::Crc32c);
        sum.update(&expected);
        let line = format!("\"Size\": {length}, ");
        let checksum = format!("\"Checksum\": \"{}\" }}", hex(&sum.finish()));
        let listed = lines(&packed.manifest);
        assert!(
            listed[0].contains(&line) && listed[0].ends_with(&checksum),
            "{listed:?}"
        );
        assert_eq!(packed.bytes, length as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vanished_or_was_replaced_is_left_out() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("kept"), "kept").expect("written");
    std::os::unix::fs::symlink("kept", dir.path().join("link")).expect("linked");
    nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::fs::create_dir_all(dir.path().join("base/5")).expect("made");
    for unlogged in ["base/5/7", "base/5/7.1", "base/5/7_init"] {
        std::fs::write(dir.path().join(unlogged), "7").expect("written");
    }
    let (packed, tar) = packed(dir.path(), |packer| {
        ["gone", "gone/too", "link", "fifo", "base/5/7", "base/5/7.1", "kept"]
            .iter()
            .try_for_each(|name| {
                packer.file(&FileEntry {
                    path: name.into(),
                    size: 4,
                })
            })
    })
    .await;
    assert_eq!(content(&tar), b"kept");
    assert_eq!(lines(&packed.members).len(), 1);
    assert_eq!(lines(&packed.manifest).len(), 1);
}

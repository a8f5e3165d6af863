//! Restores of delta backups: the content of the newest one comes back, whatever way it was stored.

mod broken;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::formats::files_metadata::{FileDescription, FilesMetadata};
use crate::formats::increment::IncrementHeader;

const PAGE: usize = 8192;

/// The files of a cluster at one time: their pages, each by the byte that fills it. Files with a page count that is not
/// whole have half a page more.
type State = BTreeMap<&'static str, Vec<u8>>;

fn page(byte: u8) -> Vec<u8> {
    (0..PAGE).map(|at| byte.wrapping_add((at / 64) as u8)).collect()
}

fn content(pages: &[u8]) -> Vec<u8> {
    pages.iter().flat_map(|byte| page(*byte)).collect()
}

/// How a file is stored in a delta backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Full,
    Skipped,
    /// The changed pages, and those of the mask; in the order of the file or the other way round.
    Increment {
        more: u8,
        reversed: bool,
    },
}

/// A chain of backups in a repository, the oldest first.
struct Chain {
    store: Store,
    place: tempfile::TempDir,
    names: Vec<String>,
    state: State,
    /// Kinds of checksum in the manifest; none at all for a backup without manifest.
    algorithm: Option<ChecksumAlgorithm>,
}

impl Chain {
    fn new(algorithm: Option<ChecksumAlgorithm>) -> Self {
        Chain {
            store: Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:"),
            place: tempfile::tempdir().expect("a directory"),
            names: Vec::new(),
            state: State::new(),
            algorithm,
        }
    }

    fn newest(&self) -> &str {
        self.names.last().expect("one")
    }

    async fn put(&self, key: &str, content: Vec<u8>) {
        self.store.put(key, content.into()).await.expect("written");
    }

    /// Take the next backup, of this state.
    async fn take(&mut self, state: State, how: impl Fn(&str) -> How) {
        let step = self.names.len();
        let start = format!("0000000100000000000000{:02X}", step + 2);
        let name = match self.names.last() {
            None => format!("base_{start}"),
            Some(parent) => format!("base_{start}_D_{}", &parent["base_".len()..][..24]),
        };
        let (mut tars, mut metadata) = ([Vec::new(), Vec::new()], FilesMetadata::default());
        tars[0].push(directory("/base/5"));
        metadata.files.insert("/base/5".to_owned(), FileDescription::default());
        for (index, (path, pages)) in state.iter().enumerate() {
            let old = self.state.get(path).filter(|_| step > 0);
            let how = match old {
                None => How::Full,
                Some(old) if how(path) == How::Skipped && old != pages => How::Full,
                Some(_) => how(path),
            };
            let description = FileDescription {
                is_incremented: matches!(how, How::Increment { .. }),
                is_skipped: how == How::Skipped,
                ..FileDescription::default()
            };
            let key = format!("/{path}");
            metadata.files.insert(key.clone(), description);
            let stored = match how {
                How::Full => content(pages),
                How::Skipped => continue,
                How::Increment { more, reversed } => increment(old.expect("old"), pages, more, reversed),
            };
            let tar = index % 2;
            tars[tar].push(Member(key.leak(), EntryType::Regular, "", stored));
            let set = metadata
                .tar_file_sets
                .entry(format!("part_00{}.tar.zst", tar + 1))
                .or_default();
            set.push(format!("/{path}"));
        }
        for (number, members) in tars.iter().enumerate() {
            self.put(
                &layout::tar(&name, &format!("part_00{}.tar.zst", number + 1)),
                zstd(&tar_of(members)),
            )
            .await;
        }
        let control = [file("/global/pg_control", format!("control {step}").as_bytes())];
        self.put(&layout::tar(&name, "pg_control.tar.zst"), zstd(&tar_of(&control)))
            .await;
        let label = [file("backup_label", format!("label {step}").as_bytes())];
        self.put(&layout::tar(&name, "backup_label.tar.zst"), zstd(&tar_of(&label)))
            .await;
        if let Some(algorithm) = self.algorithm {
            let manifest = self.manifest(&state, step, algorithm, &|path| {
                matches!(how(path), How::Increment { more: 7, .. })
            });
            self.put(&layout::backup_manifest(&name), manifest).await;
        }
        let mut text = Vec::new();
        metadata.write_to(&mut text).expect("written");
        self.put(&layout::files_metadata(&name), text).await;
        self.names.push(name);
        self.state = state;
        self.put_sentinel(step, &[]).await;
    }

    /// `without`: files whose checksum is not known.
    fn manifest(
        &self,
        state: &State,
        step: usize,
        algorithm: ChecksumAlgorithm,
        without: &dyn Fn(&str) -> bool,
    ) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), 15, 1).expect("a writer");
        let files = state.iter().map(|(path, pages)| (*path, content(pages)));
        let others = [
            ("global/pg_control", format!("control {step}").into_bytes()),
            ("backup_label", format!("label {step}").into_bytes()),
        ];
        for (path, content) in files.chain(others) {
            let mut sum = Checksummer::new(algorithm);
            sum.update(&content);
            let entry = ManifestFile {
                path: PathBuf::from(path),
                size: content.len() as u64,
                last_modified: chrono::DateTime::UNIX_EPOCH,
                checksum: (!without(path)).then(|| (algorithm, sum.finish())),
            };
            writer.file(&entry).expect("written");
        }
        writer.finish(&[]).expect("finished")
    }

    /// With other values for some of its fields.
    async fn put_sentinel(&self, step: usize, fields: &[(&str, serde_json::Value)]) {
        let lsn = |step: usize| step as u64 * 1000 + 1;
        let mut sentinel = serde_json::json!({
            "LSN": lsn(step), "FinishLSN": lsn(step) + 100, "PgVersion": 150_018, "SystemIdentifier": 7,
        });
        if step > 0 {
            sentinel["DeltaFrom"] = self.names[step - 1].clone().into();
            sentinel["DeltaLSN"] = lsn(step - 1).into();
            sentinel["DeltaFullName"] = self.names[0].clone().into();
            sentinel["DeltaCount"] = step.into();
        }
        for (name, value) in fields {
            sentinel[name] = value.clone();
        }
        self.put(&layout::sentinel(&self.names[step]), sentinel.to_string().into_bytes())
            .await;
    }

    fn target(&self) -> PathBuf {
        self.place.path().join("data")
    }

    async fn restore(&self) -> Result<Restored> {
        let plan = plan(&self.store, self.newest(), &self.target(), RestoreOptions::default()).await?;
        apply(plan, Arc::default(), CancellationToken::new()).await
    }

    /// Restore, and compare with the source of the newest backup.
    async fn comes_back(&self) -> Restored {
        let restored = self.restore().await.expect("restored");
        let mut expected: BTreeMap<String, Vec<u8>> = self
            .state
            .iter()
            .map(|(path, pages)| ((*path).to_owned(), content(pages)))
            .collect();
        let last = self.names.len() - 1;
        expected.insert("global/pg_control".to_owned(), format!("control {last}").into_bytes());
        expected.insert("backup_label".to_owned(), format!("label {last}").into_bytes());
        for path in walk(&self.target()) {
            let name = path
                .strip_prefix(self.target())
                .expect("below")
                .to_string_lossy()
                .into_owned();
            if name != "backup_manifest" {
                let found = std::fs::read(&path).expect("read");
                assert!(expected.remove(&name).as_ref() == Some(&found), "{name} is wrong");
            }
        }
        assert!(expected.is_empty(), "{:?}", expected.keys());
        assert!(self.target().join("base/5").is_dir());
        restored
    }

    /// The restore must fail with these words, and leave nothing that a server would start on.
    async fn refuses(&self, says: &str) -> Error {
        let error = self.restore().await.expect_err(says);
        let text = format!(
            "{error} {} {}",
            error.detail().unwrap_or_default(),
            error.hint().unwrap_or_default()
        );
        assert!(text.contains(says), "\"{text}\" does not say \"{says}\"");
        assert!(!self.target().join("global/pg_control").exists(), "{says}");
        error
    }
}

fn increment(old: &[u8], new: &[u8], more: u8, reversed: bool) -> Vec<u8> {
    let changed = |at: &usize| old.get(*at) != Some(&new[*at]) || more >> (at % 8) & 1 != 0;
    let mut blocks: Vec<usize> = (0..new.len()).filter(changed).collect();
    if reversed {
        blocks.reverse();
    }
    let header = IncrementHeader {
        file_size: (new.len() * PAGE) as u64,
        blocks: blocks.iter().map(|block| *block as u32).collect(),
    };
    let mut bytes = header.to_bytes();
    bytes.extend(blocks.iter().flat_map(|block| page(new[*block])));
    bytes
}

const FILES: [&str; 6] = [
    "PG_VERSION",
    "base/5/1",
    "base/5/1.1",
    "base/5/2",
    "base/5/3",
    "global/4",
];

/// A change of a file before the next backup.
#[derive(Debug, Clone)]
enum Change {
    Nothing,
    Drop,
    Pages(Vec<u8>),
    /// These pages, to this byte.
    Some(u8, u8),
    Shrink(usize),
    Grow(Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let pages = || prop::collection::vec(any::<u8>(), 0..70);
    prop_oneof![
        3 => Just(Change::Nothing),
        1 => Just(Change::Drop),
        1 => pages().prop_map(Change::Pages),
        3 => any::<(u8, u8)>().prop_map(|(mask, byte)| Change::Some(mask, byte)),
        1 => (0usize..80).prop_map(Change::Shrink),
        1 => pages().prop_map(Change::Grow),
    ]
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        1 => Just(How::Full),
        3 => Just(How::Skipped),
        3 => any::<(u8, bool)>().prop_map(|(more, reversed)| How::Increment { more, reversed }),
    ]
}

fn changed(old: Option<&Vec<u8>>, change: &Change) -> Option<Vec<u8>> {
    let mut pages = old.cloned();
    match (change, &mut pages) {
        (Change::Nothing, _) => {}
        (Change::Drop, _) => return None,
        (Change::Pages(new), _) => return Some(new.clone()),
        (_, None) => return None,
        (Change::Some(mask, byte), Some(pages)) => {
            let touched = pages.iter_mut().enumerate().filter(|(at, _)| mask >> (at % 8) & 1 != 0);
            touched.for_each(|(_, page)| *page = *byte);
        }
        (Change::Shrink(to), Some(pages)) => pages.truncate(*to),
        (Change::Grow(more), Some(pages)) => pages.extend(more),
    }
    pages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_newest_content_comes_back(
        first in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..70)), FILES.len()),
        steps in prop::collection::vec(prop::collection::vec((change(), how()), FILES.len()), 0..5),
        algorithm in prop::sample::select(vec![None, Some(ChecksumAlgorithm::Crc32c), Some(ChecksumAlgorithm::Sha256)]),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut chain = Chain::new(algorithm);
            let full = FILES.into_iter().zip(&first).filter_map(|(path, pages)| Some((path, pages.clone()?)));
            chain.take(full.collect(), |_| How::Full).await;
            for step in &steps {
                let state = FILES.into_iter().zip(step);
                let state = state
                    .filter_map(|(path, (change, _))| Some((path, changed(chain.state.get(path), change)?)))
                    .collect();
                let how = |path: &str| {
                    let index = FILES.iter().position(|file| *file == path);
                    index.map_or(How::Full, |index| step[index].1)
                };
                chain.take(state, how).await;
            }
            chain.comes_back().await;
        });
    }
}

const CHANGED: How = How::Increment {
    more: 0,
    reversed: false,
};

/// Three backups: one file changes twice and grows, one shrinks, one stays, one is dropped, one is new.
async fn good(algorithm: Option<ChecksumAlgorithm>) -> Chain {
    let mut chain = Chain::new(algorithm);
    let full = [
        ("base/5/1", vec![1; 100]),
        ("base/5/2", vec![2; 100]),
        ("base/5/3", vec![3; 10]),
        ("base/5/4", vec![4; 10]),
    ];
    chain.take(full.into(), |_| How::Full).await;
    let mut state = chain.state.clone();
    state.get_mut("base/5/1").expect("there")[7] = 17;
    state.get_mut("base/5/2").expect("there").truncate(50);
    state.remove("base/5/4");
    let how = |path: &str| match path {
        "base/5/3" => How::Skipped,
        _ => CHANGED,
    };
    chain.take(state.clone(), how).await;
    let one = state.get_mut("base/5/1").expect("there");
    one[8] = 18;
    one.extend([19; 20]);
    state.insert("base/5/5", vec![5; 3]);
    let how = |path: &str| match path {
        "base/5/1" => CHANGED,
        _ => How::Skipped,
    };
    chain.take(state, how).await;
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_is_written_once() {
    for algorithm in [None, Some(ChecksumAlgorithm::Crc32c), Some(ChecksumAlgorithm::Sha256)] {
        let chain = good(algorithm).await;
        let restored = chain.comes_back().await;
        assert_eq!(restored.files, 6);
        let size = |path: &Path| path.metadata().expect("there").len();
        let files = walk(&chain.target())
            .into_iter()
            .filter(|path| !path.ends_with("backup_manifest"));
        assert_eq!(restored.bytes, files.map(|path| size(&path)).sum::<u64>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tars_in_which_nothing_is_needed_are_not_downloaded() {
    let chain = good(Some(ChecksumAlgorithm::Crc32c)).await;
    // Of the oldest one, "base/5/1" and "base/5/3" are in the first tar, "base/5/2" in the other. All of the second one's
    // pages of "base/5/1" and "base/5/2" are needed.
    let mut state = chain.state.clone();
    let mut chain = chain;
    state.insert("base/5/2", vec![22; 4]);
    chain
        .take(state, |path| match path {
            "base/5/2" => How::Full,
            _ => How::Skipped,
        })
        .await;
    for (step, tar) in [(0, "part_002"), (0, "pg_control"), (0, "backup_label"), (1, "part_002")] {
        let key = layout::tar(&chain.names[step], &format!("{tar}.tar.zst"));
        chain.put(&key, b"rubbish".to_vec()).await;
    }
    let planned = plan(&chain.store, chain.newest(), &chain.target(), RestoreOptions::default())
        .await
        .expect("planned")
        .plan;
    assert_eq!(
        planned.ancestors,
        [&chain.names[2][..], &chain.names[1], &chain.names[0]]
    );
    assert!(
        planned
            .to_string()
            .contains(&format!("based on:     {}", chain.names[0])),
        "{planned}"
    );
    chain.comes_back().await;
}

//! Decides which file goes into which tar.

use super::read::files::FileList;

/// A tar of less is not worth a request, in bytes.
const SMALLEST_TAR: u64 = 4 << 20;

/// Tars for each that is packed at a time, so that none of them is idle for long at the end.
const TARS_PER_TASK: u64 = 4;

/// The bytes that a member takes beside its content: its header and its padding.
const MEMBER_OVERHEAD: u64 = 1024;

/// The files of one tar.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By their places in the list.
    pub(super) files: Vec<usize>,
    pub(super) bytes: u64,
    /// Threads that compress it, beside the one that reads it; with 0 that one does both.
    pub(super) threads: u32,
}

/// Neighbours stay together; no file is split; a file larger than a tar has one of its own. The largest tar comes first.
/// There is at least one.
pub(super) fn group(files: &FileList, tar_bytes: u64, concurrency: usize, cores: usize) -> Vec<Group> {
    let concurrency = concurrency.max(1) as u64;
    let total: u64 = files.sizes().map(weight).sum();
    let limit = (total / (concurrency * TARS_PER_TASK))
        .max(SMALLEST_TAR)
        .min(tar_bytes.max(1));
    let mut groups = Vec::new();
    let mut current = Group::default();
    for (file, size) in files.sizes().enumerate() {
        let bytes = weight(size);
        if bytes >= limit {
            groups.push(Group {
                files: vec![file],
                bytes,
                threads: 0,
            });
            continue;
        }
        if current.bytes + bytes > limit {
            groups.push(std::mem::take(&mut current));
        }
        current.bytes += bytes;
        current.files.push(file);
    }
    if !current.files.is_empty() || groups.is_empty() {
        groups.push(current);
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
    // A table's segment of 1 GB that is most of a cluster would keep one core busy long after the others are done.
    let workers = concurrency.min(cores.max(1) as u64);
    for group in &mut groups {
        if workers > 1 && group.bytes > SMALLEST_TAR && group.bytes.saturating_mul(workers) > total {
            group.threads = workers as u32;
        }
    }
    groups
}

fn weight(size: u64) -> u64 {
    size.saturating_add(MEMBER_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(sizes: &[u64]) -> FileList {
        let mut files = FileList::default();
        for (index, size) in sizes.iter().enumerate() {
            files.push(index.to_string().as_ref(), *size);
        }
        files
    }

    #[test]
    fn every_core_has_something_to_do() {
        let small = vec![1 << 20; 64];
        assert!(group(&files(&small), 1 << 30, 4, 2).len() >= 4);
        assert_eq!(group(&files(&[10, 20]), 1 << 30, 4, 2).len(), 1);
        assert_eq!(group(&FileList::default(), 1 << 30, 4, 2).len(), 1);
        // One file that is nearly everything: only threads help.
        let groups = group(&files(&[1 << 30, 1 << 20, 1 << 20]), 1 << 30, 4, 2);
        assert_eq!(groups[0].threads, 2);
        assert_eq!(groups[1].threads, 0);
        assert!(
            group(&files(&small), 1 << 30, 4, 2)
                .iter()
                .all(|group| group.threads == 0)
        );
        assert_eq!(
            group(&files(&[1 << 30]), 1 << 30, 1, 2)[0].threads,
            0,
            "one at a time means one core"
        );
    }

    proptest! {
        #[test]
        fn every_file_is_in_exactly_one_tar(
            sizes in proptest::collection::vec(0u64..64 << 20, 0..200), tar_bytes in 1u64..128 << 20, concurrency in 1usize..9,
        ) {
            let groups = group(&files(&sizes), tar_bytes, concurrency, 2);
            let mut seen: Vec<usize> = groups
                .iter()
                .flat_map(|group| group.files.iter().copied())
                .collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..sizes.len()));
            for group in &groups {
                prop_assert!(group.files.len() <= 1 || group.bytes <= tar_bytes);
            }
            prop_assert!(groups.is_sorted_by(|left, right| left.bytes >= right.bytes));
        }
    }
}

//! The checksums of relation pages (`storage/checksum_impl.h` in PostgreSQL).

use crate::lsn::Lsn;

/// `BLCKSZ`.
const PAGE_BYTES: usize = 8192;

/// `N_SUMS`: partial checksums that are computed side by side.
const SUMS: usize = 32;

/// `FNV_PRIME`.
const PRIME: u32 = 16_777_619;

/// With what the partial checksums begin.
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Where the checksum stands in a page's header.
const CHECKSUM_AT: usize = 8;
/// Where the free space ends; zero on a page that was never used.
const UPPER_AT: usize = 14;

/// Of the bad pages of one file, so many are named.
const NAMED: usize = 10;

/// Checks the pages of one file as its bytes come.
#[derive(Debug)]
pub(super) struct PageChecker {
    page: Vec<u8>,
    /// The number of the file's first page, in its relation.
    first: u32,
    /// That of the next one.
    next: u32,
    start: Lsn,
    pub(super) checked: u64,
    pub(super) bad: u64,
    /// Numbers of the first bad ones.
    pub(super) some: Vec<u32>,
}

impl PageChecker {
    /// For a file that begins with that page of its relation, in a backup that begins at `start`: a page that was changed
    /// later may be torn, and is written anew from the WAL.
    pub(super) fn new(first: u32, start: Lsn) -> Self {
        PageChecker {
            page: Vec::with_capacity(PAGE_BYTES),
            first,
            next: first,
            start,
            checked: 0,
            bad: 0,
            some: Vec::new(),
        }
    }

    /// The next bytes of the file.
    pub(super) fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (taken, rest) = piece.split_at(piece.len().min(PAGE_BYTES - self.page.len()));
            self.page.extend_from_slice(taken);
            piece = rest;
            if self.page.len() == PAGE_BYTES {
                self.check();
                self.page.clear();
                self.next = self.next.wrapping_add(1);
            }
        }
    }

    /// The next bytes are those of another page of the relation's file, by its number there.
    pub(super) fn go_to(&mut self, page: u32) {
        self.next = self.first.wrapping_add(page);
    }

    fn check(&mut self) {
        let half = |at: usize| u16::from_le_bytes([self.page[at], self.page[at + 1]]);
        let word = |at: usize| u64::from(half(at + 2)) << 16 | u64::from(half(at));
        // The upper half comes first.
        let changed = Lsn(word(0) << 32 | word(4));
        if half(UPPER_AT) == 0 || changed >= self.start {
            return;
        }
        self.checked += 1;
        if checksum(&self.page, self.next) != half(CHECKSUM_AT) {
            self.bad += 1;
            if self.some.len() < NAMED {
                self.some.push(self.next);
            }
        }
    }
}

/// What the checksum of a page should be, with that number in its relation.
fn checksum(page: &[u8], number: u32) -> u16 {
    let mix = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = OFFSETS;
    for (row, bytes) in page.chunks_exact(SUMS * 4).enumerate() {
        for (column, (sum, word)) in sums.iter_mut().zip(bytes.chunks_exact(4)).enumerate() {
            let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if row == 0 && column == CHECKSUM_AT / 4 {
                // As if the checksum itself were zero.
                value &= 0xFFFF_0000;
            }
            *sum = mix(*sum, value);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| *sum = mix(*sum, 0));
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ number;
    // Never zero.
    (folded % 65_535 + 1) as u16
}

/// The number of the first page in a relation's file, by its path below the data directory; none if it is no relation's.
pub(super) fn first_page(path: &[Vec<u8>], segment_pages: u32) -> Option<u32> {
    let name = match path {
        [folder, name] if folder == b"global" => name,
        [folder, _, name] if folder == b"base" => name,
        [folder, _, _, _, name] if folder == b"pg_tblspc" => name,
        _ => return None,
    };
    let name = std::str::from_utf8(name).ok()?;
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, segment.parse::<u32>().ok()?),
        None => (name, 0),
    };
    let number = name.split_once('_').map_or(Some(name), |(number, fork)| {
        matches!(fork, "fsm" | "vm" | "init").then_some(number)
    })?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(segment)?.checked_mul(segment_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(path: &str) -> Option<u32> {
        let path: Vec<Vec<u8>> = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
        first_page(&path, 131_072)
    }

    #[test]
    fn relations_are_told_from_other_files() {
        for (path, page) in [
            ("base/5/1259", 0),
            ("base/5/1259.2", 262_144),
            ("base/5/1259_fsm", 0),
            ("base/5/1259_vm.1", 131_072),
            ("global/1262", 0),
            ("pg_tblspc/16400/PG_15_202209061/5/16401", 0),
        ] {
            assert_eq!(first(path), Some(page), "{path}");
        }
        for path in [
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "global/pg_control",
            "pg_xact/0000",
            "base/5/1259.99999999999",
            "base/5/1259_x",
            "base/5/.1",
            "backup_label",
        ] {
            assert_eq!(first(path), None, "{path}");
        }
    }

    #[test]
    fn what_may_be_torn_or_was_never_used_is_not_looked_at() {
        let mut used = vec![1; PAGE_BYTES];
        used[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2]);
        let mut later = used.clone();
        later[7] = 3;
        let mut checker = PageChecker::new(0, Lsn(0x300_0000));
        checker.feed(&[used.clone(), vec![0; PAGE_BYTES], later].concat());
        assert_eq!((checker.checked, checker.bad, checker.some), (1, 1, vec![0]));
        let right = checksum(&used, 7);
        used[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&right.to_le_bytes());
        let mut checker = PageChecker::new(7, Lsn(0x300_0000));
        used.chunks(1000).for_each(|piece| checker.feed(piece));
        assert_eq!((checker.checked, checker.bad), (1, 0));
        let mut checker = PageChecker::new(8, Lsn(0x300_0000));
        checker.feed(&used);
        assert_eq!(checker.bad, 1, "a page of another place");
    }
}

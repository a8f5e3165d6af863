//! Pages of relations: their headers, their checksums (`storage/bufpage.h` and `checksum_impl.h` in PostgreSQL), and which
//! files consist of them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::lsn::Lsn;

/// `BLCKSZ`, the size of a page in bytes. Servers built with another one are told by
/// [`ControlFile::page_bytes`](crate::control_file::ControlFile::page_bytes).
pub(crate) const PAGE_BYTES: usize = 8192;

/// Of the pages with a wrong checksum in one file, so many are named.
pub(crate) const NAMED: usize = 10;

/// `N_SUMS`: partial checksums that are computed side by side.
const SUMS: usize = 32;

/// The bytes that all of them take at a time.
const ROW: usize = SUMS * 4;

/// `FNV_PRIME`.
const PRIME: u32 = 16_777_619;

/// The value with which the partial checksums begin.
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

/// The offset of the checksum in a page's header.
const CHECKSUM_AT: usize = 8;
/// The flags.
const FLAGS_AT: usize = 10;
/// Where the free space begins.
const LOWER_AT: usize = 12;
/// Where the free space ends; zero on a page that was never used.
const UPPER_AT: usize = 14;
/// Where the special space begins.
const SPECIAL_AT: usize = 16;
/// The size of the page and the version of its layout.
const VERSION_AT: usize = 18;
/// `PD_ALL_VISIBLE`, one of the flags.
const ALL_VISIBLE: u16 = 4;
/// The place where an SP-GiST page says its kind: `SpGistPageOpaqueData`.
const SPGIST_SPECIAL_AT: usize = PAGE_BYTES - 8;
/// `SPGIST_META`.
const SPGIST_META: u16 = 1;
/// `SPGIST_PAGE_ID`.
const SPGIST_PAGE_ID: u16 = 0xFF82;

/// `PD_VALID_FLAG_BITS`.
const VALID_FLAGS: u16 = 0x0007;

/// [`PAGE_BYTES`] and `PG_PAGE_LAYOUT_VERSION`, which is 4 since PostgreSQL 8.3.
const SIZE_AND_VERSION: u16 = PAGE_BYTES as u16 | 4;

/// `MAXALIGN`, in bytes.
const ALIGNMENT: u16 = 8;

/// `SizeOfPageHeaderData`, in bytes.
pub(crate) const HEADER_BYTES: usize = 24;

/// What came of [`mark_all_visible`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    /// It was marked.
    Already,
    /// The header is changed.
    Now,
    /// It is no page in use, and stays as it is.
    NoPage,
}

/// Mark the page with this header as all-visible. Its checksum, if it has one, is not right after that.
pub(crate) fn mark_all_visible(header: &mut [u8; HEADER_BYTES]) -> Marked {
    if !has_plausible_header(header) {
        return Marked::NoPage;
    }
    let flags = half(header, FLAGS_AT);
    if flags & ALL_VISIBLE != 0 {
        return Marked::Already;
    }
    header[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&(flags | ALL_VISIBLE).to_ne_bytes());
    Marked::Now
}

/// Does this begin as any page in use does?
fn has_plausible_header(page: &[u8]) -> bool {
    let [lower, upper, special] = [LOWER_AT, UPPER_AT, SPECIAL_AT].map(|at| half(page, at));
    half(page, FLAGS_AT) & !VALID_FLAGS == 0
        && upper != 0
        && lower <= upper
        && upper <= special
        && usize::from(special) <= PAGE_BYTES
        && special.is_multiple_of(ALIGNMENT)
        && half(page, VERSION_AT) == SIZE_AND_VERSION
}

fn half(page: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([page[at], page[at + 1]])
}

/// One page. All numbers in it are in the byte order of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a>(pub(crate) &'a [u8; PAGE_BYTES]);

/// The verdict on a page as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Never used: all zero. It has no checksum.
    New,
    /// Changed since the backup began: it may be torn, and the WAL writes it again.
    Changed,
    /// The checksum is right.
    Right,
    /// The checksum is wrong, or there should be one.
    Wrong,
}

impl Page<'_> {
    /// `pd_lsn`: the end of the WAL record that changed the page last; zero of one that no record tells about.
    pub(crate) fn lsn(self) -> Lsn {
        let word = |at: usize| {
            u64::from(u32::from_ne_bytes([
                self.0[at],
                self.0[at + 1],
                self.0[at + 2],
                self.0[at + 3],
            ]))
        };
        // The upper half comes first, whatever the byte order.
        Lsn(word(0) << 32 | word(4))
    }

    /// Is it a page that was never used?
    pub(crate) fn is_all_zero(self) -> bool {
        // A page in use is told by one look.
        self.half(UPPER_AT) == 0 && self.0.iter().all(|byte| *byte == 0)
    }

    /// Does the header look as that of any page in use does? Only then its content can be believed, its LSN above all: in bytes
    /// that are no page the first ones mean nothing. The server refuses to read a page with another header.
    pub(crate) fn has_plausible_header(self) -> bool {
        has_plausible_header(self.0)
    }

    /// `PD_ALL_VISIBLE`: the rows of a table's page are visible to everybody, as the visibility map may say, too.
    pub(crate) fn is_all_visible(self) -> bool {
        self.half(FLAGS_AT) & ALL_VISIBLE != 0
    }

    /// Is it the first page of an SP-GiST index? It tells at its end what it is (`access/spgist_private.h`).
    pub(crate) fn is_spgist_meta(self) -> bool {
        usize::from(self.half(SPECIAL_AT)) == SPGIST_SPECIAL_AT
            && self.half(PAGE_BYTES - 2) == SPGIST_PAGE_ID
            && self.half(SPGIST_SPECIAL_AT) & SPGIST_META != 0
    }

    /// Judge it as page `number` of its relation, in a backup that began at `start`.
    pub(crate) fn verdict(self, number: u32, start: Lsn) -> Verdict {
        if self.has_plausible_header() && self.lsn() >= start {
            Verdict::Changed
        } else if self.is_all_zero() {
            Verdict::New
        } else if self.half(UPPER_AT) != 0 && self.checksum(number) == self.half(CHECKSUM_AT) {
            Verdict::Right
        } else {
            Verdict::Wrong
        }
    }

    /// The checksum that it should have, with that number in its relation.
    pub(crate) fn checksum(self, number: u32) -> u16 {
        let (rows, _) = self.0.as_chunks::<ROW>();
        let mut sums = OFFSETS;
        // As if the checksum itself were zero.
        let mut first = rows[0];
        first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        add(&mut sums, &first);
        rows[1..].iter().for_each(|row| add(&mut sums, row));
        for _ in 0..2 {
            add(&mut sums, &[0; ROW]);
        }
        let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ number;
        // Never zero.
        (folded % 65_535 + 1) as u16
    }

    fn half(self, at: usize) -> u16 {
        half(self.0, at)
    }
}

/// No branch and no length that is known only at run time: the compiler makes vector instructions of it.
#[inline]
fn add(sums: &mut [u32; SUMS], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_ne_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// The number of the first page in a relation's file, by its path relative to the data directory; none if it is no
/// relation's and so has no pages. `segment_pages` is `RELSEG_SIZE`, from `pg_control`.
pub(crate) fn first_page(path: &Path, segment_pages: u32) -> Option<u32> {
    first_page_of(path.iter().map(OsStrExt::as_bytes), segment_pages)
}

/// The same, by the parts of the path.
pub(crate) fn first_page_of<'a>(path: impl IntoIterator<Item = &'a [u8]>, segment_pages: u32) -> Option<u32> {
    let (mut parts, mut count) = ([&[][..]; 5], 0);
    for part in path {
        *parts.get_mut(count)? = part;
        count += 1;
    }
    let name = match &parts[..count] {
        [b"global", name] | [b"base", _, name] | [b"pg_tblspc", _, _, _, name] => name,
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
pub(crate) mod tests {
    use super::*;

    /// A page with something on it and the right checksum for that number.
    pub(crate) fn sample(lsn: Lsn, number: u32, content: u8) -> [u8; PAGE_BYTES] {
        let mut page = [content; PAGE_BYTES];
        page[..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_ne_bytes());
        page[4..8].copy_from_slice(&(lsn.0 as u32).to_ne_bytes());
        for (at, value) in [
            (8, 0),
            (10, 0),
            (12, 28),
            (14, 4096),
            (16, 8192),
            (18, 8196),
            (20, 0),
            (22, 0),
        ] {
            page[at..at + 2].copy_from_slice(&u16::to_ne_bytes(value));
        }
        let sum = Page(&page).checksum(number);
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_ne_bytes());
        page
    }

    #[test]
    fn a_page_in_use_is_marked_once() {
        let page = sample(Lsn(1), 0, 7);
        let mut header = *page.first_chunk::<HEADER_BYTES>().expect("a header");
        assert_eq!(mark_all_visible(&mut header), Marked::Now);
        assert_eq!(mark_all_visible(&mut header), Marked::Already);
        let mut marked = page;
        marked[..HEADER_BYTES].copy_from_slice(&header);
        assert!(!Page(&page).is_all_visible() && Page(&marked).is_all_visible());
        assert_eq!(mark_all_visible(&mut [0; HEADER_BYTES]), Marked::NoPage);
    }

    #[test]
    fn the_metapage_of_an_sp_gist_index_is_told_by_its_end() {
        let mut page = sample(Lsn(1), 0, 0);
        for (at, value) in [(16, 8184), (8184, 1), (8190, 0xFF82)] {
            assert!(!Page(&page).is_spgist_meta());
            page[at..at + 2].copy_from_slice(&u16::to_ne_bytes(value));
        }
        assert!(Page(&page).is_spgist_meta());
        // Another page of the index.
        page[8184] = 4;
        assert!(!Page(&page).is_spgist_meta());
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
            assert_eq!(first_page(Path::new(path), 131_072), Some(page), "{path}");
        }
        for path in [
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "global/pg_control",
            "pg_xact/0000",
            "base/5/1259.99999999999",
            "base/5/1259_x",
            "base/5/.1",
            "base/5/t3_16384",
            "pg_tblspc/16400/PG_15_202209061/5/x/16401",
            "backup_label",
            "",
        ] {
            assert_eq!(first_page(Path::new(path), 131_072), None, "{path}");
        }
    }

    #[test]
    fn a_page_is_judged_by_its_checksum_and_its_place() {
        let start = Lsn(0x1_0000_0000);
        let page = sample(Lsn(start.0 - 1), 7, 3);
        assert_eq!(Page(&page).lsn(), Lsn(0xFFFF_FFFF));
        assert_eq!(Page(&page).verdict(7, start), Verdict::Right);
        assert_eq!(Page(&page).verdict(8, start), Verdict::Wrong, "of another place");
        assert_eq!(Page(&page).verdict(8, Lsn(0xFFFF_FFFF)), Verdict::Changed);
        for at in [0, CHECKSUM_AT, 24, 4096, PAGE_BYTES - 1] {
            let mut damaged = page;
            damaged[at] ^= 0x10;
            assert_eq!(Page(&damaged).verdict(7, Lsn(u64::MAX)), Verdict::Wrong, "{at}");
        }
        assert_eq!(Page(&[0; PAGE_BYTES]).verdict(7, start), Verdict::New);
        let mut half_new = [0; PAGE_BYTES];
        half_new[PAGE_BYTES - 1] = 1;
        assert_eq!(Page(&half_new).verdict(7, start), Verdict::Wrong);
    }

    #[test]
    fn the_lsn_of_what_is_no_page_is_not_believed() {
        assert_eq!(Page(&[0xFF; PAGE_BYTES]).verdict(0, Lsn(1)), Verdict::Wrong);
        let page = sample(Lsn(9), 0, 1);
        assert!(Page(&page).has_plausible_header());
        // More than the valid flags, free space that ends before it begins or after the special space, special space that
        // is not aligned, another size.
        for (at, value) in [
            (10, 8),
            (12, 4097),
            (14, 0),
            (14, 8200),
            (16, 8191),
            (16, 8200),
            (18, 4096 | 4),
        ] {
            let mut other = page;
            other[at..at + 2].copy_from_slice(&u16::to_ne_bytes(value));
            assert!(!Page(&other).has_plausible_header(), "{value} at {at}");
            assert_eq!(Page(&other).verdict(0, Lsn(1)), Verdict::Wrong, "{value} at {at}");
        }
    }
}

//! The share of some pages in the CRC-32C of a whole file.
//!
//! A CRC is the remainder of a division of polynomials. So the share of a page is its own CRC, multiplied by a power of x for
//! all that follows it, and divided once more. The powers are those of whole pages, and made at compile time. The functions of
//! libraries square matrices for this, which costs as much as the CRCs of many pages.

use crate::formats::increment::PAGE_BYTES;

/// Of CRC-32C, with its bits reversed, as the CRC has them: the highest bit is the constant term.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The number of pages is looked up by so many of its bits at a time.
const BITS: u32 = 8;

/// So many times; the largest file has 2^23 pages.
const DIGITS: usize = 3;

/// `POWERS[digit][value]`: x to the power of the bits of `value << (BITS * digit)` pages.
static POWERS: [[u32; 1 << BITS]; DIGITS] = powers();

/// The CRC of pages, as it counts in a file in which so many pages follow them: less than 2^24.
pub(super) fn shift(crc: u32, pages: u64) -> u32 {
    debug_assert!(pages >> (BITS * DIGITS as u32) == 0, "{pages} pages");
    let mut shifted = crc;
    for (digit, powers) in POWERS.iter().enumerate() {
        let value = pages >> (BITS * digit as u32) & ((1 << BITS) - 1);
        if value != 0 {
            shifted = multiplied(shifted, powers[value as usize]);
        }
    }
    shifted
}

/// The product of two polynomials, divided by the polynomial of the CRC.
const fn multiplied(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 32);
    while bit > 0 {
        bit -= 1;
        // All bits are set or none, so that nothing branches on bits that nobody can foretell.
        product ^= (a >> bit & 1).wrapping_neg() & b;
        b = b >> 1 ^ (b & 1).wrapping_neg() & POLYNOMIAL;
    }
    product
}

const fn powers() -> [[u32; 1 << BITS]; DIGITS] {
    const ONE: u32 = 1 << 31;
    // x, squared until it has the power of one page's bits.
    let (mut step, mut bits) = (ONE >> 1, 1);
    while bits < PAGE_BYTES * 8 {
        step = multiplied(step, step);
        bits *= 2;
    }
    let mut powers = [[ONE; 1 << BITS]; DIGITS];
    let mut digit = 0;
    while digit < DIGITS {
        let mut value = 1;
        while value < 1 << BITS {
            powers[digit][value] = multiplied(powers[digit][value - 1], step);
            value += 1;
        }
        step = multiplied(powers[digit][(1 << BITS) - 1], step);
        digit += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_general_one(crc: u32, pages in prop_oneof![0u64..300, 0u64..1 << 24]) {
            prop_assert_eq!(shift(crc, pages), crc32c::crc32c_combine(crc, 0, (pages * PAGE_BYTES) as usize));
        }
    }

    #[test]
    fn the_ends_of_the_digits_are_right() {
        for pages in [0, 1, 255, 256, 65535, 65536, (1 << 23) - 1, 1 << 23, (1 << 24) - 1] {
            let general = crc32c::crc32c_combine(0xDEAD_BEEF, 0, (pages * PAGE_BYTES) as usize);
            assert_eq!(shift(0xDEAD_BEEF, pages), general, "{pages}");
        }
    }
}

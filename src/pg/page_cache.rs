//! The content of the system's page cache.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use walarchive_core::backup::Residency;

/// The pages of a part of a file that are in memory. `offset` is a multiple of the page size. If the file does not belong to the
/// user of the process, the kernel reports all pages as in memory.
pub fn resident(file: &File, offset: u64, length: u64) -> io::Result<Residency> {
    // SAFETY: the argument is one that the function knows.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
    let bytes = usize::try_from(length).map_err(io::Error::other)?;
    let start = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let Some(bytes) = NonZeroUsize::new(bytes) else {
        return Ok(Residency {
            page_bytes,
            pages: Vec::new(),
        });
    };
    // SAFETY: a new mapping, at an address that the kernel chooses. It cannot be read, so it does no harm if the file is truncated.
    let mapping = unsafe { mmap(None, bytes, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, file, start) }?;
    let mut pages = vec![0u8; length.div_ceil(page_bytes) as usize];
    // SAFETY: the mapping is as long as that, and the vector has a byte for each of its pages.
    let asked = unsafe { libc::mincore(mapping.as_ptr().cast::<c_void>(), bytes.get(), pages.as_mut_ptr()) };
    let asked = nix::errno::Errno::result(asked);
    // SAFETY: the mapping was made above, and nothing else refers to it.
    unsafe { munmap(mapping, bytes.get()) }?;
    asked?;
    Ok(Residency {
        page_bytes,
        pages: pages.into_iter().map(|page| page & 1 == 1).collect(),
    })
}

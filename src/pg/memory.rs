//! The memory of this process, as its C library keeps it.

/// From now on this process gives back to the system what is free, instead of keeping it for later: what it holds at a time is what it
/// needs. For a process that lives as long as the server, and has something to do now and then. To be called before there are threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_little() {
    use nix::libc;

    /// Larger pieces are mapped, and unmapped when they are free. Set, it does not grow with what is freed, as it does otherwise.
    const MAPPED_FROM: libc::c_int = 256 << 10;
    /// Threads share so many heaps, instead of eight for each processor: each keeps what was free in it. With fewer, those that have
    /// little time would keep the others waiting.
    const HEAPS: libc::c_int = 8;

    // SAFETY: the calls take integers. They are made before there is a second thread. If one is refused, nothing changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Other C libraries give back by themselves, or have no such knobs.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_little() {}

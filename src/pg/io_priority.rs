//! The I/O priority of a process.

use nix::libc;

/// `IOPRIO_WHO_PROCESS`: one thread, in spite of its name.
const THREAD: libc::c_int = 1;
/// The lowest of the eight levels of `IOPRIO_CLASS_BE`, which gets its share also when the disk is busy.
const LOWEST: libc::c_int = 2 << 13 | 7;

/// Give the I/O of this thread, and of the threads that it starts, the lowest priority, if the disk's scheduler knows priorities. An
/// error if the kernel refuses.
pub fn lower() -> nix::Result<()> {
    // SAFETY: the call takes three integers, and touches no memory.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD, 0, LOWEST) };
    nix::errno::Errno::result(set).map(drop)
}

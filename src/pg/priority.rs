//! The priority of a process, or of a thread.

use nix::libc;

/// `IOPRIO_WHO_PROCESS`: one thread, in spite of its name.
const THREAD: libc::c_int = 1;
/// The lowest of the eight levels of `IOPRIO_CLASS_BE`, which gets its share also when the disk is busy.
const LOWEST: libc::c_int = 2 << 13 | 7;

/// Give the I/O of this thread, and of the threads that it starts, the lowest priority, if the disk's scheduler knows priorities. An
/// error if the kernel refuses.
pub fn lower_io() -> nix::Result<()> {
    // SAFETY: the call takes three integers, and touches no memory.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD, 0, LOWEST) };
    nix::errno::Errno::result(set).map(drop)
}

/// How much a drill, or a thread that compresses WAL, stands back where processors are busy: half of what is possible.
const NICE: libc::c_int = 10;

/// As much as possible. `SCHED_IDLE` would be more, but whoever is left without any time keeps the locks that it has.
const NICEST: libc::c_int = 19;

/// Give this thread, and the threads that it starts, a low priority, and its I/O the lowest one. The other threads of the process keep
/// theirs. An error if the kernel refuses.
pub fn lower_thread() -> nix::Result<()> {
    nice(NICE)
}

/// The same, and hardly any time where processors are busy.
pub fn only_idle() -> nix::Result<()> {
    nice(NICEST)
}

fn nice(value: libc::c_int) -> nix::Result<()> {
    // SAFETY: the call takes integers, and touches no memory. 0 is the calling thread: on Linux each has a priority of its own.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
    nix::errno::Errno::result(set).map(drop).and(lower_io())
}

/// Give a child process, which has one thread yet, a low priority, and its I/O the lowest one. An error if the kernel refuses.
pub fn lower_process(pid: u32) -> nix::Result<()> {
    // SAFETY: both calls take integers, and touch no memory.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, NICE) };
    nix::errno::Errno::result(set)?;
    // SAFETY: likewise.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, THREAD, pid, LOWEST) };
    nix::errno::Errno::result(set).map(drop)
}

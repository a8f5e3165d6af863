//! Synchronous standbys: which ones the settings name, and whether commits wait for them.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

/// The name of the standby that walarchive is.
pub const WALARCHIVE: &str = "walarchive";

/// What `synchronous_standby_names` says about one standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Named {
    /// It is one of those that commits may wait for.
    pub counts: bool,
    /// It is there by its own name, not only by `*`.
    pub by_name: bool,
    /// So many standbys are named beside it that commits can do without it.
    pub others_suffice: bool,
}

/// What `synchronous_standby_names` says about the standby of this name, as this process has read it.
pub fn named(name: &str) -> Named {
    // SAFETY: the assign hook of the setting has put it there, or null for an empty list; only this thread replaces it, when it
    // reads the configuration. Behind the header lie so many C strings, one after the other.
    let (needed, names) = unsafe {
        let Some(config) = pg_sys::SyncRepConfig.as_ref() else {
            return Named::default();
        };
        let mut next: *const c_char = config.member_names.as_ptr();
        let mut names = Vec::new();
        for _ in 0..config.nmembers {
            let name = CStr::from_ptr(next);
            next = next.add(name.count_bytes() + 1);
            names.push(name.to_string_lossy().into_owned());
        }
        (config.num_sync, names)
    };
    among(name, usize::try_from(needed).unwrap_or(1), &names)
}

fn among(name: &str, needed: usize, names: &[String]) -> Named {
    let by_name = names.iter().any(|named| named.eq_ignore_ascii_case(name));
    let any = names.iter().any(|named| named == "*");
    let others = names.iter().filter(|named| !named.eq_ignore_ascii_case(name));
    Named {
        counts: by_name || any,
        by_name,
        others_suffice: any || others.count() >= needed,
    }
}

/// Does a commit wait for a standby now? A look without a lock: it may be out of date when this returns.
pub fn commits_wait() -> bool {
    // SAFETY: in shared memory that every server process is attached to, and that stays where it is. Pointers of 8 aligned bytes
    // are never seen half written, and are only compared.
    unsafe {
        if pg_sys::WalSndCtl.is_null() {
            return false;
        }
        let queues = &raw const (*pg_sys::WalSndCtl).SyncRepQueue;
        (0..pg_sys::NUM_SYNC_REP_WAIT_MODE as usize).any(|mode| has_any(queues.cast::<Queue>().add(mode)))
    }
}

#[cfg(feature = "pg15")]
type Queue = pg_sys::SHM_QUEUE;

#[cfg(not(feature = "pg15"))]
type Queue = pg_sys::dlist_head;

/// # Safety
/// A queue of shared memory.
#[cfg(feature = "pg15")]
unsafe fn has_any(queue: *const Queue) -> bool {
    // SAFETY: as the caller vouches. An empty one points to itself.
    unsafe { (&raw const (*queue).next).read_volatile().cast_const() != queue }
}

/// # Safety
/// A queue of shared memory.
#[cfg(not(feature = "pg15"))]
unsafe fn has_any(queue: *const Queue) -> bool {
    // SAFETY: as the caller vouches. An empty one points to itself, or is zeroed.
    unsafe {
        let next = (&raw const (*queue).head.next).read_volatile().cast_const();
        !next.is_null() && next != &raw const (*queue).head
    }
}

/// Is this a process of this server with a place in its shared memory, such as a WAL sender?
pub fn is_of_this_server(pid: i32) -> bool {
    // SAFETY: looks through shared memory under its lock; the answer is only compared with null.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_suffice_if_enough_of_them_are_named() {
        let of = |needed, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let named = among("walarchive", needed, &names);
            (named.counts, named.by_name, named.others_suffice)
        };
        assert_eq!(of(1, &["WalArchive"]), (true, true, false));
        assert_eq!(of(1, &["walarchive", "r1"]), (true, true, true));
        assert_eq!(of(2, &["walarchive", "r1"]), (true, true, false));
        assert_eq!(of(2, &["walarchive", "r1", "r2"]), (true, true, true));
        assert_eq!(of(1, &["r1"]), (false, false, true));
        assert_eq!(of(1, &["*"]), (true, false, true));
    }
}

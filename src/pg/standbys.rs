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
    let (needed, names) = configured();
    match names.is_empty() {
        true => Named::default(),
        false => among(name, needed, &names),
    }
}

/// How many standbys commits wait for, and the names of those that may be among them.
fn configured() -> (usize, Vec<String>) {
    // SAFETY: the assign hook of the setting has put it there, or null for an empty list; only this thread replaces it, when it
    // reads the configuration. Behind the header lie so many C strings, one after the other.
    unsafe {
        let Some(config) = pg_sys::SyncRepConfig.as_ref() else {
            return (0, Vec::new());
        };
        let mut next: *const c_char = config.member_names.as_ptr();
        let mut names = Vec::new();
        for _ in 0..config.nmembers {
            let name = CStr::from_ptr(next);
            next = next.add(name.count_bytes() + 1);
            names.push(name.to_string_lossy().into_owned());
        }
        (usize::try_from(config.num_sync).unwrap_or(1), names)
    }
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

/// The standbys beside one that commits may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// So many standbys have to have a commit, that one among them.
    pub needed: usize,
    /// So many others are there.
    pub there: usize,
    /// Those that are named, and are not connected or have not caught up.
    pub missing: Vec<String>,
}

impl Others {
    /// Those that are missing, if commits wait for one of them. `counted`: the standby itself counts as one that has all commits.
    pub fn lacking(&self, counted: bool) -> Option<String> {
        let is_lacking = self.there + usize::from(counted) < self.needed;
        is_lacking.then(|| match self.missing.as_slice() {
            [] => "another standby".to_owned(),
            missing => {
                let named: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
                named.join(", ")
            }
        })
    }
}

/// The standbys beside the one of this name that `synchronous_standby_names` names.
pub fn others(name: &str) -> Others {
    let (needed, names) = configured();
    // Most servers have no others, and nothing is to be looked up.
    match names.iter().all(|named| named.eq_ignore_ascii_case(name)) {
        true => Others {
            needed,
            ..Others::default()
        },
        false => beside(name, needed, &names, &streaming()),
    }
}

fn beside(name: &str, needed: usize, names: &[String], streaming: &[String]) -> Others {
    let is_other = |named: &&String| !named.eq_ignore_ascii_case(name);
    let is_there = |named: &String| streaming.iter().any(|there| there.eq_ignore_ascii_case(named));
    let counts = |there: &&String| {
        names
            .iter()
            .any(|named| named == "*" || named.eq_ignore_ascii_case(there))
    };
    let missing = names
        .iter()
        .filter(is_other)
        .filter(|named| *named != "*" && !is_there(named));
    Others {
        needed,
        there: streaming.iter().filter(is_other).filter(counts).count(),
        missing: missing.cloned().collect(),
    }
}

/// The names of the standbys that have caught up with this server, as PostgreSQL counts them.
fn streaming() -> Vec<String> {
    let mut pids = Vec::new();
    each_wal_sender(|pid, state| {
        if matches!(
            state,
            pg_sys::WalSndState::WALSNDSTATE_STREAMING | pg_sys::WalSndState::WALSNDSTATE_STOPPING
        ) {
            pids.push(pid);
        }
    });
    let mut names = Vec::new();
    // SAFETY: called in a process that is attached to shared memory; what was copied of it before is let go. The entries are valid until
    // that is done again, and their names are C strings in the same copy.
    unsafe {
        pg_sys::pgstat_clear_backend_activity_snapshot();
        for number in 1..=pg_sys::pgstat_fetch_stat_numbackends() {
            let Some(entry) = local_status(number).as_ref() else {
                continue;
            };
            let status = &entry.backendStatus;
            if pids.contains(&status.st_procpid) && !status.st_appname.is_null() {
                names.push(CStr::from_ptr(status.st_appname).to_string_lossy().into_owned());
            }
        }
        pg_sys::pgstat_clear_backend_activity_snapshot();
    }
    names
}

/// # Safety
/// After a call of `pgstat_fetch_stat_numbackends`, with a number up to what that has returned.
#[cfg(feature = "pg15")]
unsafe fn local_status(number: i32) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: as the caller vouches.
    unsafe { pg_sys::pgstat_fetch_stat_local_beentry(number) }
}

/// # Safety
/// After a call of `pgstat_fetch_stat_numbackends`, with a number up to what that has returned.
#[cfg(not(feature = "pg15"))]
unsafe fn local_status(number: i32) -> *mut pg_sys::LocalPgBackendStatus {
    // SAFETY: as the caller vouches.
    unsafe { pg_sys::pgstat_get_local_beentry_by_index(number) }
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

/// Is this a WAL sender of this server that has not begun to send? A look without a lock, as above.
pub fn is_new_wal_sender(pid: i32) -> bool {
    let mut is_new = false;
    each_wal_sender(|sender, state| {
        is_new |= sender == pid && state == pg_sys::WalSndState::WALSNDSTATE_STARTUP;
    });
    is_new
}

/// The process and the state of each WAL sender.
fn each_wal_sender(mut look: impl FnMut(i32, pg_sys::WalSndState::Type)) {
    // SAFETY: in shared memory that every server process is attached to. Behind the header lie so many entries, whose number never
    // changes while the server runs; 4 aligned bytes are never seen half written.
    unsafe {
        if pg_sys::WalSndCtl.is_null() {
            return;
        }
        let first = (&raw const (*pg_sys::WalSndCtl).walsnds).cast::<pg_sys::WalSnd>();
        for index in 0..usize::try_from(pg_sys::max_wal_senders).unwrap_or(0) {
            let sender = first.add(index);
            let pid = (&raw const (*sender).pid).read_volatile();
            if pid != 0 {
                look(pid, (&raw const (*sender).state).read_volatile());
            }
        }
    }
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

    #[test]
    fn commits_lack_standbys_that_are_not_there() {
        let of = |needed, names: &[&str], there: &[&str]| {
            let owned = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
            let others = beside("walarchive", needed, &owned(names), &owned(there));
            [true, false].map(|counted| others.lacking(counted).unwrap_or_default())
        };
        let both = ["walarchive", "r1"];
        assert_eq!(of(2, &both, &["walarchive", "R1"]), ["", "another standby"]);
        assert_eq!(of(2, &both, &["walarchive", "other"]), ["\"r1\""; 2]);
        assert_eq!(of(1, &both, &[]), ["", "\"r1\""]);
        let three = ["walarchive", "r1", "r2"];
        assert_eq!(of(2, &three, &["r2"]), ["", "\"r1\""]);
        assert_eq!(of(3, &three, &[]), ["\"r1\", \"r2\""; 2]);
        assert_eq!(of(2, &["*"], &["walarchive"]), ["another standby"; 2]);
        assert_eq!(of(2, &["*"], &["x"]), ["", "another standby"]);
    }
}

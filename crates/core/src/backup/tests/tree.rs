//! A data directory with something of everything that the rules speak of.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub(super) struct Cluster {
    pub(super) dir: TempDir,
    /// Relative paths of the files that a backup must hold, beside `global/pg_control`.
    pub(super) kept: Vec<String>,
    /// The same for directories.
    pub(super) directories: Vec<String>,
}

impl Cluster {
    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn tablespace(&self) -> PathBuf {
        self.dir.path().join("ts")
    }

    /// A file with content of its own.
    pub(super) fn write(&self, path: &str, bytes: usize) {
        write(&self.data_dir(), path, bytes);
    }
}

pub(super) fn content(path: &str, bytes: usize) -> Vec<u8> {
    path.bytes().cycle().take(bytes).collect()
}

fn write(root: &Path, path: &str, bytes: usize) {
    let full = root.join(path);
    std::fs::create_dir_all(full.parent().expect("a parent")).expect("created");
    std::fs::write(full, content(path, bytes)).expect("written");
}

pub(super) fn cluster() -> Cluster {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let long = format!("base/5/{}", "l".repeat(120));
    let kept: Vec<String> = [
        "PG_VERSION",
        "postgresql.auto.conf",
        "current_logfiles",
        "base/5/1259",
        "base/5/1259_fsm",
        "base/5/1259.1",
        "base/1/PG_VERSION",
        "base/5/PG_VERSION",
        "base/5/16384_init",
        "base/5/16384_fsm_notes",
        "global/t1_1",
        "pg_xact/0000",
        "mine/log/kept",
        "pg_tblspc/16400/PG_15_202209061/5/16401",
        "pg_tblspc/16401/PG_15_202209061/5/16402",
        "pg_tblspc/16402/PG_15_202209061/5/16403",
        &long,
    ]
    .map(str::to_owned)
    .to_vec();
    let left_out = [
        "postmaster.pid",
        "postmaster.opts",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "standby.signal",
        "recovery.signal",
        "recovery.conf",
        "log/postgresql.log",
        "pg_dynshmem/x",
        "pg_notify/0000",
        "pg_replslot/slot/state",
        "pg_serial/0000",
        "pg_snapshots/x",
        "pg_stat_tmp/x",
        "pg_subtrans/0000",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/5/pg_internal.init",
        "global/pg_internal.init.77",
        "base/5/16384",
        "base/5/16384.1",
        "base/5/16384_vm",
        "base/5/t3_16390",
        "base/5/t3_16390_fsm.1",
        "pg_tblspc/16400/PG_14_202107181/5/1",
        "pg_tblspc/16400/lost+found/x",
        "pg_tblspc/16400/notes",
        "pg_tblspc/16402/PG_14_202107181/5/1",
        "pg_tblspc/16402/lost+found/x",
        "pg_tblspc/16402/notes",
        "pg_tblspc/16400/PG_15_202209061/5/t3_16390",
        "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/x",
    ];
    let (ts, wal) = (dir.path().join("ts"), dir.path().join("wal"));
    for place in [&ts, &wal, &data.join("pg_tblspc"), &data.join("pg_twophase")] {
        std::fs::create_dir_all(place).expect("created");
    }
    symlink(&ts, data.join("pg_tblspc/16400")).expect("linked");
    // 16402 is an in-place one. Against all advice, but it happens: a tablespace inside the data directory.
    std::fs::create_dir_all(data.join("inner")).expect("created");
    symlink(data.join("inner"), data.join("pg_tblspc/16401")).expect("linked");
    for (index, path) in kept.iter().map(String::as_str).chain(left_out).enumerate() {
        write(&data, path, index * 700);
    }
    write(dir.path(), "wal/000000010000000000000001", 100);
    symlink(&wal, data.join("pg_wal")).expect("linked");
    symlink("/etc/hostname", data.join("link.conf")).expect("linked");
    nix::unistd::mkfifo(&data.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    let control = crate::control_file::tests::sample(16 << 20, 288);
    std::fs::write(data.join("global/pg_control"), control).expect("written");
    let directories = [
        "base",
        "base/1",
        "base/5",
        "global",
        "inner",
        "log",
        "mine",
        "mine/log",
        "pg_dynshmem",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
        "pg_tblspc",
        "pg_tblspc/16400/PG_15_202209061",
        "pg_tblspc/16400/PG_15_202209061/5",
        "pg_tblspc/16401/PG_15_202209061",
        "pg_tblspc/16401/PG_15_202209061/5",
        "pg_tblspc/16402",
        "pg_tblspc/16402/PG_15_202209061",
        "pg_tblspc/16402/PG_15_202209061/5",
        "pg_twophase",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_xact",
    ]
    .map(str::to_owned)
    .to_vec();
    Cluster { dir, kept, directories }
}

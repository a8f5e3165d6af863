//! Helpers that the tests of the binary share.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

pub const SEGMENT: &str = "000000010000000000000003";
pub const SEGMENT_BYTES: usize = 1 << 20;

/// A directory that looks like a data directory, with a store and a home beside it.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Place {
            dir: tempfile::tempdir().expect("a directory"),
        };
        for name in ["store", "home", "data/pg_wal", "data/global", "data/base"] {
            std::fs::create_dir_all(place.path(name)).expect("created");
        }
        place.write("data/PG_VERSION", b"15\n", 0o600);
        place
    }

    /// With a segment in its `pg_wal`.
    pub fn with_segment() -> Self {
        let place = Place::new();
        place.write(&format!("data/pg_wal/{SEGMENT}"), &segment(), 0o600);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8], mode: u32) {
        std::fs::write(self.path(name), content).expect("written");
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).expect("set");
    }

    /// The path of the store.
    pub fn store(&self) -> String {
        self.path("store").display().to_string()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.store())
    }

    /// The binary in the data directory, with nothing of the test's own environment.
    pub fn command(&self, args: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walarchive"));
        command.args(args).current_dir(self.path("data")).env_clear();
        command.env("HOME", self.path("home")).envs(environment.iter().copied());
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args, &[]).output().expect("run")
    }

    pub fn run(&self, args: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
        code(&self.command(args, environment).output().expect("run"))
    }

    pub fn push(&self, environment: &[(&str, &str)]) -> (i32, String) {
        self.run(&["wal-push", &format!("pg_wal/{SEGMENT}")], environment)
    }

    pub fn fetch(&self, storage: &str) -> (i32, String) {
        self.run(
            &["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG", "--storage", storage],
            &[],
        )
    }

    /// The files in the store's folder of WAL.
    pub fn stored(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.path("store/wal_005")) else {
            return Vec::new();
        };
        let names = folder.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
        names.collect()
    }
}

/// The exit code, and what was said on stderr.
pub fn code(output: &Output) -> (i32, String) {
    let code = output.status.code().expect("an exit code");
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A segment as far as anybody looks at it here.
pub fn segment() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SEGMENT_BYTES).map(|at| (at % 251) as u8).collect();
    bytes[..40].fill(0);
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(3 * SEGMENT_BYTES as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&7u64.to_le_bytes());
    bytes[32..36].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
    bytes
}

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::server_command;
use crate::run::{Output, run};

/// An installed PostgreSQL with walarchive.
#[derive(Debug, Clone)]
pub struct Pg {
    bindir: PathBuf,
    sharedir: PathBuf,
    major: u32,
}

impl Pg {
    /// The one that `WALARCHIVE_TEST_PG_CONFIG` names, else Debian's PostgreSQL 15.
    pub fn find() -> Pg {
        let pg_config = std::env::var_os("WALARCHIVE_TEST_PG_CONFIG")
            .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin/pg_config"), PathBuf::from);
        Pg::of(&pg_config)
    }

    /// The one that this `pg_config` belongs to.
    pub fn of(pg_config: &Path) -> Pg {
        let ask = |what: &str| run(server_command(pg_config).arg(what)).expect_success();
        // "PostgreSQL 15.20 (Debian …)", "PostgreSQL 19devel"
        let version = ask("--version");
        let digits = version.split_whitespace().nth(1).unwrap_or_default();
        let digits = digits.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        let major = digits.parse().unwrap_or_else(|_| panic!("no version in {version:?}"));
        Pg {
            bindir: ask("--bindir").into(),
            sharedir: ask("--sharedir").into(),
            major,
        }
    }

    /// The directory of its programs.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether it has a program of this name, such as `pg_amcheck`.
    pub fn has_program(&self, name: &str) -> bool {
        self.bindir.join(name).is_file()
    }

    /// Whether an extension can be created in it. The builds from PyPI lack contrib, and amcheck with it.
    pub fn has_extension(&self, name: &str) -> bool {
        self.sharedir
            .join("extension")
            .join(format!("{name}.control"))
            .is_file()
    }

    /// A program from its bin directory, to be run as the server's user. The environment is empty but for the locale C,
    /// the time zone UTC and a PATH that begins with that directory.
    pub fn program(&self, name: &str) -> Command {
        let mut command = server_command(self.bindir.join(name));
        command.env("PATH", self.path_variable());
        command
    }

    /// `walarchive` with these arguments, run to its end as the server's user.
    #[track_caller]
    pub fn walarchive(&self, args: &[&str]) -> Output {
        run(self.program("walarchive").args(args))
    }

    /// The PATH of servers: a restore_command can say `walarchive` without a directory.
    fn path_variable(&self) -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin", self.bindir.display())
    }
}

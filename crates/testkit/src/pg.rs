use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::server_command;
use crate::run::{Output, run};

/// An installed PostgreSQL with walarchive, or an older server beside it.
#[derive(Debug, Clone)]
pub struct Pg {
    bindir: PathBuf,
    /// The directory of the programs that it does not have itself.
    clients: PathBuf,
    sharedir: PathBuf,
    major: u32,
}

impl Pg {
    /// The one in the directory `WALARCHIVE_TEST_OLD_PG`, if that is set; else the one that `WALARCHIVE_TEST_PG_CONFIG` names, else
    /// Debian's PostgreSQL 15.
    pub fn find() -> Pg {
        let pg_config = std::env::var_os("WALARCHIVE_TEST_PG_CONFIG")
            .map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin/pg_config"), PathBuf::from);
        let pg = Pg::of(&pg_config);
        match std::env::var_os("WALARCHIVE_TEST_OLD_PG") {
            Some(old) => pg.with_servers_of(Path::new(&old)),
            None => pg,
        }
    }

    /// The old one in a directory, which has the server and no clients: those of this one are used, and its `walarchive`.
    fn with_servers_of(self, old: &Path) -> Pg {
        let bindir = old.join("bin");
        let version = run(server_command(bindir.join("postgres")).arg("--version")).expect_success();
        // "postgres (PostgreSQL) 9.6.24"
        Pg {
            major: major_of(&version, 2),
            sharedir: old.join("share/postgresql"),
            clients: self.bindir,
            bindir,
        }
    }

    /// The one that this `pg_config` belongs to.
    pub fn of(pg_config: &Path) -> Pg {
        let ask = |what: &str| run(server_command(pg_config).arg(what)).expect_success();
        // "PostgreSQL 15.20 (Debian …)", "PostgreSQL 19devel"
        let bindir = PathBuf::from(ask("--bindir"));
        Pg {
            clients: bindir.clone(),
            bindir,
            sharedir: ask("--sharedir").into(),
            major: major_of(&ask("--version"), 1),
        }
    }

    /// The directory of its programs.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// The major version, such as 15; 9 for 9.6.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether there is a program of this name, such as `pg_amcheck`.
    pub fn has_program(&self, name: &str) -> bool {
        self.path_of(name).is_file()
    }

    /// Where the program of this name is.
    pub fn path_of(&self, program: &str) -> PathBuf {
        let own = self.bindir.join(program);
        match own.is_file() {
            true => own,
            false => self.clients.join(program),
        }
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
        let mut command = server_command(self.path_of(name));
        command.env("PATH", self.path_variable());
        command
    }

    /// Commands for a shell, to be run in the same way. The first one that fails ends them.
    pub fn shell(&self, commands: &str) -> Command {
        let mut command = server_command("/bin/sh");
        command.env("PATH", self.path_variable()).args(["-euc", commands]);
        command
    }

    /// `walarchive` with these arguments, run to its end as the server's user.
    #[track_caller]
    pub fn walarchive(&self, args: &[&str]) -> Output {
        run(self.program("walarchive").args(args))
    }

    /// The PATH of servers: a restore_command can say `walarchive` without a directory.
    fn path_variable(&self) -> String {
        let own = [&self.bindir, &self.clients].map(|directory| directory.display().to_string());
        format!("{}:/usr/local/bin:/usr/bin:/bin", own.join(":"))
    }
}

/// The major version, from the word with this number in a program's output.
fn major_of(version: &str, word: usize) -> u32 {
    let digits = version.split_whitespace().nth(word).unwrap_or_default();
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no version in {version:?}"))
}

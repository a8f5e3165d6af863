//! PostgreSQL's programs, of the major version of the backup.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use walarchive_core::{Error, Result, version};

/// A program that says its version does so at once.
const DEADLINE: Duration = Duration::from_secs(30);

/// The directory with the programs.
#[derive(Debug, Clone)]
pub struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// The one that is given; else beside this program, on PATH, and where the packages of PostgreSQL put them.
    pub async fn find(given: Option<&Path>, major: u32) -> Result<Self> {
        let name = version::name(major);
        if let Some(bin) = given {
            return match major_in(bin).await {
                Some(found) if found == major => Programs::at(bin),
                Some(found) => Err(Error::refused(
                    format!(
                        "the programs in \"{}\" are of PostgreSQL {}, the backup is of {name}",
                        bin.display(),
                        version::name(found)
                    ),
                    "Give the directory of the right version with --pg-bin.",
                )),
                None => Err(Error::refused(
                    format!("there is no program postgres in \"{}\" that runs", bin.display()),
                    "Give the directory that pg_config --bindir prints with --pg-bin.",
                )),
            };
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.to_owned()));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = beside.into_iter().chain(std::env::split_paths(&path)).chain([
            PathBuf::from(format!("/usr/lib/postgresql/{name}/bin")),
            PathBuf::from(format!("/usr/pgsql-{name}/bin")),
            PathBuf::from("/usr/local/pgsql/bin"),
        ]);
        for bin in places {
            if major_in(&bin).await == Some(major) {
                return Programs::at(&bin);
            }
        }
        Err(Error::refused(
            format!("the programs of PostgreSQL {name} were not found"),
            "Install the server's package of that version, or give their directory with --pg-bin.",
        ))
    }

    /// They are called from other directories, too.
    fn at(bin: &Path) -> Result<Self> {
        let bin = std::path::absolute(bin).map_err(|error| Error::io("find", bin, error))?;
        Ok(Programs { bin })
    }

    /// The path of a program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// Is the program there, and does it run?
    pub async fn has(&self, program: &str) -> bool {
        said(&self.path(program)).await.is_some()
    }

    /// A call of it: without the variables that lead to another server, and without input.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// The major version of the server in a directory.
async fn major_in(bin: &Path) -> Option<u32> {
    let said = said(&bin.join("postgres")).await?;
    let number = said
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let first = parts.next()?;
    match first {
        "9" => version::parse(&format!("9.{}", parts.next()?)),
        first => version::parse(first),
    }
}

/// The answer to --version.
async fn said(program: &Path) -> Option<String> {
    if !program.is_file() {
        return None;
    }
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.ok()?.ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

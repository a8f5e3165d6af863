//! What is looked at, besides the recovery itself.

use std::fs::File;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::process::Command;
use walarchive_core::data_dir::BACKUP_MANIFEST;
use walarchive_core::repository::drills::{DrillCheck, DrillStatus};
use walarchive_core::{Error, Lsn, Result};

use super::programs::Programs;
use super::scratch::Scratch;
use super::server::{Server, tail};

/// The first version with pg_amcheck.
const AMCHECK_SINCE: u32 = 14;
/// The first version whose pg_checksums can check.
const CHECKSUMS_SINCE: u32 = 12;
/// The first version in which functions have "wal" in their names.
const WAL_SINCE: u32 = 10;

/// A database or a role may have other settings for its sessions.
pub const SESSION: &str =
    "-c session_preload_libraries= -c statement_timeout=0 -c lock_timeout=0 -c search_path=pg_catalog,pg_temp";

/// A check that has just ended.
pub fn check(name: &str, begun: Instant, status: DrillStatus, detail: impl Into<String>) -> DrillCheck {
    DrillCheck {
        check: name.to_owned(),
        status,
        detail: detail.into(),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// One that was not made.
pub fn skipped(name: &str, why: &str) -> DrillCheck {
    check(name, Instant::now(), DrillStatus::Skipped, why)
}

/// Run a program to its end: the check is what it says last. Its output goes to a file, and takes no memory however long it is.
pub async fn program(name: &str, scratch: &Scratch, mut command: Command) -> Result<DrillCheck> {
    let begun = Instant::now();
    let path = scratch.file(&format!("{name}.out"));
    let failed = |error| Error::io("create", &path, error);
    let output = File::create(&path).map_err(failed)?;
    let copy = output.try_clone().map_err(failed)?;
    command.stdout(output).stderr(copy);
    let ended = command.status().await;
    let status = ended.map_err(|error| Error::io("run", command.as_std().get_program(), error))?;
    let said = tail(&path);
    Ok(match status.success() {
        true => check(name, begun, DrillStatus::Ok, said),
        false if said.is_empty() => check(name, begun, DrillStatus::Failed, format!("it ended with {status}")),
        false => check(name, begun, DrillStatus::Failed, said),
    })
}

/// Compare the directory with the backup's manifest, by PostgreSQL's own program.
pub async fn manifest(programs: &Programs, scratch: &Scratch) -> Result<DrillCheck> {
    const NAME: &str = "pg_verifybackup";
    if !scratch.data().join(BACKUP_MANIFEST).exists() {
        return Ok(skipped(NAME, "the backup has no manifest"));
    }
    if !programs.has(NAME).await {
        return Ok(skipped(NAME, "the program is not there, or does not run"));
    }
    let mut command = programs.command(NAME);
    command.arg("-n").arg(scratch.data());
    program(NAME, scratch, command).await
}

/// The point that a server has recovered to.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The end of the WAL that was replayed.
    pub lsn: Lsn,
    /// The timeline that began there.
    pub timeline: u32,
    /// When the last transaction ended that was replayed.
    pub last: Option<DateTime<Utc>>,
}

/// A role that can log in, and the point that the server has recovered to.
pub async fn point(server: &Server, major: u32, role: Option<&str>) -> Result<(String, Point)> {
    let word = if major < WAL_SINCE {
        "xlog_replay_location"
    } else {
        "wal_replay_lsn"
    };
    let sql = format!(
        "SELECT pg_last_{word}(), timeline_id, extract(epoch FROM pg_last_xact_replay_timestamp()) FROM pg_control_checkpoint()"
    );
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let roles = match role {
        Some(role) => vec![role.to_owned()],
        None => std::iter::once("postgres".to_owned())
            .chain(own.map(|user| user.name))
            .collect(),
    };
    let mut said = String::new();
    for role in roles {
        let mut psql = server.client("psql", Some(&role));
        psql.env("PGOPTIONS", SESSION)
            .args(["-XqAt", "-d", "template1", "-c", &sql]);
        let output = psql.output().await.map_err(|error| Error::io("run", "psql", error))?;
        if output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let found = parse(text.trim()).ok_or_else(|| {
                Error::server(
                    format!("the restored server says {:?} of where it is", text.trim()),
                    "Look at the server of that backup.",
                )
            })?;
            return Ok((role, found));
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    let message = format!("could not connect to the restored server: {said}");
    let hint = "Give the name of a superuser of that cluster with --username.";
    let is_no_role = said.contains("role \"") || said.contains("permission denied");
    Err(match is_no_role {
        true => Error::refused(message, hint),
        false => Error::server(message, hint),
    })
}

fn parse(row: &str) -> Option<Point> {
    let mut fields = row.split('|');
    let (lsn, timeline, last) = (fields.next()?, fields.next()?, fields.next()?);
    let seconds: Option<f64> = last.parse().ok();
    Some(Point {
        lsn: lsn.parse().ok()?,
        timeline: timeline.parse().ok()?,
        last: seconds.and_then(|seconds| DateTime::from_timestamp_micros((seconds * 1e6).round() as i64)),
    })
}

/// Let amcheck look at every table and index of every database.
pub async fn amcheck(
    programs: &Programs,
    scratch: &Scratch,
    server: &Server,
    major: u32,
    role: &str,
) -> Result<DrillCheck> {
    const NAME: &str = "pg_amcheck";
    if major < AMCHECK_SINCE {
        return Ok(skipped(NAME, "PostgreSQL has it from 14 on"));
    }
    if !programs.has(NAME).await {
        return Ok(skipped(NAME, "the program is not there"));
    }
    let mut look = server.client("psql", Some(role));
    let sql = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
    look.env("PGOPTIONS", SESSION)
        .args(["-XqAt", "-d", "template1", "-c", sql]);
    let found = look.output().await.map_err(|error| Error::io("run", "psql", error))?;
    if found.status.success() && found.stdout.trim_ascii() == b"0" {
        return Ok(skipped(NAME, "the extension amcheck is not installed"));
    }
    let mut command = server.client(NAME, Some(role));
    command
        .env("PGOPTIONS", SESSION)
        .args(["--all", "--install-missing", "--no-password"]);
    program(NAME, scratch, command).await
}

/// Look at the checksum of each page. The server has ended.
pub async fn checksums(programs: &Programs, scratch: &Scratch, major: u32) -> Result<DrillCheck> {
    const NAME: &str = "pg_checksums";
    if major < CHECKSUMS_SINCE {
        return Ok(skipped(NAME, "PostgreSQL has it from 12 on"));
    }
    let control = walarchive_core::control_file::ControlFile::read(&scratch.data())?;
    if !control.data_checksums {
        return Ok(skipped(NAME, "the cluster has no data checksums"));
    }
    if !programs.has(NAME).await {
        return Ok(skipped(NAME, "the program is not there"));
    }
    let mut command = programs.command(NAME);
    command.arg("--check").arg("-D").arg(scratch.data());
    program(NAME, scratch, command).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_answer_is_read() {
        let found = parse("0/30000A0|2|1790000000.123456").expect("a point");
        assert_eq!((found.lsn, found.timeline), (Lsn(0x30000A0), 2));
        assert_eq!(
            found.last.map(|time| time.timestamp_micros()),
            Some(1_790_000_000_123_456)
        );
        assert_eq!(parse("0/30000A0|2|").expect("a point").last, None);
        assert!(parse("").is_none() && parse("|2|").is_none());
    }
}

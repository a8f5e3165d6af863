//! The dry run.

use std::fmt;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::directory::tablespaces::Tablespace;
use super::estimate::{Estimate, Part};
use super::options::RestoreMode;
use super::outlook::Outlook;
use super::plan::RestorePlan;
use super::settings::RecoverySettings;
use crate::data_dir::{RECOVERY_CONF, has_recovery_conf, wal_directory_name};
use crate::printable::counted;
use crate::repository::inventory::MissingSegments;

impl RestorePlan {
    /// Bytes to download.
    pub fn stored_bytes(&self) -> u64 {
        self.downloads.iter().map(|download| download.bytes).sum()
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show_backup(f)?;
        self.show_places(f)?;
        self.show_existing(f)?;
        self.show_databases(f)?;
        self.show_download(f)?;
        if self.archive_off {
            writeln!(f, "archiving:    off, in postgresql.auto.conf")?;
        }
        show_recovery(f, self.recovery.as_ref(), self.major)?;
        if let Some(outlook) = &self.outlook {
            show_outlook(f, outlook)?;
        }
        if let Some(estimate) = &self.estimate {
            show_estimate(f, estimate)?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note:         {note}"))
    }
}

impl RestorePlan {
    fn show_backup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinel = &self.sentinel;
        writeln!(f, "backup:       {} in {}", self.backup, self.store.url())?;
        writeln!(
            f,
            "taken:        {} to {}, LSN {} to {}",
            shown(sentinel.start_time),
            shown(sentinel.finish_time),
            sentinel.start_lsn,
            sentinel.finish_lsn
        )?;
        self.ancestors
            .iter()
            .try_for_each(|ancestor| writeln!(f, "based on:     {ancestor}"))
    }

    fn show_places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "directory:    {}", self.target.display())?;
        if let Some(wal) = &self.wal_directory {
            let name = wal_directory_name(self.major);
            writeln!(f, "{:<13} a link to {}", format!("{name}:"), wal.display())?;
        }
        for link in &self.links {
            writeln!(
                f,
                "link:         {} to {} (was to {})",
                link.path,
                link.location.display(),
                link.original.escape_debug()
            )?;
        }
        self.tablespaces
            .iter()
            .try_for_each(|tablespace| self.show_tablespace(f, tablespace))
    }

    fn show_tablespace(&self, f: &mut fmt::Formatter<'_>, tablespace: &Tablespace) -> fmt::Result {
        match &tablespace.location {
            Some(location) if Path::new(&tablespace.original) == location => {
                writeln!(f, "tablespace:   {} at {}", tablespace.oid, location.display())?;
            }
            Some(location) => writeln!(
                f,
                "tablespace:   {} at {} (was {})",
                tablespace.oid,
                location.display(),
                tablespace.original
            )?,
            None => writeln!(f, "tablespace:   {} inside the data directory", tablespace.oid)?,
        }
        if !tablespace.confirmed && self.mode != RestoreMode::VerifyOnly {
            writeln!(
                f,
                "    that place is not confirmed: only the repository names it; see --tablespace-map-original"
            )?;
        }
        Ok(())
    }

    fn show_existing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(existing) = &self.existing else { return Ok(()) };
        writeln!(
            f,
            "there:        {}, {} bytes as in the backup, which stay; fetched: {}; not in the backup and removed: {}",
            counted(existing.kept_files, "file"),
            existing.kept_bytes,
            self.fetched_files,
            existing.removed
        )
    }

    fn show_databases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.databases.is_all() {
            return Ok(());
        }
        let oids: Vec<String> = self.databases.wanted().map(|oid| oid.to_string()).collect();
        writeln!(
            f,
            "databases:    {}; relations of others come back as files of zeros, to be dropped",
            oids.join(", ")
        )?;
        if self.ignores_invalid_pages() {
            writeln!(
                f,
                "their pages:  recovery goes on at them, by ignore_invalid_pages = on in postgresql.auto.conf"
            )?;
        }
        Ok(())
    }

    fn show_download(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "download:     {}, {} bytes, {} at a time",
            counted(
                self.downloads.iter().map(|download| download.tars).sum::<usize>(),
                "tar"
            ),
            self.stored_bytes(),
            self.concurrency
        )?;
        for download in self.downloads.iter().filter(|_| self.downloads.len() > 1) {
            let (tars, bytes) = (counted(download.tars, "tar"), download.bytes);
            writeln!(f, "    {tars}, {bytes} bytes of {}", download.backup)?;
        }
        writeln!(f, "unpacked:     {} bytes", self.sentinel.uncompressed_size)?;
        match &self.manifest {
            Some(manifest) => writeln!(
                f,
                "checked with: the backup manifest ({})",
                counted(manifest.files, "file")
            ),
            None => writeln!(f, "checked with: the checksums of the tars only"),
        }
    }
}

fn show_recovery(f: &mut fmt::Formatter<'_>, recovery: Option<&RecoverySettings>, major: u32) -> fmt::Result {
    let Some(recovery) = recovery else {
        return writeln!(f, "recovery:     no settings are written");
    };
    match has_recovery_conf(major) {
        true => writeln!(f, "recovery:     in {RECOVERY_CONF}:")?,
        false => writeln!(
            f,
            "recovery:     {}, and in postgresql.auto.conf:",
            recovery.mode.file_name()
        )?,
    }
    recovery
        .lines(major)
        .iter()
        .try_for_each(|line| writeln!(f, "    {line}"))
}

fn show_outlook(f: &mut fmt::Formatter<'_>, outlook: &Outlook) -> fmt::Result {
    write!(
        f,
        "its WAL:      goes on to LSN {} on timeline {}",
        outlook.end, outlook.timeline
    )?;
    match outlook.last_time {
        Some(time) => writeln!(f, ", the last transaction in it at {}", shown(time))?,
        None => writeln!(f)?,
    }
    if let Some(stored) = outlook.tail_stored {
        writeln!(
            f,
            "its tail:     the last of it is of a segment that is not archived whole, stored at {}",
            shown(stored)
        )?;
    }
    let (Some(first), Some(last)) = (outlook.wal.first(), outlook.wal.last()) else {
        return Ok(());
    };
    let count: u64 = outlook.wal.iter().map(|range| range.count).sum();
    writeln!(
        f,
        "to replay:    {count} WAL segments, {} to {}, {} bytes",
        first.first, last.last, outlook.wal_bytes
    )?;
    for range in outlook.wal.iter().filter(|_| outlook.wal.len() > 1) {
        writeln!(
            f,
            "    timeline {}: {} to {}",
            range.first.timeline, range.first, range.last
        )?;
    }
    let Some(hole) = &outlook.hole else { return Ok(()) };
    for missing in std::iter::once(&hole.missing).chain(&hole.others) {
        writeln!(f, "missing:      {}", MissingSegments::from(*missing))?;
    }
    Ok(())
}

fn show_estimate(f: &mut fmt::Formatter<'_>, estimate: &Estimate) -> fmt::Result {
    match estimate.seconds() {
        Some(seconds) => writeln!(f, "time:         about {}", duration(seconds))?,
        None => writeln!(f, "time:         not known")?,
    }
    let part = |f: &mut fmt::Formatter<'_>, name: &str, part: &Part| match part.seconds {
        Some(seconds) => writeln!(f, "    {name}: {}; {}", duration(seconds), part.basis),
        None => writeln!(f, "    {name}: {}", part.basis),
    };
    part(f, "the backup", &estimate.backup)?;
    estimate.wal.as_ref().map_or(Ok(()), |wal| part(f, "the WAL", wal))
}

/// With the two largest units.
fn duration(seconds: f64) -> String {
    let all = seconds.max(0.0).ceil() as u64;
    match (all / 3600, all / 60 % 60, all % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{seconds:.1} s"),
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn shown(time: DateTime<Utc>) -> impl fmt::Display {
    time.format("%Y-%m-%d %H:%M:%S+00")
}

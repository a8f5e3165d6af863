//! The dry run.

use std::fmt;
use std::path::Path;

use super::options::RestoreMode;
use super::plan::RestorePlan;
use crate::stored::tars::Tar;

impl RestorePlan {
    /// The tars to download.
    pub fn tars(&self) -> impl Iterator<Item = &Tar> {
        self.levels.iter().flat_map(|level| &level.tars)
    }

    /// The files that are fetched, if it is known which there are.
    pub fn fetched_files(&self) -> u64 {
        let Some(table) = &self.table else { return 0 };
        let taken = |file: &usize| {
            let taken = self.levels.iter().any(|level| level.taken.get(*file).is_some());
            // Of directories there are entries too, but none in the manifest.
            taken && (!table.has_manifest || table.is_listed(*file))
        };
        (0..table.len()).filter(taken).count() as u64
    }

    /// Bytes to download.
    pub fn stored_bytes(&self) -> u64 {
        self.tars().map(|tar| tar.size).sum()
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinel = &self.sentinel;
        writeln!(f, "backup:       {} in {}", self.backup, self.store.url())?;
        writeln!(
            f,
            "taken:        {} to {}, LSN {} to {}",
            sentinel.start_time.format("%Y-%m-%d %H:%M:%S+00"),
            sentinel.finish_time.format("%Y-%m-%d %H:%M:%S+00"),
            sentinel.start_lsn,
            sentinel.finish_lsn
        )?;
        self.ancestors
            .iter()
            .try_for_each(|ancestor| writeln!(f, "based on:     {ancestor}"))?;
        writeln!(f, "directory:    {}", self.target.display())?;
        if let Some(wal) = &self.wal_directory {
            writeln!(f, "pg_wal:       a link to {}", wal.display())?;
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
        for tablespace in &self.tablespaces {
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
        }
        if let Some(existing) = &self.existing {
            writeln!(
                f,
                "there:        {} files, {} bytes are as in the backup and are kept; {} are fetched; {} are not in it and are removed",
                existing.kept_files,
                existing.kept_bytes,
                self.fetched_files(),
                existing.removed
            )?;
        }
        if !self.databases.is_all() {
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
        }
        writeln!(
            f,
            "download:     {} tars, {} bytes, {} at a time",
            self.tars().count(),
            self.stored_bytes(),
            self.concurrency
        )?;
        for level in self.levels.iter().filter(|_| self.levels.len() > 1) {
            let bytes: u64 = level.tars.iter().map(|tar| tar.size).sum();
            writeln!(f, "    {} tars, {bytes} bytes of {}", level.tars.len(), level.backup)?;
        }
        writeln!(f, "unpacked:     {} bytes", sentinel.uncompressed_size)?;
        match &self.manifest {
            Some(manifest) => writeln!(f, "checked with: the backup manifest ({} files)", manifest.files)?,
            None => writeln!(f, "checked with: the checksums of the tars only")?,
        }
        if self.archive_off {
            writeln!(f, "archiving:    off, in postgresql.auto.conf")?;
        }
        match &self.recovery {
            None => writeln!(f, "recovery:     no settings are written")?,
            Some(recovery) => {
                writeln!(
                    f,
                    "recovery:     {}, and in postgresql.auto.conf:",
                    recovery.mode.file_name()
                )?;
                recovery
                    .settings()
                    .iter()
                    .try_for_each(|line| writeln!(f, "    {line}"))?;
            }
        }
        if let Some(outlook) = &self.outlook {
            write!(
                f,
                "its WAL:      goes on to LSN {} on timeline {}",
                outlook.end, outlook.timeline
            )?;
            match outlook.last_time {
                Some(time) => writeln!(
                    f,
                    ", the last transaction in it at {}",
                    time.format("%Y-%m-%d %H:%M:%S+00")
                )?,
                None => writeln!(f)?,
            }
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note:         {note}"))
    }
}

//! The dry run.

use std::fmt;
use std::path::Path;

use super::plan::{RestorePlan, Tar};

impl RestorePlan {
    /// The tars to download.
    pub fn tars(&self) -> impl Iterator<Item = &Tar> {
        self.levels.iter().flat_map(|level| &level.tars)
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
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note:         {note}"))
    }
}

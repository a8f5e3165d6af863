//! Find out whose WAL file this is. For the binary, which has no server to ask.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::control_file;
use crate::control_file::ControlFile;
use crate::data_dir::{PG_CONTROL, above_pg_wal};
use crate::error::{Error, Result};
use crate::repository::cluster::ClusterIdentity;
use crate::wal::{FirstPage, LONG_HEADER_BYTES, SegmentSize};

/// The cluster that a WAL file in some `pg_wal` belongs to: as `global/pg_control` beside that directory says, else as the
/// file's own first page does.
pub fn identity_of(path: &Path) -> Result<ClusterIdentity> {
    if let Some(data_dir) = data_directory_near(path) {
        let control = ControlFile::read(&data_dir)?;
        let major_version = control_file::read_major_version(&data_dir)?;
        return Ok(ClusterIdentity {
            system_identifier: control.system_identifier,
            major_version,
            segment_size: control.segment_size,
        });
    }
    let mut header = [0; LONG_HEADER_BYTES];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .map_err(|error| Error::io("read", path, error))?;
    let page = FirstPage::parse(&header);
    let unknown = || Error::InvalidWal {
        file: path.display().to_string(),
        reason: "It has no WAL page header, and is not in a data directory that would show which cluster it is from."
            .to_owned(),
    };
    Ok(ClusterIdentity {
        system_identifier: page.system_identifier,
        major_version: page.major_version().ok_or_else(unknown)?,
        segment_size: SegmentSize::new(page.segment_bytes.into()).map_err(|_| unknown())?,
    })
}

/// The system identifier of the data directory whose `pg_wal` has or will have the file, if there is one.
pub(super) fn system_identifier_near(path: &Path) -> Option<u64> {
    control_near(path).map(|control| control.system_identifier)
}

/// The same of the size of its segments.
pub(super) fn segment_size_near(path: &Path) -> Option<SegmentSize> {
    control_near(path).map(|control| control.segment_size)
}

fn control_near(path: &Path) -> Option<ControlFile> {
    ControlFile::read(&data_directory_near(path)?).ok()
}

fn data_directory_near(path: &Path) -> Option<PathBuf> {
    above_pg_wal(path).filter(|data_dir| data_dir.join(PG_CONTROL).is_file())
}

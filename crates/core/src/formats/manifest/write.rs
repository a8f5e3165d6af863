//! Writing a manifest as a stream: it has a line a file, and a cluster may have millions.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ManifestFile, WalRange, hex};

/// The first major version whose manifests are of version 2, which know the system identifier.
const VERSION_2_SINCE: u32 = 17;

/// Writes one manifest. It must be [finished](ManifestWriter::finish), else it is truncated.
#[derive(Debug)]
pub struct ManifestWriter<W: Write> {
    sink: W,
    digest: Sha256,
    files: u64,
}

impl ManifestFile {
    /// Its entry in a manifest: text that may be kept until it can be written. It holds no line feed.
    pub fn line(&self) -> String {
        let path = match self.path.to_str() {
            Some(text) => format!("\"Path\": {}", serde_json::Value::from(text)),
            None => format!("\"Encoded-Path\": \"{}\"", hex(self.path.as_os_str().as_bytes())),
        };
        let checksum = self.checksum.as_ref().map_or_else(String::new, |(algorithm, bytes)| {
            format!(
                ", \"Checksum-Algorithm\": \"{}\", \"Checksum\": \"{}\"",
                algorithm.name(),
                hex(bytes)
            )
        });
        format!(
            "{{ {path}, \"Size\": {}, \"Last-Modified\": \"{}\"{checksum} }}",
            self.size,
            self.last_modified.format("%Y-%m-%d %H:%M:%S GMT"),
        )
    }

    /// The path in such an entry; empty if it is not UTF-8.
    pub fn path_of_line(line: &str) -> io::Result<String> {
        #[derive(Deserialize)]
        struct PathOnly {
            #[serde(rename = "Path", default)]
            path: String,
        }
        let PathOnly { path } = serde_json::from_str(line)?;
        Ok(path)
    }
}

impl<W: Write> ManifestWriter<W> {
    /// Begin the manifest of a cluster of this PostgreSQL major version (15, not 150018).
    pub fn new(sink: W, major_version: u32, system_identifier: u64) -> io::Result<Self> {
        let mut writer = ManifestWriter {
            sink,
            digest: Sha256::new(),
            files: 0,
        };
        if major_version >= VERSION_2_SINCE {
            writer.put(&format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n"
            ))?;
        } else {
            writer.put("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?;
        }
        writer.put("\"Files\": [")?;
        Ok(writer)
    }

    /// Add a file.
    pub fn file(&mut self, file: &ManifestFile) -> io::Result<()> {
        self.line(&file.line())
    }

    /// Add a file, from [`ManifestFile::line`].
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.put(if self.files == 0 { "\n" } else { ",\n" })?;
        self.files += 1;
        self.put(line)
    }

    /// Write the WAL ranges and the manifest's own checksum, flush, and give the sink back.
    pub fn finish(mut self, ranges: &[WalRange]) -> io::Result<W> {
        self.put("\n],\n\"WAL-Ranges\": [")?;
        for (index, range) in ranges.iter().enumerate() {
            self.put(&format!(
                "{}\n{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                if index == 0 { "" } else { "," },
                range.timeline,
                range.start,
                range.end
            ))?;
        }
        self.put("\n],\n")?;
        let digest = hex(&std::mem::take(&mut self.digest).finalize());
        self.sink
            .write_all(format!("\"Manifest-Checksum\": \"{digest}\"}}\n").as_bytes())?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.digest.update(text.as_bytes());
        self.sink.write_all(text.as_bytes())
    }
}

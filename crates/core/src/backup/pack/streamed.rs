//! Packing what can be read once only: it comes from another machine.

use std::io::Read;
use std::path::Path;

use super::packer::{Packer, described};
use crate::backup::delta::is_paged;
use crate::backup::read::walk::Attributes;
use crate::error::{Error, Result};
use crate::formats::files_metadata::{AllVisible, FileDescription};
use crate::page::{PAGE_BYTES, Page};

impl Packer {
    /// Add a file of `size` bytes that are read one after the other, and only once.
    pub(crate) fn streamed(
        &mut self,
        path: &Path,
        size: u64,
        owner: &Attributes,
        reader: &mut impl Read,
    ) -> Result<()> {
        // Whether the cluster has data checksums is not known yet, so this is noted in any case.
        let mut marks = is_paged(path).then(AllVisible::default);
        let (mut left, mut page) = (size, 0);
        let next = |buffer: &mut [u8]| {
            let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let bytes = &mut buffer[..length];
            reader.read_exact(bytes).map_err(|error| {
                Error::server(
                    format!("the base backup that the server sends cannot be read: {error}"),
                    "Look for why the server stopped in its log, and take the backup again.",
                )
            })?;
            if let Some(marks) = &mut marks {
                for bytes in bytes.as_chunks::<PAGE_BYTES>().0 {
                    if Page(bytes).is_all_visible() {
                        marks.insert(page);
                    }
                    page = page.wrapping_add(1);
                }
            }
            left -= length as u64;
            Ok(length)
        };
        let sum = self.content(path, size, owner, next)?;
        let description = FileDescription {
            all_visible: marks.and_then(AllVisible::into_some),
            ..described(owner)
        };
        self.record(path, size, Some(sum), &description)
    }
}

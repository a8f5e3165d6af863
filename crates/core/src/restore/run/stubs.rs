//! Files of databases that are not restored.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::context::Context;
use crate::error::{Error, Result};
use crate::formats::manifest;
use crate::restore::directory::tree::Flush;
use crate::stored::contents::ManifestInfo;
use crate::stored::fetch::read_with;
use crate::stored::member::MemberPath;
use crate::stored::metadata::LIMIT;
use crate::stored::table::Table;
use walarchive_storage::Store;

/// The mode that the server gives its files.
const MODE: u32 = 0o600;

/// Make all of them, with the sizes of the manifest, so that tars with nothing else need not be read.
pub(crate) async fn make(context: &Arc<Context>, store: &Store, info: &ManifestInfo) -> Result<()> {
    let context = Arc::clone(context);
    let object = store.object_url(&info.key);
    let read = move |source: &mut dyn Read| {
        let make = |file: manifest::ManifestFile| {
            let path = file.path.as_os_str().as_bytes();
            let number = context.table.as_ref().and_then(|table| table.find(path));
            let is_left_out = |table: &Table| number.is_some_and(|number| table.is_left_out(number));
            if context.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if context.table.as_ref().is_some_and(is_left_out) {
                let path = MemberPath::parse(path).map_err(|reason| Error::damaged(&object, format!("{reason}.")))?;
                let output = context.create(&path)?;
                output.set_size(file.size)?;
                output.keep(MODE, Flush::AtTheEnd)?;
                context.done(number);
            }
            Ok(())
        };
        Ok(manifest::listen(source.take(LIMIT), make)??)
    };
    read_with(store, &info.key, info.size, read).await.map(|_| ())
}

//! Reading what describes a backup, the sentinel and `metadata.json`, in bounded memory.

use bytes::Bytes;

use crate::blocking::blocking;
use crate::encrypted::{self, metadata};
use crate::error::{Error, Result};
use crate::formats::excerpt::excerpt;
use crate::formats::{FILES_OF_SENTINEL, OLD_SENTINEL_LIMIT, SENTINEL_LIMIT};
use crate::repository::layout::Key;
use walarchive_storage::Store;

/// The object; none if it is not there. Of a sentinel that WAL-G before 2.0 wrote, the list of files is left out if that is long.
/// [`Error::Damaged`] if it is longer than any.
pub(crate) async fn read(store: &Store, key: &Key) -> Result<Option<Bytes>> {
    let too_long = match metadata::read(store, key, SENTINEL_LIMIT).await {
        Err(error @ Error::Damaged { .. }) => error,
        outcome => return outcome,
    };
    let Some(size) = store.size(key).await? else {
        return Ok(None);
    };
    if size <= SENTINEL_LIMIT || size > OLD_SENTINEL_LIMIT {
        return Err(too_long);
    }
    let (mut reader, object) = (encrypted::reader(store, key, size), store.object_url(key));
    blocking(move || {
        let taken = excerpt(&mut reader, &FILES_OF_SENTINEL, &[], SENTINEL_LIMIT as usize);
        match taken {
            Ok(taken) => Ok(Some(Bytes::from(taken.text))),
            Err(error) => Err(match reader.take_failure() {
                Some(failure) => failure.into(),
                None => Error::damaged(object, format!("It is not the description of a backup: {error}.")),
            }),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::formats::Sentinel;
    use crate::repository::layout;

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_list_of_files_may_be_long() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        let key = layout::sentinel("b");
        let long = format!("[{}1]", "[],".repeat(1 << 20));
        for (field, is_read) in [
            ("Files", true),
            ("TarFileSets", true),
            ("UserData", false),
            ("Other", false),
        ] {
            let text = format!(r#"{{"LSN":1,"FinishLSN":2,"{field}":{long},"Hostname":"h"}}"#);
            store.put(&key, text.into()).await.expect("written");
            match read(&store, &key).await {
                Ok(Some(text)) if is_read => {
                    let sentinel = Sentinel::parse(&text).expect("a sentinel");
                    assert_eq!((sentinel.finish_lsn.0, sentinel.hostname.as_str()), (2, "h"));
                }
                Err(Error::Damaged { .. }) if !is_read => {}
                other => panic!("{field}: {other:?}"),
            }
        }
        assert!(read(&store, &layout::sentinel("none")).await.expect("read").is_none());
    }
}

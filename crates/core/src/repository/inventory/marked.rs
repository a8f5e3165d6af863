//! Finding a backup by the data that its user attached.

use super::{BackupInfo, list_backups};
use crate::error::{Error, Result};
use crate::formats::UserData;
use walarchive_storage::Store;

/// So many names are told of backups that have the same user data.
const TOLD: usize = 10;

/// The one backup with this user data, which is JSON and compared as such: neither spaces nor the order of names matter.
pub async fn find_by_user_data(store: &Store, text: &str) -> Result<BackupInfo> {
    let Some(wanted) = UserData::of_text(text) else {
        return Err(Error::config(
            "the user data is not JSON",
            "Write it as JSON, for example '{\"release\": 7}' or '\"monday\"'.",
        ));
    };
    let wanted = wanted.to_value();
    let has = |backup: &BackupInfo| {
        let attached = backup.metadata.user_data.as_ref();
        attached.is_some_and(|attached| attached.to_value() == wanted)
    };
    let mut found: Vec<BackupInfo> = list_backups(store).await?;
    found.retain(has);
    match (found.pop(), found.len()) {
        (Some(backup), 0) => Ok(backup),
        (None, _) => Err(Error::NoBackup {
            message: "no backup has this user data".to_owned(),
            hint: "Use backup-list --detail --json to see the user data of each backup.".to_owned(),
        }),
        (Some(last), others) => {
            let names = found.iter().chain([&last]).take(TOLD);
            let names: Vec<String> = names.map(|backup| format!("\"{}\"", backup.name)).collect();
            Err(Error::refused(
                format!("{} backups have this user data", others + 1),
                format!("Give the name of one: {}.", names.join(", ")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repository::layout;

    #[tokio::test]
    async fn user_data_is_compared_as_json_and_must_be_that_of_one_backup() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        for (number, data) in [
            (1, r#"{"b":1,"a":[2]}"#),
            (2, r#""same""#),
            (3, r#""same""#),
            (4, "null"),
        ] {
            let name = format!("base_00000001000000000000000{number}");
            let sentinel = format!(r#"{{"LSN": {number}, "FinishLSN": 9, "UserData": {data}}}"#);
            store
                .put(&layout::sentinel(&name), sentinel.into())
                .await
                .expect("written");
        }
        let found = find_by_user_data(&store, r#" {"a": [2], "b": 1} "#)
            .await
            .expect("found");
        assert_eq!(found.name, "base_000000010000000000000001");
        for (text, says) in [
            (r#"{"a": [2]}"#, "no backup has"),
            ("\"same\"", "2 backups have"),
            ("same", "not JSON"),
            ("", "not JSON"),
            ("null", "not JSON"),
        ] {
            let error = find_by_user_data(&store, text).await.expect_err(text);
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}

//! The backup that a server takes itself, since it has the extension: by `walarchive_backup_push`, with its own settings.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use walarchive_client::server::{self, Facts};
use walarchive_client::{Mode, Notice, Params, Session, Severity, escape_literal};
use walarchive_core::backup::delta::WantedParent;
use walarchive_core::server_config::encryption;
use walarchive_core::{Error, Result};
use walarchive_storage::{Place, StorageConfig, Store};

use super::args::BackupPush;
use super::options::Wanted;
use super::{place, report};
use crate::print::plain;
use crate::progress::{self, ServerProgress};
use crate::repository::{Choice, find, refuse_plain_text};

/// A backup may take days. That the server is gone is noticed without this.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the server may take to remove a cancelled backup.
const CLEANUP: Duration = Duration::from_secs(120);

/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// Settings that WAL-G would heed, and that only the server's own settings decide here.
const OF_SERVER: [&str; 11] = [
    "WALG_COMPRESSION_METHOD",
    "WALG_DELTA_MAX_STEPS",
    "WALG_DELTA_ORIGIN",
    "WALG_DISK_RATE_LIMIT",
    "WALG_NETWORK_RATE_LIMIT",
    "WALG_STOP_BACKUP_TIMEOUT",
    "WALG_STORE_ALL_CORRUPT_BLOCKS",
    "WALG_TAR_SIZE_THRESHOLD",
    "WALG_UPLOAD_CONCURRENCY",
    "WALG_UPLOAD_DISK_CONCURRENCY",
    "WALG_WITHOUT_FILES_METADATA",
];

/// The schema of the server's function, if the server is to take this backup. If it could, but the request needs another way,
/// the user is told why.
pub async fn schema(session: &mut Session, facts: &Facts, args: &BackupPush) -> Result<Option<String>> {
    let Some(schema) = server::extension_function(session, "walarchive", "walarchive_backup_push").await? else {
        return Ok(None);
    };
    let no = |why: &str| {
        report::note(&format!(
            "the server has the extension, and does not take this backup itself: {why}"
        ));
        Ok(None)
    };
    // A role that may not see the setting is told by the function.
    if facts
        .setting("shared_preload_libraries")
        .is_some_and(|libraries| !libraries.contains("walarchive"))
        || (facts.setting("shared_preload_libraries").is_none() && facts.setting("config_file").is_some())
    {
        return no("walarchive is not in its shared_preload_libraries");
    }
    for (flag, is_given) in [
        ("--without-files-metadata", args.without_files_metadata),
        ("--store-all-corrupt", args.store_all_corrupt),
        ("--archive-timeout", args.archive_timeout.is_some()),
    ] {
        if is_given {
            return no(&format!("{flag} is given, which its function does not know"));
        }
    }
    let ours = find(&args.storage, args.pgdata.as_deref()).map(|settings| settings.storage.place());
    match (place_of(facts), ours) {
        (Some(theirs), Ok(ours)) if theirs != ours => no(&format!(
            "its repository is {theirs}, and the backup is to go to {ours}"
        )),
        (None, _) if facts.setting("config_file").is_some() => no("its walarchive.storage is not set"),
        _ => Ok(Some(schema)),
    }
}

/// The server's repository, as its settings name it. What its environment adds is not to be seen; a backup must not go elsewhere
/// for that.
fn place_of(facts: &Facts) -> Option<Place> {
    let options = facts.setting("walarchive.storage_options").unwrap_or_default();
    let storage = StorageConfig {
        options: options.parse().unwrap_or_default(),
        ..StorageConfig::new(facts.setting("walarchive.storage")?)
    };
    Some(storage.place())
}

/// The server has keys of its own. What is to be encrypted here must be encrypted there, by the same method.
fn check_encryption(args: &BackupPush, facts: &Facts) -> Result<()> {
    let theirs = match facts.setting("walarchive.encryption") {
        Some(text) => encryption::method(text)?,
        None => None,
    };
    let (ours, is_chosen) = match find(&args.storage, args.pgdata.as_deref()) {
        Ok(settings) => {
            let ours = settings.storage.encryption.writes;
            if ours.is_none() && theirs.is_none() {
                return refuse_plain_text(&settings);
            }
            let seals_metadata = facts
                .setting("walarchive.encrypt_metadata")
                .and_then(encryption::switch);
            if settings.storage.encryption.metadata && seals_metadata != Some(true) {
                return Err(Error::config(
                    "the server takes the backup with walarchive.encrypt_metadata = off, and here it is on",
                    "Set walarchive.encrypt_metadata on the server, or leave --encrypt-metadata out.",
                ));
            }
            (ours, settings.choice == Choice::Method)
        }
        Err(_) if theirs.is_none() => return walarchive_core::wal_g::refuse_plain_text(std::env::vars_os()),
        Err(_) => (None, false),
    };
    if ours == theirs || (ours.is_none() && !is_chosen) {
        return Ok(());
    }
    Err(Error::config(
        format!(
            "the server takes the backup with walarchive.encryption = {}, and here it is {}",
            encryption::name_of(theirs),
            encryption::name_of(ours)
        ),
        "Set walarchive.encryption and walarchive.encryption_key_file on the server, or make the method here the same.",
    ))
}

/// Have the server take the backup. Returns its name.
pub async fn take(
    args: &BackupPush,
    mut session: Session,
    facts: &Facts,
    params: &Params,
    schema: &str,
    cancel: &CancellationToken,
) -> Result<String> {
    check_encryption(args, facts)?;
    if let Some(data_dir) = args.pgdata.as_deref().filter(|data_dir| data_dir.exists()) {
        place::check(&mut session, facts, data_dir).await?;
    }
    let without_effect: Vec<&str> = OF_SERVER
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .collect();
    report::note(&format!(
        "the server at {} takes the backup itself, with its own settings",
        session.server()
    ));
    if !without_effect.is_empty() {
        report::note(&format!(
            "these variables have no effect on that, see its walarchive.* settings: {}",
            without_effect.join(", ")
        ));
    }
    let wanted = Wanted::of(args)?;
    let parent = match wanted.asks_by_user_data() {
        true => {
            let settings = find(&args.storage, args.pgdata.as_deref())?;
            wanted.parent(&Store::open_settled(&settings.storage).await?).await?
        }
        false => wanted.parent.clone(),
    };
    let sql = statement(schema, &wanted, &parent);
    session.listen(Box::new(tell));
    let canceller = session.canceller();
    let mut asked = std::pin::pin!(session.query_within("take the backup", &sql, LONGEST));
    let working = async {
        tokio::select! {
            answer = &mut asked => answer,
            () = cancel.cancelled() => {
                canceller.cancel().await?;
                match tokio::time::timeout(CLEANUP, &mut asked).await {
                    // It came too late.
                    Ok(Ok(rows)) => Ok(rows),
                    Ok(Err(_)) => Err(Error::Cancelled),
                    Err(_elapsed) => Err(Error::timeout("cancel", "walarchive_backup_push", CLEANUP)),
                }
            }
        }
    };
    let seen = ServerProgress::default();
    let looking = look(params, schema, &seen);
    let rows = tokio::select! {
        rows = progress::show_server(&seen, args.quiet, working) => rows?,
        never = looking => match never {},
    };
    match rows.first().and_then(|row| row.get(0)) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::defect("walarchive_backup_push returned no name")),
    }
}

fn statement(schema: &str, wanted: &Wanted, parent: &WantedParent) -> String {
    let mut arguments = vec![format!("permanent => {}", wanted.permanent)];
    if let Some(data) = &wanted.user_data {
        arguments.push(format!("user_data => {}", escape_literal(data.as_str())));
    }
    match parent {
        WantedParent::Full => arguments.push("full_backup => true".to_owned()),
        WantedParent::Named(name) => arguments.push(format!("delta_from => {}", escape_literal(name))),
        WantedParent::Automatic { .. } => {}
    }
    format!("SELECT {schema}.walarchive_backup_push({})", arguments.join(", "))
}

fn tell(notice: &Notice) {
    let severity = match notice.severity {
        Severity::Notice => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    eprintln!("walarchive: {severity}: {}", plain(&notice.message));
    if let Some(detail) = &notice.detail {
        eprintln!("DETAIL:  {}", plain(detail));
    }
    if let Some(hint) = &notice.hint {
        eprintln!("HINT:  {}", plain(hint));
    }
}

/// See again and again how far the server is, by a session of its own. If that cannot be had, there is no progress to be seen.
async fn look(params: &Params, schema: &str, seen: &ServerProgress) -> std::convert::Infallible {
    let looking = async {
        let mut session = Session::connect(params, Mode::Sql).await?;
        server::prepare(&mut session).await?;
        let sql = format!("SELECT bytes_done, bytes_total, bytes_stored, phase FROM {schema}.walarchive_progress");
        loop {
            let rows = session.query("show the progress", &sql).await?;
            if let Some(row) = rows.first() {
                seen.set(row.parse(0)?, row.parse(1)?, row.parse(2)?, row.text(3));
            }
            tokio::time::sleep(LOOK).await;
        }
        #[allow(unreachable_code)]
        Ok::<(), Error>(())
    };
    if let Err(error) = looking.await {
        tracing::info!(%error, "the progress of the backup cannot be seen");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use walarchive_core::backup::BackupOptions;
    use walarchive_core::formats::UserData;

    use super::*;

    #[test]
    fn arguments_are_quoted() {
        let wanted = Wanted::for_test(BackupOptions::default(), UserData::of_text(r#"{"a": "it's \\ "}"#));
        let named = WantedParent::Named("base_'x".to_owned());
        let sql = statement("\"A b\"", &wanted, &named);
        assert_eq!(
            sql,
            r#"SELECT "A b".walarchive_backup_push(permanent => false, user_data =>  E'{"a": "it''s \\\\ "}', delta_from => 'base_''x')"#
        );
    }
}

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use nix::sys::signal::{Signal, raise};
use tokio_util::sync::CancellationToken;
use walarchive_storage::StorageConfig;
use walarchive_storage::{PART_BYTES, Pending, PendingUpload, Store};

use super::upload::{HEAVY, compare, content, upload};
use crate::ensure;
use crate::place::Room;
use crate::suite::{PREFIX, Support, Trouble, Verdict};

/// How long a store may take to show what it has.
const PATIENCE: Duration = Duration::from_secs(60);

const VARIABLES: [&str; 4] = ["CRASH_URL", "CRASH_OPTIONS", "CRASH_CREDENTIALS", "CRASH_KEY"];

/// This program once more, to die in the middle of an upload.
async fn cut_off(room: &Room, key: &str) -> Result<(), Trouble> {
    let config = room.place.config(PREFIX)?;
    // Empty where the server needs none.
    let credentials = config.credentials_file.unwrap_or_default();
    let credentials = credentials.to_str().ok_or("an odd path")?.to_owned();
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["checks::crash::dies", "--exact", "--ignored", "--test-threads=1"]);
    child.envs(
        VARIABLES
            .into_iter()
            .zip([config.url, config.options.to_string(), credentials, key.to_owned()]),
    );
    let output = tokio::task::spawn_blocking(move || child.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.signal() == Some(9), "{}: {said}", output.status);
    Ok(())
}

#[test]
#[ignore = "the other half of cut_off"]
fn dies() {
    let [Ok(url), Ok(options), Ok(credentials), Ok(key)] = VARIABLES.map(std::env::var) else {
        return;
    };
    let mut config = StorageConfig::new(url);
    config.options = options.parse().expect("options");
    config.credentials_file = (!credentials.is_empty()).then(|| credentials.into());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = Store::open(&config).expect("a store");
    let _guard = runtime.enter();
    let (mut upload, _task) = store.upload(&key, CancellationToken::new());
    upload
        .write_all(&content(0, PART_BYTES as usize * 4 + 5))
        .expect("written");
    // Not before the store has a part of it, as far as it tells.
    let has_part = |upload: &PendingUpload| upload.bytes.is_none_or(|bytes| bytes >= PART_BYTES);
    let (folder, _) = key.rsplit_once('/').expect("a folder");
    let begun = Instant::now();
    loop {
        let pending = runtime.block_on(store.pending_uploads(folder)).expect("asked");
        if matches!(pending, Pending::Known(uploads) if uploads.iter().any(has_part)) {
            raise(Signal::SIGKILL).expect("killed");
        }
        assert!(begun.elapsed() < PATIENCE, "nothing of the upload is seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn found(room: &Room) -> Result<Vec<PendingUpload>, Trouble> {
    match room.store.pending_uploads(&room.folder).await? {
        Pending::Known(uploads) => Ok(uploads),
        other => Err(format!("{other:?}").into()),
    }
}

pub async fn crash(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    match room.store.pending_uploads(&room.folder).await? {
        Pending::Known(uploads) => ensure!(uploads.is_empty(), "before: {uploads:?}"),
        Pending::Unknown(why) => {
            println!("    {why}");
            return Ok(Support::No);
        }
        Pending::Unneeded => return Ok(Support::Unneeded),
    }
    // Beside one that was completed, which must not be touched.
    let whole = room.key("whole");
    upload(&room.store, &whole, PART_BYTES * 2 + 17).await?;
    let files = room.place.files();
    let ours = room.key("a b+c%d&e=<f>/large");
    let others = format!("{}2/large", room.folder);
    cut_off(&room, &ours).await?;
    cut_off(&room, &others).await?;
    ensure!(room.names().await? == ["whole"], "listed: {:?}", room.names().await?);

    let uploads = found(&room).await?;
    let keys: Vec<&str> = uploads.iter().map(|upload| upload.key.as_str()).collect();
    ensure!(keys == [ours.as_str()], "found: {keys:?}");
    let upload = &uploads[0];
    ensure!(
        upload
            .bytes
            .is_none_or(|bytes| (PART_BYTES..=PART_BYTES * 5).contains(&bytes)),
        "{upload:?}"
    );
    let young = room
        .store
        .discard_upload(upload, upload.age() + TimeDelta::days(1))
        .await?;
    ensure!(
        !young && found(&room).await?.len() == 1,
        "one that is too young was removed"
    );
    // Somebody was faster: gone is gone.
    for _ in 0..2 {
        ensure!(
            room.store.discard_upload(upload, TimeDelta::zero()).await?,
            "not removed"
        );
        let left = found(&room).await?;
        ensure!(left.is_empty(), "left: {left:?}");
    }
    let Pending::Known(rest) = room.store.pending_uploads(&format!("{}2", room.folder)).await? else {
        return Err("it says no more".into());
    };
    ensure!(
        rest.len() == 1 && rest[0].key == others,
        "of the other folder: {rest:?}"
    );
    ensure!(
        room.store.discard_upload(&rest[0], TimeDelta::zero()).await?,
        "not removed"
    );
    let after = room.place.files();
    let left: Vec<_> = after.symmetric_difference(&files).collect();
    ensure!(left.is_empty(), "files are left or missing: {left:?}");
    compare(&room.store, &whole, PART_BYTES * 2 + 17).await?;
    room.store.delete(&whole).await?;
    Ok(Support::Yes)
}

//! Writing a large object in parts, behind its producer, in bounded memory.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::parts;
use super::parts::Parts;
use crate::create_only::Created;
use crate::error::{Error, Result};
use crate::fence::Write as Change;
use crate::store::Store;

/// Parts of one object that are on their way at a time. One more may wait, and one is being filled.
const IN_FLIGHT: usize = 2;

/// The time that completing an object may take for each of its parts, beside the deadline of a request: a file system flushes
/// all of them only then.
const FLUSH_A_PART: Duration = Duration::from_secs(1);

/// How long parts that are on their way may take to arrive after the upload has failed.
const SETTLE: Duration = Duration::from_secs(10);

/// Parts on their way; one that does not move any more ends when its time is over.
type Running = JoinSet<Result<std::result::Result<object_store::Result<()>, Duration>>>;

enum Part {
    More(Bytes),
    Last(Bytes),
}

/// The blocking half of an upload, for encoders. To be used on a thread that may block. Dropping it without
/// [`Upload::finish`] gives the upload up.
pub struct Upload {
    buffer: Vec<u8>,
    plan: Parts,
    /// Parts that were handed over.
    sent: u64,
    /// Bytes that were written.
    bytes: u64,
    parts: mpsc::Sender<Part>,
}

/// The other half, which talks to the store.
pub struct UploadTask(JoinHandle<Result<Uploaded>>);

/// The end of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes of the object that was sent.
    pub bytes: u64,
    /// Whether it was stored, or was given up in favour of the object that was there. Always [`Created::Yes`] for
    /// [`Store::upload`].
    pub created: Created,
}

/// The treatment of an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Replace,
    Keep,
}

impl Store {
    /// Begin to write an object, over whatever is there. Must be called within a tokio runtime. Nothing is visible under
    /// the key before the upload is complete; if it fails, is cancelled or is given up, its parts are removed. Every
    /// request has a deadline.
    pub fn upload(&self, key: &str, cancel: CancellationToken) -> (Upload, UploadTask) {
        self.start_upload(key, Mode::Replace, cancel)
    }

    /// The same for an object that must not be there yet. One that fits into a part is created as by [`Store::create`]. For
    /// larger ones no store knows a create-only write that all have, so the key is looked at once more just before the
    /// parts become an object: what came in the meantime is left as it is.
    pub fn upload_new(&self, key: &str, cancel: CancellationToken) -> (Upload, UploadTask) {
        self.start_upload(key, Mode::Keep, cancel)
    }

    fn start_upload(&self, key: &str, mode: Mode, cancel: CancellationToken) -> (Upload, UploadTask) {
        let (sender, parts) = mpsc::channel(1);
        let (store, key) = (self.clone(), key.to_owned());
        let task = tokio::spawn(async move { receive(&store, &key, mode, parts, &cancel).await });
        let upload = Upload {
            buffer: Vec::new(),
            plan: Parts::UNKNOWN,
            sent: 0,
            bytes: 0,
            parts: sender,
        };
        (upload, UploadTask(task))
    }
}

impl UploadTask {
    /// Wait for the end. Returns the bytes of the object. [`Error::Cancelled`] also if the other half was dropped: then its
    /// owner knows the reason.
    pub async fn outcome(self) -> Result<u64> {
        self.uploaded().await.map(|uploaded| uploaded.bytes)
    }

    /// The same, and whether it was stored.
    pub async fn uploaded(self) -> Result<Uploaded> {
        match self.0.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Cancelled),
            },
        }
    }
}

impl Upload {
    /// Say, before anything is written, how many bytes the object will have, about and at most. It may become larger; but
    /// then it takes more memory than it would have needed.
    pub fn expect(&mut self, bytes: u64) {
        self.plan = Parts::of(bytes);
    }

    /// Bytes that were written so far: those of the object, once all are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hand the rest over. The object is stored when [`UploadTask::outcome`] says so.
    pub fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        self.send(Part::Last(rest.into()))
    }

    fn send(&mut self, part: Part) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended");
        self.parts.blocking_send(part).map_err(gone)
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.plan.size(self.sent) as usize - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.try_reserve(taken)?;
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.bytes += taken as u64;
        if taken == room {
            // Small objects take little memory; one that fills a part will mostly fill the next.
            let mut next = Vec::new();
            next.try_reserve_exact(self.plan.size(self.sent + 1) as usize)?;
            let part = std::mem::replace(&mut self.buffer, next);
            self.send(Part::More(part.into()))?;
            self.sent += 1;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn receive(
    store: &Store,
    key: &str,
    mode: Mode,
    mut parts: mpsc::Receiver<Part>,
    cancel: &CancellationToken,
) -> Result<Uploaded> {
    let first = match next(&mut parts, cancel).await? {
        Part::Last(content) => {
            let bytes = content.len() as u64;
            let created = match mode {
                Mode::Replace => store.put(key, content).await.map(|()| Created::Yes)?,
                Mode::Keep => store.create(key, content).await?,
            };
            return Ok(Uploaded { bytes, created });
        }
        Part::More(first) => first,
    };
    let path = crate::key::path(key);
    store.permitted(Change::Object).await?;
    let begun = store.asked("write", key, store.inner.put_multipart(&path));
    let mut upload = store.guarded(Change::Object, begun).await??;
    let mut running = JoinSet::new();
    let sent = send_parts(store, key, &mut *upload, &mut running, first, parts, cancel).await;
    let result = match sent {
        Ok((bytes, count)) => finish(store, key, mode, &mut *upload, (bytes, count), cancel)
            .await
            .map(|created| Uploaded { bytes, created }),
        Err(error) => Err(error),
    };
    if !matches!(
        result,
        Ok(Uploaded {
            created: Created::Yes,
            ..
        })
    ) {
        settle(&mut running).await;
        if let Err(error) = store.asked("delete", key, upload.abort()).await {
            tracing::warn!(object = store.object_url(key), %error, "could not remove the parts of an unfinished upload");
        }
    }
    result
}

/// Returns the size of the object and the number of its parts, when the store has them all.
async fn send_parts(
    store: &Store,
    key: &str,
    upload: &mut dyn MultipartUpload,
    running: &mut Running,
    first: Bytes,
    mut parts: mpsc::Receiver<Part>,
    cancel: &CancellationToken,
) -> Result<(u64, u32)> {
    let (mut size, mut count) = (0, 0);
    let mut part = Part::More(first);
    loop {
        let (content, last) = match part {
            Part::More(content) => (content, false),
            Part::Last(content) => (content, true),
        };
        if !content.is_empty() {
            let in_flight = parts::in_flight(content.len() as u64, IN_FLIGHT);
            wait(store, key, running, in_flight - 1, cancel).await?;
            store.permitted(Change::Object).await?;
            size += content.len() as u64;
            count += 1;
            let deadline = store.deadline_for(content.len() as u64);
            let request = store.within(deadline, upload.put_part(PutPayload::from(content)));
            let request = store.guarded(Change::Object, request);
            running.spawn(async move { Ok(request.await?.ok_or(deadline)) });
        }
        if last {
            wait(store, key, running, 0, cancel).await?;
            return Ok((size, count));
        }
        part = next(&mut parts, cancel).await?;
    }
}

/// Wait until no more than `left` parts are on their way.
async fn wait(store: &Store, key: &str, running: &mut Running, left: usize, cancel: &CancellationToken) -> Result<()> {
    while running.len() > left {
        let done = tokio::select! {
            () = cancel.cancelled() => return Err(Error::Cancelled),
            done = running.join_next() => done,
        };
        match done {
            Some(Ok(Err(refused))) => return Err(refused),
            Some(Ok(Ok(Ok(result)))) => result.map_err(|error| store.error("write", key, error))?,
            Some(Ok(Ok(Err(deadline)))) => return Err(store.timeout("write", key, deadline)),
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(Error::Cancelled),
            },
            None => {}
        }
    }
    Ok(())
}

/// Make an object of the parts, unless one is there that must be left as it is.
async fn finish(
    store: &Store,
    key: &str,
    mode: Mode,
    upload: &mut dyn MultipartUpload,
    (size, parts): (u64, u32),
    cancel: &CancellationToken,
) -> Result<Created> {
    if mode == Mode::Keep && store.size(key).await?.is_some() {
        return Ok(Created::Exists);
    }
    store.permitted(Change::Object).await?;
    complete(store, key, upload, size, parts, cancel)
        .await
        .map(|()| Created::Yes)
}

/// A part that arrives after the others were removed would stay for ever.
async fn settle(running: &mut Running) {
    let all = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(SETTLE, all).await.is_err() {
        running.shutdown().await;
    }
}

async fn complete(
    store: &Store,
    key: &str,
    upload: &mut dyn MultipartUpload,
    size: u64,
    parts: u32,
    cancel: &CancellationToken,
) -> Result<()> {
    let deadline = store.deadline + FLUSH_A_PART * parts;
    let done = tokio::select! {
        () = cancel.cancelled() => return Err(Error::Cancelled),
        done = store.guarded(Change::Object, store.within(deadline, upload.complete())) => done?,
    };
    match done {
        Some(Ok(_)) => Ok(()),
        // The answer to an attempt that had succeeded may be lost. The next one then finds no upload under its id, which
        // servers call by various names; what they cannot do is to show an object of this very size without it.
        Some(Err(error)) => match store.size(key).await {
            Ok(Some(stored)) if stored == size => Ok(()),
            _ => Err(store.error("write", key, error)),
        },
        None => Err(store.timeout("write", key, deadline)),
    }
}

async fn next(parts: &mut mpsc::Receiver<Part>, cancel: &CancellationToken) -> Result<Part> {
    tokio::select! {
        () = cancel.cancelled() => Err(Error::Cancelled),
        part = parts.recv() => part.ok_or(Error::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StorageConfig;
    use crate::transfer::parts::PART_BYTES;

    #[tokio::test(flavor = "multi_thread")]
    async fn parts_grow_with_their_number_and_the_object_stays_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
        let content: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let (sender, mut receiver) = mpsc::channel(1);
        let (mut upload, task) = store.upload("object", CancellationToken::new());
        upload.plan = Parts::small(1000, 3, 500);
        // The same bytes to somebody who looks at the parts.
        let mut watched = Upload {
            buffer: Vec::new(),
            plan: upload.plan,
            sent: 0,
            bytes: 0,
            parts: sender,
        };
        let expected = content.clone();
        let produced = tokio::task::spawn_blocking(move || {
            upload.write_all(&content).and_then(|()| upload.finish())?;
            watched.write_all(&content).and_then(|()| watched.finish())
        });
        let mut sizes = Vec::new();
        while let Some(Part::More(part) | Part::Last(part)) = receiver.recv().await {
            sizes.push(part.len());
        }
        produced.await.expect("no panic").expect("produced");
        assert_eq!(sizes[..7], [1000, 1000, 1000, 1000, 1500, 2000, 2500]);
        assert_eq!(sizes.iter().sum::<usize>(), expected.len());
        assert_eq!(task.outcome().await.expect("stored"), expected.len() as u64);
        let read = store.get("object", u64::MAX).await.expect("read").expect("there");
        assert!(read == expected);
    }

    async fn run(
        store: &Store,
        key: &str,
        cancel: &CancellationToken,
        produce: impl FnOnce(Upload) -> io::Result<()> + Send + 'static,
    ) -> (io::Result<()>, Result<u64>) {
        let (upload, task) = store.upload(key, cancel.clone());
        let produced = tokio::task::spawn_blocking(move || produce(upload))
            .await
            .expect("no panic");
        (produced, task.outcome().await)
    }

    fn files_below(dir: &std::path::Path) -> usize {
        std::fs::read_dir(dir).expect("a directory").count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn objects_of_every_size_arrive() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
        for size in [0, 17, PART_BYTES, PART_BYTES * 4 + 17] {
            let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let expected = content.clone();
            let produce = move |mut upload: Upload| {
                upload.write_all(&content)?;
                upload.finish()
            };
            let (produced, stored) = run(&store, "object", &CancellationToken::new(), produce).await;
            produced.expect("produced");
            assert_eq!(stored.expect("stored"), size);
            let read = store.get("object", u64::MAX).await.expect("read").expect("there");
            assert!(read == expected, "{size}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_left_of_an_upload_that_was_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
        let cancel = CancellationToken::new();
        let give_up = |mut upload: Upload| upload.write_all(&vec![1; PART_BYTES as usize * 3]);
        let (_, stored) = run(&store, "object", &cancel, give_up).await;
        assert!(matches!(stored, Err(Error::Cancelled)));
        assert_eq!(files_below(dir.path()), 0);
        let token = cancel.clone();
        let cancelled = move |mut upload: Upload| {
            upload.write_all(&vec![1; PART_BYTES as usize * 3])?;
            token.cancel();
            while upload.write(&[1; 4096]).is_ok() {}
            Ok(())
        };
        let (_, stored) = run(&store, "object", &cancel, cancelled).await;
        assert!(matches!(stored, Err(Error::Cancelled)));
        assert_eq!(files_below(dir.path()), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_there_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
        for size in [17, PART_BYTES as usize * 2 + 17] {
            let key = format!("object-{size}");
            for (fill, created) in [(1, Created::Yes), (2, Created::Exists)] {
                let (mut upload, task) = store.upload_new(&key, CancellationToken::new());
                let produced = tokio::task::spawn_blocking(move || {
                    upload.write_all(&vec![fill; size])?;
                    upload.finish()
                });
                produced.await.expect("no panic").expect("produced");
                assert_eq!(task.uploaded().await.expect("an end").created, created);
            }
            let read = store.get(&key, u64::MAX).await.expect("read").expect("there");
            assert!(read == vec![1; size]);
        }
        assert_eq!(files_below(dir.path()), 2, "parts are left");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_hangs_is_a_timeout() {
        use object_store::throttle::{ThrottleConfig, ThrottledStore};
        let config = ThrottleConfig {
            wait_put_per_call: Duration::from_secs(3600),
            ..ThrottleConfig::default()
        };
        let hanging = ThrottledStore::new(object_store::memory::InMemory::new(), config);
        let mut store = Store::of(std::sync::Arc::new(hanging), "memory:");
        store.deadline = Duration::from_millis(50);
        store.slowest = u64::MAX;
        for parts in [0, 5] {
            let produce = move |mut upload: Upload| {
                upload.write_all(&vec![1; PART_BYTES as usize * parts + 1])?;
                upload.finish()
            };
            let cancel = CancellationToken::new();
            let running = run(&store, "object", &cancel, produce);
            let (_, stored) = tokio::time::timeout(Duration::from_secs(60), running)
                .await
                .expect("in time");
            assert!(
                matches!(stored, Err(Error::Timeout { .. })),
                "{parts} parts: {stored:?}"
            );
        }
    }
}

//! One connection that was let in: requests with deadlines.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::PutPayload;
use parking_lot::Mutex;
use russh::client::Handle;
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::extensions::{FSYNC, HARDLINK, HardlinkExtension, LIMITS, STATVFS};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::Settings;
use super::connect::Client;
use super::failure::{Failure, lost};
use crate::http::STALLED;
use crate::transfer::motion::Flow;

const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// Bytes of one file that are on their way at a time, at the most.
pub(super) const WINDOW: usize = 4 << 20;

/// Fewer are on their way where the answer to a write takes longer than that: what was handed over cannot be held back when WAL
/// needs the link, and it is more to be sent again when the connection breaks.
const SLOW: Duration = Duration::from_secs(1);
const FIRST_WINDOW: usize = 128 << 10;
const SMALLEST_WINDOW: usize = 64 << 10;

/// The bytes that every server takes in one read or write, and the most that we ask of one that takes more.
const USUAL_BYTES: u32 = 32 << 10;
const MOST_BYTES: u32 = 128 << 10;

/// The bytes that are sent in one write, if the server takes them. Only an answer tells how far the write is, and on a slow
/// link that others use too it comes soon enough only for little.
const WRITTEN: usize = 32 << 10;

/// For so many bytes, at the most, a write waits when it stands back: the server is not to lose its patience.
const STANDING_BACK: usize = 16 << 10;

/// Abilities of this server beyond version 3 of the protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub fsync: bool,
    pub hardlink: bool,
    pub posix_rename: bool,
    statvfs: bool,
    pub read_bytes: u32,
    write_bytes: u32,
}

impl Features {
    pub(super) async fn ask(raw: &mut RawSftpSession, extensions: &HashMap<String, String>) -> Self {
        let has = |name: &str| extensions.contains_key(name);
        let mut features = Features {
            fsync: has(FSYNC),
            hardlink: has(HARDLINK),
            posix_rename: has(POSIX_RENAME),
            statvfs: has(STATVFS),
            read_bytes: USUAL_BYTES,
            write_bytes: USUAL_BYTES,
        };
        if has(LIMITS)
            && let Ok(limits) = raw.limits().await
        {
            let most = |limit: u64| match limit {
                0 => USUAL_BYTES,
                limit => limit.min(u64::from(MOST_BYTES)) as u32,
            };
            features.read_bytes = most(limits.max_read_len);
            features.write_bytes = most(limits.max_write_len);
        }
        features
    }
}

pub(super) struct Session {
    raw: RawSftpSession,
    // The connection ends with it.
    _handle: Handle<Client>,
    closed: CancellationToken,
    last_answer: Mutex<Instant>,
    /// Files that are being written.
    writing: AtomicUsize,
    pub features: Features,
    request_timeout: Duration,
    root: String,
}

/// The attributes of a file that we need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub size: u64,
    pub mtime: u32,
    pub is_dir: bool,
    pub is_file: bool,
    pub is_link: bool,
    /// A named pipe, a socket or a device.
    pub is_special: bool,
}

impl Attributes {
    pub(super) fn of(attributes: &FileAttributes) -> Self {
        // The library's own questions see a regular file in a link and a directory in a socket.
        let kind = attributes.permissions.unwrap_or(0) & 0o170_000;
        Attributes {
            size: attributes.size.unwrap_or(0),
            mtime: attributes.mtime.unwrap_or(0),
            is_dir: kind == 0o040_000,
            is_file: kind == 0o100_000,
            is_link: kind == 0o120_000,
            is_special: !matches!(kind, 0 | 0o040_000 | 0o100_000 | 0o120_000),
        }
    }
}

impl Session {
    pub(super) fn new(
        raw: RawSftpSession,
        handle: Handle<Client>,
        closed: CancellationToken,
        features: Features,
        settings: &Settings,
    ) -> Self {
        if !features.fsync {
            tracing::warn!(
                host = settings.host,
                "the SFTP server cannot flush files to disk on request (fsync@openssh.com): what it acknowledged last \
                 may be lost if its machine fails"
            );
        }
        Session {
            raw,
            _handle: handle,
            closed,
            last_answer: Mutex::new(Instant::now()),
            writing: AtomicUsize::new(0),
            features,
            request_timeout: settings.request_timeout,
            root: settings.root.clone(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled() || self._handle.is_closed()
    }

    pub(super) fn raw(&self) -> &RawSftpSession {
        &self.raw
    }

    /// How long the server may be silent. A question that is asked while files are written waits behind their content.
    fn patience(&self) -> Duration {
        match self.writing.load(Ordering::Relaxed) {
            0 => self.request_timeout,
            _ => self.request_timeout.max(STALLED),
        }
    }

    /// Waits for an answer while the server answers anything: several transfers may share a slow link. One that is silent
    /// for the whole time is given up, and the connection with it.
    pub(super) async fn ask<T>(&self, request: impl Future<Output = Result<T, SftpError>>) -> Result<T, Failure> {
        let asked = Instant::now();
        let mut limit = self.patience();
        tokio::pin!(request);
        loop {
            let until = asked.max(*self.last_answer.lock()) + limit;
            tokio::select! {
                biased;
                answer = &mut request => {
                    *self.last_answer.lock() = Instant::now();
                    Flow::current().motion.answered();
                    let answer = answer.map_err(Failure::from);
                    if matches!(answer, Err(Failure::Lost(_))) {
                        // The channel may have died without its connection, and is of no more use to anybody.
                        self.closed.cancel();
                    }
                    return answer;
                }
                () = self.closed.cancelled() => return Err(lost("The connection to the SFTP server was lost.")),
                () = tokio::time::sleep_until(until) => {
                    limit = limit.max(self.patience());
                    if asked.max(*self.last_answer.lock()) + limit <= Instant::now() {
                        self.closed.cancel();
                        return Err(Failure::Timeout(limit));
                    }
                }
            }
        }
    }

    pub(super) async fn stat(&self, path: &str) -> Result<Attributes, Failure> {
        let answer = self.ask(self.raw.stat(path)).await?;
        Ok(Attributes::of(&answer.attrs))
    }

    pub(super) async fn exists(&self, path: &str) -> Result<bool, Failure> {
        match self.ask(self.raw.lstat(path)).await {
            Ok(_) => Ok(true),
            Err(Failure::NotFound) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Is it a link? An entry that is not there is none.
    pub(super) async fn is_link(&self, path: &str) -> Result<bool, Failure> {
        match self.ask(self.raw.lstat(path)).await {
            Ok(answer) => Ok(Attributes::of(&answer.attrs).is_link),
            Err(Failure::NotFound) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The directory of the URL must be there: without it, "no such file" says nothing.
    pub(super) async fn check_root(&self) -> Result<(), Failure> {
        match self.stat(&self.root).await {
            Ok(found) if found.is_dir => Ok(()),
            Ok(_) => Err(Failure::Server(format!(
                "\"{}\" on the server is not a directory.",
                self.root
            ))),
            Err(Failure::NotFound) => Err(Failure::NoDirectory(self.root.clone())),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn open(self: &Arc<Self>, path: &str, flags: OpenFlags) -> Result<OpenFile, Failure> {
        let opened = self.ask(self.raw.open(path, flags, FileAttributes::empty())).await?;
        Ok(OpenFile {
            session: self.clone(),
            handle: opened.handle,
            open: true,
        })
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Failure> {
        self.ask(self.raw.remove(path)).await.map(|_| ())
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.ask(self.raw.rename(from, to)).await.map(|_| ())
    }

    pub(super) async fn hardlink(&self, from: &str, to: &str) -> Result<(), Failure> {
        self.ask(self.raw.hardlink(from, to)).await.map(|_| ())
    }

    /// Over whatever is there.
    pub(super) async fn posix_rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        let names = HardlinkExtension {
            oldpath: from.to_owned(),
            newpath: to.to_owned(),
        };
        let data: Vec<u8> = names.try_into().map_err(SftpError::from)?;
        match self.ask(self.raw.extended(POSIX_RENAME, data)).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status).into()),
            _ => Err(Failure::Server(
                "The server's answer to a rename makes no sense.".to_owned(),
            )),
        }
    }

    /// A write failed, and the protocol has no word for the usual reason.
    pub(super) async fn explain(&self, failure: Failure) -> Failure {
        if !self.features.statvfs || !matches!(failure, Failure::Server(_)) {
            return failure;
        }
        match self.ask(self.raw.statvfs(&self.root)).await {
            Ok(space) if space.blocks_avail == 0 => Failure::Server(format!("No space left on device. {failure}")),
            _ => failure,
        }
    }
}

/// A file that the server holds open for us, until it is closed or dropped.
pub(super) struct OpenFile {
    session: Arc<Session>,
    handle: String,
    open: bool,
}

impl OpenFile {
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn handle(&self) -> &str {
        &self.handle
    }

    pub(super) async fn stat(&self) -> Result<Attributes, Failure> {
        let answer = self.session.ask(self.session.raw.fstat(&self.handle)).await?;
        Ok(Attributes::of(&answer.attrs))
    }

    /// Several requests are on their way at a time.
    pub(super) async fn write(&self, mut offset: u64, payload: &PutPayload) -> Result<(), Failure> {
        let most = (self.session.features.write_bytes as usize).min(WRITTEN);
        let flow = Flow::current();
        let _writing = Writing::of(&self.session);
        let (mut pending, mut window) = (FuturesUnordered::new(), Window::new());
        for bytes in payload {
            for chunk in bytes.chunks(most) {
                while window.is_full() {
                    self.settle(&mut pending, &mut window, &flow).await?;
                }
                let mut stand_back = pin!(flow.stand_back(chunk.len().min(STANDING_BACK)));
                loop {
                    tokio::select! {
                        biased;
                        () = &mut stand_back => break,
                        // Others on this connection wait behind the bytes that are on their way, and want to see that they
                        // move.
                        settled = self.settle(&mut pending, &mut window, &flow), if !pending.is_empty() => settled?,
                    }
                }
                window.sent(Instant::now(), chunk.len());
                pending.push(self.session.raw.write(&self.handle, offset, chunk.to_vec()));
                offset += chunk.len() as u64;
            }
        }
        while !pending.is_empty() {
            self.settle(&mut pending, &mut window, &flow).await?;
        }
        Ok(())
    }

    /// Wait for the answer to one of the writes.
    async fn settle<T>(
        &self,
        pending: &mut FuturesUnordered<impl Future<Output = Result<T, SftpError>>>,
        window: &mut Window,
        flow: &Flow,
    ) -> Result<(), Failure> {
        flow.motion.allow(STALLED);
        self.session.ask(answered(pending)).await?;
        flow.motion.moved(window.answered(Instant::now()) as u64);
        Ok(())
    }

    /// Flush to disk, where the server knows how, and close.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        if self.session.features.fsync {
            self.session.ask(self.session.raw.fsync(&self.handle)).await?;
        }
        self.close().await
    }

    pub(super) async fn close(&mut self) -> Result<(), Failure> {
        self.open = false;
        let handle = std::mem::take(&mut self.handle);
        self.session.ask(self.session.raw.close(handle)).await.map(|_| ())
    }
}

/// A file is being written while this is there.
struct Writing<'a>(&'a Session);

impl<'a> Writing<'a> {
    fn of(session: &'a Session) -> Self {
        session.writing.fetch_add(1, Ordering::Relaxed);
        Writing(session)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much of a file is on its way, and how much may be.
struct Window {
    most: usize,
    /// When each write was sent that is not answered, and how many bytes it has.
    sent: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl Window {
    fn new() -> Self {
        Window {
            most: FIRST_WINDOW,
            sent: VecDeque::new(),
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.most
    }

    fn sent(&mut self, now: Instant, bytes: usize) {
        self.sent.push_back((now, bytes));
        self.bytes += bytes;
    }

    /// The oldest write was answered. Returns its bytes.
    fn answered(&mut self, now: Instant) -> usize {
        let Some((at, bytes)) = self.sent.pop_front() else {
            return 0;
        };
        self.bytes -= bytes;
        self.most = match now - at > SLOW {
            true => (self.most / 2).max(SMALLEST_WINDOW),
            false => (self.most + bytes).min(WINDOW),
        };
        bytes
    }
}

async fn answered<T>(
    pending: &mut FuturesUnordered<impl Future<Output = Result<T, SftpError>>>,
) -> Result<(), SftpError> {
    pending.next().await.transpose().map(|_| ())
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if !self.open || self.session.is_closed() {
            return;
        }
        // The server allows only so many of them.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (session, handle) = (self.session.clone(), std::mem::take(&mut self.handle));
            runtime.spawn(async move {
                let _ = session.ask(session.raw.close(handle)).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_on_its_way_as_is_answered_soon() {
        let (begin, mut window) = (Instant::now(), Window::new());
        let mut at = begin;
        let mut pass = |window: &mut Window, answer_after: Duration, times: usize| {
            for _ in 0..times {
                while !window.is_full() {
                    window.sent(at, WRITTEN);
                }
                at += answer_after;
                while window.answered(at) > 0 {}
            }
        };
        pass(&mut window, Duration::from_millis(300), 10);
        assert_eq!(window.most, WINDOW);
        pass(&mut window, Duration::from_secs(3), 1);
        assert_eq!(window.most, SMALLEST_WINDOW);
        pass(&mut window, Duration::from_millis(20), 10);
        assert_eq!(window.most, WINDOW, "what is fast again is so soon");
    }
}

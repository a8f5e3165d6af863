//! Between the connection and the store: files that are whole wait here, few of them, and how far all is stored is told here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walarchive_core::archive::Archive;
use walarchive_core::archive::received::{Pace, Progress, Received, Storing};
use walarchive_core::wal::{SegmentSize, WalFileName};
use walarchive_core::{Error, Lsn, Result};

/// After the end, what is on its way to the store may take so long,
const GRACE: Duration = Duration::from_secs(10);

/// as long as bytes move, if the server keeps what is not stored.
const MOVES: Duration = Duration::from_millis(1500);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The way to the store.
#[derive(Debug)]
pub struct Queue {
    files: mpsc::Sender<Received>,
    progress: Progress,
    pace: Arc<Pace>,
    /// Files that were handed over.
    count: u64,
    /// Segments that are not known to be stored: the number of the file, and where it ends.
    ends: VecDeque<(u64, Lsn)>,
    /// All files that are not known to be stored, in their order.
    waiting: VecDeque<WalFileName>,
    /// One for which there was no room at the end.
    held: Option<Received>,
    flushed: Lsn,
    /// The timeline and the end of the last segment that was handed over.
    last: Option<(u32, Lsn)>,
    size: SegmentSize,
}

/// The task that stores.
#[derive(Debug)]
pub struct StoringTask {
    task: JoinHandle<Result<()>>,
    end: CancellationToken,
    pace: Arc<Pace>,
}

impl Queue {
    /// Begin to store what will come. `ended` is cancelled when the task has ended.
    pub fn begin(
        archive: Archive,
        size: SegmentSize,
        at_a_time: usize,
        ended: CancellationToken,
    ) -> (Queue, StoringTask) {
        let (files, receiver) = mpsc::channel(1);
        let (sender, progress) = watch::channel(0);
        let end = CancellationToken::new();
        let pace = Arc::<Pace>::default();
        let storing = Storing {
            archive,
            segment_size: size,
            at_a_time,
            pace: Arc::clone(&pace),
        };
        let run = storing.run(receiver, sender, end.clone());
        let task = tokio::spawn(async move {
            let _ended = ended.drop_guard();
            run.await
        });
        let queue = Queue {
            files,
            progress,
            pace: Arc::clone(&pace),
            count: 0,
            ends: VecDeque::new(),
            waiting: VecDeque::new(),
            held: None,
            flushed: Lsn(0),
            last: None,
            size,
        };
        (queue, StoringTask { task, end, pace })
    }

    /// The timeline and the end of the last segment that was handed over.
    pub fn last(&self) -> Option<(u32, Lsn)> {
        self.last
    }

    /// A stream begins there. What was handed over and ends later is of a timeline that was left.
    pub fn rewind(&mut self, start: Lsn) {
        self.settle();
        self.ends.iter_mut().for_each(|(_, end)| *end = start.min(*end));
        self.flushed = match self.ends.is_empty() {
            true => start,
            false => self.flushed.min(start),
        };
    }

    /// Up to where all is stored.
    pub fn flushed(&mut self) -> Lsn {
        self.settle();
        self.flushed
    }

    fn settle(&mut self) {
        let stored = *self.progress.borrow_and_update();
        while let Some((_, end)) = self.ends.pop_front_if(|(number, _)| *number < stored) {
            self.flushed = end;
        }
        let waiting = usize::try_from(self.count.saturating_sub(stored)).unwrap_or(usize::MAX);
        while self.waiting.len() > waiting {
            self.waiting.pop_front();
        }
    }

    /// Waits until more is stored. False: the task has ended.
    pub async fn moved(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Waits for room for a file. False: the task has ended. The future may be dropped.
    pub async fn has_room(&self) -> bool {
        self.files.reserve().await.is_ok()
    }

    /// Does the store take something, be it slowly?
    pub fn gets_on(&self, within: Duration) -> bool {
        self.pace.gets_on(within)
    }

    /// Hand a file over. Returns it if there is no room for it.
    pub fn push(&mut self, file: Received) -> Option<Received> {
        let name = file.name;
        if let Err(error) = self.files.try_send(file) {
            return Some(error.into_inner());
        }
        if let WalFileName::Segment(segment) = name {
            let end = Lsn(segment.start(self.size).0 + self.size.bytes());
            self.ends.push_back((self.count, end));
            self.last = Some((segment.timeline, end));
        }
        self.count += 1;
        self.waiting.push_back(name);
        None
    }

    /// The last file, for which there was no room.
    pub fn hold(&mut self, file: Received) {
        self.held = Some(file);
    }
}

impl StoringTask {
    /// The receiving side has ended: what has come is stored, if the store takes it. Only if nobody else has it, a store that seems to
    /// take nothing is waited for, too. Of two errors, that of the storing tells more.
    pub async fn end(mut self, mut queue: Queue, slot: Option<&str>, received: Result<()>) -> Result<()> {
        let held = queue.held.take();
        queue.waiting.extend(held.as_ref().map(|file| file.name));
        queue.count += u64::from(held.is_some());
        let files = queue.files.clone();
        // The channel is closed when all have gone into it.
        let (closed, _) = mpsc::channel(1);
        queue.files = closed;
        tokio::spawn(async move {
            if let Some(file) = held {
                // If the task has ended, that is told.
                let _ = files.send(file).await;
            }
        });
        let begun = Instant::now();
        let stored = loop {
            if let Ok(stored) = tokio::time::timeout(LOOK, &mut self.task).await {
                break stored;
            }
            let waited = begun.elapsed();
            let is_stuck = self.pace.is_failing() || (waited > MOVES && !self.pace.gets_on(MOVES));
            if waited > GRACE || (is_stuck && slot.is_some()) {
                self.end.cancel();
                self.task.abort();
                queue.settle();
                if let Some(text) = given_up(&queue.waiting, slot) {
                    eprintln!("{text}");
                }
                return received;
            }
        };
        match stored {
            Ok(Ok(())) => received,
            Err(lost) => Err(Error::defect(format!("the task that stores WAL has ended: {lost}"))),
            Ok(Err(Error::Cancelled)) => received,
            Ok(Err(error)) => Err(error),
        }
    }
}

/// What is to be said of files that were received and are not known to be stored.
fn given_up(waiting: &VecDeque<WalFileName>, slot: Option<&str>) -> Option<String> {
    let names: Vec<String> = waiting.iter().map(WalFileName::to_string).collect();
    let kept = match slot {
        Some(slot) => format!("Nothing is lost: the server keeps them for replication slot \"{slot}\"."),
        None => "No slot keeps them: start wal-receive again before the server removes them.".to_owned(),
    };
    (!names.is_empty()).then(|| {
        format!(
            "walarchive: warning: the store has not taken all: received and perhaps not stored are {}\nHINT:  {kept}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Queue, mpsc::Receiver<Received>, watch::Sender<u64>) {
        let (files, receiver) = mpsc::channel(8);
        let (sender, progress) = watch::channel(0);
        let size = SegmentSize::new(1 << 20).expect("a size");
        let queue = Queue {
            files,
            progress,
            pace: Arc::default(),
            count: 0,
            ends: VecDeque::new(),
            waiting: VecDeque::new(),
            held: None,
            flushed: Lsn(0),
            last: None,
            size,
        };
        (queue, receiver, sender)
    }

    fn push(queue: &mut Queue, name: &str) {
        let name = name.parse().expect("a name");
        assert!(queue.push(Received::with(name, b"x").expect("made")).is_none());
    }

    #[tokio::test]
    async fn a_panic_of_the_task_is_an_error() {
        let task = tokio::spawn(async { panic!("for the test") });
        let end = CancellationToken::new();
        let pace = Arc::default();
        let error = StoringTask { task, end, pace }
            .end(queue().0, None, Ok(()))
            .await
            .expect_err("it has not stored");
        assert!(
            error.to_string().contains("the task that stores WAL has ended"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn only_what_is_stored_is_flushed() {
        let (mut queue, _files, stored) = queue();
        queue.rewind(Lsn(3 << 20));
        assert_eq!(queue.flushed(), Lsn(3 << 20));
        push(&mut queue, "00000002.history");
        push(&mut queue, "000000010000000000000003");
        push(&mut queue, "000000010000000000000004");
        stored.send_replace(1);
        assert_eq!(queue.flushed(), Lsn(3 << 20), "the history file");
        let text = given_up(&queue.waiting, None).expect("two files");
        assert!(
            text.contains(" are 000000010000000000000003, 000000010000000000000004\nHINT:  No slot"),
            "{text}"
        );
        stored.send_replace(2);
        assert_eq!(queue.flushed(), Lsn(4 << 20));
        // Another server left the timeline in the segment that is on its way.
        queue.rewind(Lsn(4 << 20));
        push(&mut queue, "000000020000000000000004");
        stored.send_replace(3);
        assert_eq!(queue.flushed(), Lsn(4 << 20), "it is stored on the old timeline only");
        stored.send_replace(4);
        assert_eq!(queue.flushed(), Lsn(5 << 20));
        assert_eq!(given_up(&queue.waiting, Some("walg")), None);
        queue.rewind(Lsn(4 << 20));
        assert_eq!(queue.flushed(), Lsn(4 << 20), "and comes again");
    }
}

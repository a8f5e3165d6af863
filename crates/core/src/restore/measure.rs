//! Measuring how fast a store hands out what a restore wants.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::estimate::{Estimate, Part, Rates};
use super::outlook::Outlook;
use super::plan::PlannedRestore;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted;
use crate::error::{Error, Result, StorageError};
use crate::printable::counted;
use crate::repository::layout::{self, Key};
use crate::repository::tail::Cover;
use crate::wal::{Segment, WalFileName};
use walarchive_storage::Store;

/// So much is read of each tar at most, in stored bytes.
const SAMPLE: u64 = 16 << 20;

/// And for so long.
const LONGEST: Duration = Duration::from_secs(3);

/// After this no answer is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// What was read of an object.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    bytes: u64,
    seconds: f64,
}

impl PlannedRestore {
    /// Measure for some seconds how fast the store hands out what the plan wants, and add to the plan how long it will take.
    /// `rates` are those of a drill, if there was one. A failure is no error: the restore itself will tell.
    pub async fn estimate(&mut self, rates: Option<&Rates>) {
        let backup = match rates.and_then(|rates| Some((rates, rates.restored?))) {
            Some((rates, restored)) => Part {
                seconds: Some(self.plan.stored_bytes() as f64 / restored),
                basis: of_drill(rates),
            },
            None => self.sample_backup().await,
        };
        let wal = match &self.plan.outlook {
            Some(outlook) => Some(wal(&self.plan.store, outlook, rates).await),
            None => None,
        };
        self.plan.estimate = Some(Estimate { backup, wal });
    }

    async fn sample_backup(&self) -> Part {
        let tars = self.fetch.levels.iter().flat_map(|level| {
            let of = |tar: &crate::stored::tars::Tar| (tar.key.clone(), tar.size);
            level.tars.iter().map(of)
        });
        let mut tars: Vec<(Key, u64)> = tars.collect();
        tars.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        tars.truncate(self.plan.concurrency);
        if tars.is_empty() {
            return Part {
                seconds: Some(0.0),
                basis: "nothing is to be fetched".to_owned(),
            };
        }
        let begun = Instant::now();
        let store = &self.plan.store;
        let read = join_all(tars.into_iter().map(|(key, size)| sample(store, key, size))).await;
        let seconds = begun.elapsed().as_secs_f64();
        let mut bytes = 0;
        for sample in read {
            match sample {
                Ok(sample) => bytes += sample.bytes,
                Err(error) => return unknown(&error),
            }
        }
        Part {
            seconds: Some(self.plan.stored_bytes() as f64 * seconds / bytes.max(1) as f64),
            basis: format!(
                "{bytes} bytes of it were read and unpacked in {seconds:.2} s; writing to the disk comes on top"
            ),
        }
    }
}

async fn wal(store: &Store, outlook: &Outlook, rates: Option<&Rates>) -> Part {
    let count: u64 = outlook.wal.iter().map(|range| range.count).sum();
    if let Some((rates, replayed)) = rates.and_then(|rates| Some((rates, rates.replayed?))) {
        return Part {
            seconds: Some(count as f64 / replayed),
            basis: of_drill(rates),
        };
    }
    let (Some(first), Some(last)) = (outlook.wal.first(), outlook.wal.last()) else {
        return Part {
            seconds: Some(0.0),
            basis: "there is none".to_owned(),
        };
    };
    // The last one is seldom full, and compresses to nearly nothing then.
    let mut longest = match fetch(store, first.first).await {
        Ok(sample) => sample,
        Err(error) => return unknown(&error),
    };
    if first.first != last.last {
        match fetch(store, last.last).await {
            Ok(sample) if sample.seconds > longest.seconds => longest = sample,
            Ok(_) => {}
            Err(error) => return unknown(&error),
        }
    }
    Part {
        seconds: Some(count as f64 * longest.seconds),
        basis: format!(
            "one of {} was fetched in {:.3} s; no restore drill has measured the replay, which comes on top",
            counted(count as usize, "segment"),
            longest.seconds
        ),
    }
}

/// Fetch a segment, however it is compressed.
async fn fetch(store: &Store, segment: Segment) -> Result<Sample> {
    for format in Format::in_order(Format::Zstd) {
        let key = layout::wal(&WalFileName::Segment(segment), format);
        if let Some(size) = store.size(&key).await? {
            return sample(store, key, size).await;
        }
    }
    match Cover::find(store, segment).await? {
        Some(cover) => fetch_tail(store, &cover).await,
        None => Err(StorageError::NotFound {
            object: segment.to_string(),
        }
        .into()),
    }
}

/// Fetch what the tail has of a segment that is not archived whole, or as much of it as comes in a short time.
async fn fetch_tail(store: &Store, cover: &Cover) -> Result<Sample> {
    let begun = Instant::now();
    let mut sum = Sample::default();
    for chunk in &cover.chunks {
        let key = chunk.key();
        let object = || store.object_url(&key);
        let size = store.size(&key).await?;
        let size = size.ok_or_else(|| StorageError::NotFound { object: object() })?;
        let read = sample(store, key.clone(), size).await?;
        (sum.bytes, sum.seconds) = (sum.bytes + read.bytes, sum.seconds + read.seconds);
        if begun.elapsed() > LONGEST {
            break;
        }
    }
    Ok(sum)
}

fn of_drill(rates: &Rates) -> String {
    format!(
        "by the restore drill of {} on host \"{}\"",
        rates.at.format("%Y-%m-%d %H:%M:%S+00"),
        rates.host
    )
}

fn unknown(error: &Error) -> Part {
    Part {
        seconds: None,
        basis: format!("it could not be measured: {error}"),
    }
}

/// Read the beginning of an object through its decoder.
async fn sample(store: &Store, key: Key, size: u64) -> Result<Sample, Error> {
    let (mut reader, url) = (encrypted::reader(store, &key, size), store.object_url(&key));
    let (format, _) = Format::of_key(&key);
    let work = blocking(move || {
        let begun = Instant::now();
        let bytes = AtomicU64::new(0);
        let source = Counted {
            inner: &mut reader,
            bytes: &bytes,
        };
        let is_enough = || begun.elapsed() > LONGEST || bytes.load(Ordering::Relaxed) > SAMPLE;
        let mut buffer = vec![0; 128 << 10];
        let read = format.decoder(source).and_then(|mut decoder| {
            while !is_enough() && decoder.read(&mut buffer)? > 0 {}
            Ok(())
        });
        match read {
            Ok(()) => Ok(Sample {
                bytes: bytes.load(Ordering::Relaxed),
                seconds: begun.elapsed().as_secs_f64(),
            }),
            Err(error) => Err(encrypted::blame(
                &mut reader,
                url,
                format,
                format!("It cannot be read: {error}."),
            )),
        }
    });
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(sample) => sample,
        Err(_elapsed) => Err(Error::timeout("read", store.url(), DEADLINE)),
    }
}

/// Counts what is read.
struct Counted<'a, R> {
    inner: R,
    bytes: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

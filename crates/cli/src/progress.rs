//! Progress bars.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use walarchive_core::backup::BackupProgress;
use walarchive_core::copy::CopyProgress;
use walarchive_core::restore::ReadProgress;
use walarchive_core::retention;
use walarchive_core::rotate::RotateProgress;

use crate::print;

/// How often the bar is drawn.
const INTERVAL: Duration = Duration::from_millis(100);

const BYTES: &str = "{spinner} {bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left, {msg}";

/// On stderr, and hidden if that is not a terminal.
fn bar(quiet: bool) -> ProgressBar {
    let target = match quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    ProgressBar::with_draw_target(None, target)
}

/// Show the progress on stderr, if that is a terminal, while the work is done.
pub async fn show<T>(progress: Arc<ReadProgress>, quiet: bool, work: impl Future<Output = T>) -> T {
    watch(&bar(quiet), BYTES, work, |bar| {
        bar.set_length(progress.bytes_total.load(Ordering::Relaxed));
        bar.set_position(progress.bytes_done.load(Ordering::Relaxed));
        bar.set_message(format!("{} files", progress.files_done.load(Ordering::Relaxed)));
    })
    .await
}

/// The same for a backup.
pub async fn show_backup<T>(progress: &BackupProgress, quiet: bool, work: impl Future<Output = T>) -> T {
    watch(&bar(quiet), BYTES, work, |bar| {
        let now = progress.snapshot();
        bar.set_length(now.bytes_total);
        bar.set_position(now.bytes_done);
        bar.set_message(format!("{} stored", HumanBytes(now.stored)));
    })
    .await
}

/// How far a server says that it is.
#[derive(Debug, Default)]
pub struct ServerProgress(Mutex<(u64, u64, u64, String)>);

impl ServerProgress {
    /// Bytes read, bytes to read, bytes stored, and what it is doing.
    pub fn set(&self, done: u64, total: u64, stored: u64, phase: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (done, total, stored, phase.to_owned());
    }
}

/// The same for a backup that a server takes.
pub async fn show_server<T>(progress: &ServerProgress, quiet: bool, work: impl Future<Output = T>) -> T {
    watch(&bar(quiet), BYTES, work, |bar| {
        let (done, total, stored, phase) = &*progress.0.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set_length(*total);
        bar.set_position(*done);
        bar.set_message(format!("{} stored, {}", HumanBytes(*stored), print::plain(phase)));
    })
    .await
}

/// The same for a deletion.
pub async fn show_deletion<T>(progress: &retention::DeletionProgress, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{spinner} {human_pos} of {human_len} {wide_bar} {per_sec}, {eta} left, {msg}";
    watch(&bar, template, work, |bar| {
        let total = progress.total.load(Ordering::Relaxed);
        // Nothing is deleted yet, or nothing is to be.
        if total == 0 {
            return;
        }
        bar.set_length(total);
        bar.set_position(progress.done.load(Ordering::Relaxed));
        bar.set_message(HumanBytes(progress.bytes.load(Ordering::Relaxed)).to_string());
    })
    .await
}

/// The same for a copy of so many bytes.
pub async fn show_copy<T>(progress: &CopyProgress, total: u64, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    watch(&bar, BYTES, work, |bar| {
        bar.set_position(progress.bytes.load(Ordering::Relaxed));
        bar.set_message(format!("{} objects", progress.objects.load(Ordering::Relaxed)));
    })
    .await
}

/// The same for a rotation of keys.
pub async fn show_rotation<T>(progress: &RotateProgress, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = "{spinner} {human_pos} of {human_len} objects {wide_bar} {per_sec}, {eta} left, {msg}";
    watch(&bar, template, work, |bar| {
        bar.set_length(progress.total.load(Ordering::Relaxed));
        bar.set_position(progress.done.load(Ordering::Relaxed));
        bar.set_message(HumanBytes(progress.bytes.load(Ordering::Relaxed)).to_string());
    })
    .await
}

async fn watch<T>(bar: &ProgressBar, template: &str, work: impl Future<Output = T>, look: impl Fn(&ProgressBar)) -> T {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            result = &mut work => {
                bar.finish_and_clear();
                return result;
            }
            _ = ticks.tick() => look(bar),
        }
    }
}

//! A value that is made of files, and made again when they change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Watch;
use crate::error::Result;

/// Files are looked at no more often.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes the value; knows the one that is in use. The files must be watched from before they are read.
type Make<T> = Box<dyn Fn(Option<&T>) -> Result<(T, Watch)> + Send + Sync>;

/// Follows the files. The last good credentials serve as long as the files cannot be used.
pub(crate) struct Followed<T> {
    /// For messages: "credentials".
    what: &'static str,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    watch: Watch,
    looked: Instant,
    read: Instant,
    /// The fault of the files when they were read last: said once.
    reported: Option<String>,
}

impl<T> Followed<T> {
    pub(crate) fn new(
        what: &'static str,
        make: impl Fn(Option<&T>) -> Result<(T, Watch)> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (value, watch) = make(None)?;
        let now = Instant::now();
        Ok(Followed {
            what,
            make: Box::new(make),
            state: Mutex::new(State {
                value: Arc::new(value),
                watch,
                looked: now,
                read: now,
                reported: None,
            }),
        })
    }

    /// The value; the files are looked at if that is due.
    pub(crate) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock();
        if is_due(state.looked) {
            state.looked = Instant::now();
            if state.watch.has_changed() {
                self.read(&mut state);
            }
        }
        Arc::clone(&state.value)
    }

    /// The value after it was refused: the files are read again, once for all who are refused together.
    pub(crate) fn again(&self) -> Arc<T> {
        let mut state = self.state.lock();
        if state.watch.has_changed() || is_due(state.read) {
            self.read(&mut state);
        }
        Arc::clone(&state.value)
    }

    /// The value as it is.
    pub(crate) fn in_use(&self) -> Arc<T> {
        Arc::clone(&self.state.lock().value)
    }

    /// Would a look find something new?
    pub(crate) fn has_changed(&self) -> bool {
        self.state.lock().watch.has_changed()
    }

    fn read(&self, state: &mut State<T>) {
        state.looked = Instant::now();
        state.read = state.looked;
        match (self.make)(Some(&state.value)) {
            Ok((value, watch)) => {
                state.value = Arc::new(value);
                state.watch = watch;
                state.reported = None;
            }
            Err(error) => {
                let text = error.to_string();
                if state.reported.as_deref() != Some(&*text) {
                    tracing::warn!(%error, "the {} cannot be read again; the old content remains in use", self.what);
                    state.reported = Some(text);
                }
            }
        }
    }
}

fn is_due(last: Instant) -> bool {
    last.elapsed() >= LOOK_EVERY
}

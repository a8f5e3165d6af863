//! Whether a reload has brought other keys.
//!
//! PostgreSQL reloads its configuration for many reasons, and with another archive the tail begins anew: commits wait for that. So the
//! keys are read again after a reload, and what goes on with the same ones goes on as before.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use walarchive_core::Error;

use crate::bridge::{self, Bridge};
use crate::error;
use crate::pg::{process, server};
use crate::shmem::Failure;

/// After a reload nothing is begun before the keys were read, unless a program takes longer than this to print them.
const MOMENT: Duration = Duration::from_secs(2);

/// Keys that could not be read are read again so often.
const AGAIN: Duration = Duration::from_secs(10);

struct Look {
    /// The time of the reload that has led to it.
    reload: i64,
    changed: Receiver<Result<bool, Error>>,
}

/// See the module.
pub(super) struct Keys {
    /// The time of the reload after which the keys were looked at.
    looked: i64,
    look: Option<Look>,
    /// They could not be read, and are looked at again then.
    again: Option<Instant>,
}

impl Keys {
    /// From now on this process opens its archive anew when it says that keys have changed.
    pub(super) fn new() -> Self {
        let looked = server::reload_time();
        bridge::keys_changed(looked);
        Keys {
            looked,
            look: None,
            again: None,
        }
    }

    /// The configuration was read again.
    pub(super) fn restart(&mut self) {
        self.again = None;
    }

    /// Do what is due. Returns when to call this again; what changes wakes this process.
    pub(super) fn turn(&mut self, bridge: &'static Bridge) -> Duration {
        let now = Instant::now();
        match &self.look {
            Some(_) => self.collect(),
            None if self.looked == server::reload_time() => {}
            None if self.again.is_some_and(|again| now < again) => {}
            None => {
                // What failed once may take long, and is not waited for.
                let moment = if self.again.is_none() { MOMENT } else { Duration::ZERO };
                self.begin(bridge, now + moment);
            }
        }
        match (&self.look, self.again) {
            (None, Some(again)) => again.saturating_duration_since(Instant::now()),
            _ => AGAIN,
        }
    }

    fn begin(&mut self, bridge: &'static Bridge, until: Instant) {
        let reload = server::reload_time();
        // Without an archive of these settings one is opened, and that one reads them.
        let Some(keyring) = bridge::keyring() else {
            return self.changed(reload);
        };
        let (sender, changed) = channel();
        bridge.spawn_blocking(move || {
            // This fails if the process ends.
            let _ = sender.send(keyring.has_changed().map_err(Error::from));
        });
        self.look = Some(Look { reload, changed });
        while self.look.is_some() && !process::shutdown_requested() && Instant::now() < until {
            bridge.wait(Some(until.saturating_duration_since(Instant::now())));
            self.collect();
        }
    }

    fn collect(&mut self) {
        let Some(look) = &self.look else { return };
        let reload = look.reload;
        match look.changed.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(Ok(false)) => (self.looked, self.again) = (reload, None),
            Ok(Ok(true)) | Err(TryRecvError::Disconnected) => self.changed(reload),
            // As PostgreSQL goes on with its certificate when it cannot read another one.
            Ok(Err(error)) => {
                error::warn(
                    "could not read the encryption keys again, and those of before the reload are used",
                    &Failure::from(&error),
                );
                self.again = Some(Instant::now() + AGAIN);
            }
        }
        self.look = None;
    }

    fn changed(&mut self, reload: i64) {
        (self.looked, self.again) = (reload, None);
        bridge::keys_changed(reload);
    }
}

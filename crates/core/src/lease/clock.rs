//! Time that no administrator sets, and that does not stop while a process is stopped or a machine sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use once_cell::sync::OnceCell;
use serde::{Deserialize, Serialize};

/// A moment of this machine's life. All processes of the machine agree on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The boot of the machine: the kernel's boot ID.
    pub boot: String,
    /// Milliseconds since then.
    pub ms: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default();
        Moment {
            boot: boot().to_owned(),
            ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How long ago another moment was; none if the machine was started since, or it was on another machine.
    pub fn since(&self, earlier: &Moment) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| Duration::from_millis(self.ms.saturating_sub(earlier.ms)))
    }
}

/// The kernel's boot ID. Without one, no process trusts what another one has noted.
pub(super) fn boot() -> &'static str {
    static BOOT: OnceCell<String> = OnceCell::new();
    BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.trim() {
            "" => random(),
            id => id.to_owned(),
        }
    })
}

/// 128 random bits, as hexadecimal digits.
pub(super) fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

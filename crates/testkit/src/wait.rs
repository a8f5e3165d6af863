use std::thread::sleep;
use std::time::{Duration, Instant};

/// The deadline for things that take a moment on an idle machine: long, since a build may be running beside the tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds, looking every few milliseconds.
///
/// Panics with `what` (as in "the segment is archived") when it does not hold by `deadline`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !condition() {
        assert!(
            start.elapsed() < deadline,
            "after {} s still waiting until {what}",
            deadline.as_secs_f32()
        );
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

//! Lines that core logs on any thread. They are kept until the main thread writes them to the server's log.

use std::fmt::{self, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::error::{Severity, log_line};

/// The most lines that wait. More are dropped.
const BACKLOG: usize = 1000;

struct Line {
    severity: Severity,
    text: String,
}

static LINES: OnceCell<Mutex<Receiver<Line>>> = OnceCell::new();

/// Begin to listen, once per process.
pub(super) fn install() {
    LINES.get_or_init(|| {
        let (sender, receiver) = sync_channel(BACKLOG);
        // If another library in this process has set a subscriber, that one gets the lines, and the server's log does not.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Channel { sender }));
        Mutex::new(receiver)
    });
}

/// Write the lines so far to the server's log. Main thread only.
pub fn drain() {
    let Some(lines) = LINES.get() else { return };
    let lines: Vec<Line> = lines.lock().try_iter().collect();
    for line in lines {
        log_line(line.severity, &line.text);
    }
}

struct Channel {
    sender: SyncSender<Line>,
}

impl<S: Subscriber> Layer<S> for Channel {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let limit = if metadata.target().starts_with("walarchive") {
            Level::DEBUG
        } else {
            Level::WARN
        };
        *metadata.level() <= limit
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let severity = match *event.metadata().level() {
            Level::ERROR | Level::WARN => Severity::Warning,
            Level::INFO => Severity::Log,
            _ => Severity::Debug,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let _ = self.sender.try_send(Line { severity, text: text.0 });
    }
}

/// The message, and the fields in parentheses behind it.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(
                self.0,
                "{}{}={value:?}",
                if self.0.is_empty() { "" } else { " " },
                field.name()
            )
        };
        debug_assert!(written.is_ok(), "writing into a string does not fail");
    }
}

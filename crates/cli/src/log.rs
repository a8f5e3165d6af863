//! What core and the store say on their way: warnings as the verbs print theirs, and what `--verbose` adds with its time and place.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::registry::LookupSpan;
use walarchive_core::printable;

/// Begin to listen. `RUST_LOG` says what is printed; else warnings are, and more if `verbose`.
pub fn start(verbose: bool) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .event_format(Lines(Format::default()));
    // The usual case, without the filter's machinery: recovery calls this program for each segment.
    if !verbose && std::env::var_os(EnvFilter::DEFAULT_ENV).is_none() {
        return subscriber.with_max_level(LevelFilter::WARN).init();
    }
    let default = if verbose {
        "debug,hyper=info,reqwest=info"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    subscriber.with_env_filter(filter).init();
}

struct Lines(Format<Full>);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let severity = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => return self.0.format_event(context, writer, event),
        };
        let mut text = Text::default();
        event.record(&mut text);
        writeln!(writer, "walarchive: {severity}: {}", printable::lines(&text.shown()))
    }
}

/// The message; behind it the reason, and the other fields in parentheses.
#[derive(Default)]
struct Text {
    message: String,
    reason: Option<String>,
    fields: String,
}

impl Text {
    fn shown(&self) -> String {
        let reason = self.reason.iter().map(|reason| format!(": {reason}"));
        let fields = Some(&self.fields).filter(|fields| !fields.is_empty());
        let fields = fields.map(|fields| format!(" ({fields})"));
        std::iter::once(self.message.clone())
            .chain(reason)
            .chain(fields)
            .collect()
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "error" | "failure" => self.reason = Some(format!("{value:?}")),
            name => {
                let comma = if self.fields.is_empty() { "" } else { ", " };
                // A String takes everything.
                let _ = write!(self.fields, "{comma}{name} {value:?}");
            }
        }
    }
}

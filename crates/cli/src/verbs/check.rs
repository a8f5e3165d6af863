//! `check`.

use serde::Serialize;
use walarchive_core::Result;
use walarchive_core::check::{self, Check as Found, CheckStatus};
use walarchive_storage::Store;

use crate::print;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::{self, Storage};

/// `check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// Check the store, print a row for each check, and return the worst status.
pub async fn run(args: &Check) -> Result<CheckStatus> {
    let data_dir = usual_data_dir();
    let settings = repository::find(&args.storage, data_dir.as_deref())?;
    let mut checks = vec![Found::ok(
        "settings",
        format!("storage is \"{}\"", settings.storage.url),
    )];
    if let Err(error) = repository::refuse_plain_text(&settings) {
        checks.push(Found::of_error("encryption", &error));
    }
    match Store::open_settled(&settings.storage).await {
        Ok(store) => {
            checks.extend(check::check_store(&store, None).await);
            // If the store itself fails, the other checks tell nothing.
            if checks.iter().any(|check| check.name == "newest backup") {
                let holder = walarchive_core::lease::Lease::read(&store).await.ok().flatten();
                let timeline = holder.map(|lease| lease.timeline());
                checks.extend(check::check_lease(&store, None, timeline).await);
            }
        }
        Err(error) => checks.push(Found::of_error("store", &error.into())),
    }
    let text = match args.json {
        true => json(&checks),
        false => table(&checks),
    };
    print::out(&text).map(|()| check::worst(&checks))
}

/// One row.
#[derive(Serialize)]
struct Row<'a> {
    check: &'a str,
    status: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
}

fn json(checks: &[Found]) -> String {
    let rows: Vec<Row<'_>> = checks
        .iter()
        .map(|check| Row {
            check: check.name,
            status: check.status.as_str(),
            detail: &check.detail,
            hint: check.hint.as_deref(),
            latency_ms: check.latency_ms(),
        })
        .collect();
    print::json(&rows)
}

fn table(checks: &[Found]) -> String {
    let mut text = String::new();
    for check in checks {
        let latency = check
            .latency_ms()
            .map(|ms| format!(" ({ms:.1} ms)"))
            .unwrap_or_default();
        let detail = print::plain(&check.detail);
        text.push_str(&format!(
            "{:<8} {:<14} {detail}{latency}\n",
            check.status.as_str(),
            check.name
        ));
        if let Some(hint) = &check.hint {
            text.push_str(&format!("{:>23} {}\n", "HINT:", print::plain(hint)));
        }
    }
    text.push_str(&format!("worst: {}", check::worst(checks).as_str()));
    text
}

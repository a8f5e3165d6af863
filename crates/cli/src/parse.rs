//! Values on the command line.

use walarchive_core::Result;

/// A parser for clap that keeps the hint.
pub fn by<T>(parse: impl Fn(&str) -> Result<T> + Clone) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        parse(text).map_err(|error| match error.hint() {
            Some(hint) => format!("{error}\nHINT:  {hint}"),
            None => error.to_string(),
        })
    }
}

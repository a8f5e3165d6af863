//! A look at a connection string before it is used.

use walarchive_core::Result;

use crate::hosts::hosts;
use crate::params::Params;
use crate::tls::SslMode;

/// An error if [`Params::of_conninfo`] would not take it, or no connection could be made with it. No file is looked at.
pub fn check_conninfo(text: &str) -> Result<()> {
    let params = Params::in_conninfo(text)?;
    SslMode::of(&params)?;
    params.connect_timeout()?;
    hosts(&params).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::check_conninfo;

    #[test]
    fn what_cannot_be_used_is_refused() {
        for wrong in [
            "prot=7",
            "channel_binding=require",
            "x",
            "sslmode=foo",
            "port=x",
            "connect_timeout=soon",
        ] {
            assert!(check_conninfo(wrong).is_err(), "{wrong}");
        }
        for right in ["", "service=nobody_asks_now", "host=/tmp port=7 user=u"] {
            assert!(check_conninfo(right).is_ok(), "{right}");
        }
    }
}

//! A failure as plain data.

use super::text::Text;

/// Why something failed, in the terms of a server message.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// PostgreSQL's encoding of the SQLSTATE.
    pub sqlstate: i32,
    /// It was cancelled on purpose. A deadline that has passed has the same SQLSTATE, but is a failure.
    pub canceled: bool,
    /// The primary message.
    pub message: Text<512>,
    /// DETAIL.
    pub detail: Text<768>,
    /// HINT.
    pub hint: Text<512>,
}

impl Failure {
    /// Nothing failed.
    pub const NONE: Failure = Failure {
        sqlstate: 0,
        canceled: false,
        message: Text::EMPTY,
        detail: Text::EMPTY,
        hint: Text::EMPTY,
    };
}

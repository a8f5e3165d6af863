//! One bad answer, or credentials that change, in the middle of work of hours: the work goes on.
#![allow(missing_docs)]

#[path = "../../../storage/tests/support/mod.rs"]
mod support;

mod denials;
mod others;
mod passing;
mod renewal;
mod resets;
mod s3;
mod tokens;

//! What a session is for.

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SQL in a database.
    Sql,
    /// The commands of the replication protocol, without a database.
    Replication,
}

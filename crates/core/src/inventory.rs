//! What the repository holds.

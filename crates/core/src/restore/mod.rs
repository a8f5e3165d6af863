//! Restore a base backup.

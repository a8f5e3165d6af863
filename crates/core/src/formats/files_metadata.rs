//! `files_metadata.json`.

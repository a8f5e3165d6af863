//! End-to-end tests of walarchive on real PostgreSQL servers; see `tests/`.

pub mod site;

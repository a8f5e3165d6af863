//! One suite for all stores: what each of them does is compared with the table in docs/stores.md.
//!
//! `WALARCHIVE_WRITE_TABLE=1` writes the table again instead.

mod checks;
mod place;
mod stores;
mod suite;
mod table;

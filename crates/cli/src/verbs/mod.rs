//! The verbs, one file or folder for each, and `target`, which two of them share.

pub mod about;
pub mod backup_fetch;
pub mod backup_list;
pub mod backup_mark;
pub mod backup_push;
pub mod backup_verify;
pub mod catchup;
pub mod check;
pub mod copy;
pub mod delete;
pub mod encryption;
pub mod restore_points;
pub mod restore_test;
pub mod st;
pub mod take_over;
pub mod target;
pub mod wal_fetch;
pub mod wal_push;
pub mod wal_receive;
pub mod wal_restore;
pub mod wal_show;
pub mod wal_verify;

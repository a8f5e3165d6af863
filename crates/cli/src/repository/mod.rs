//! Where the repository is, and for which server it is written: flags, then `WALARCHIVE_*`, then WAL-G's variables, then the data
//! directory's files.

mod config_file;
pub mod data_dir;
mod flags;
mod keys;
mod names;
pub mod restored;
mod setting_flags;
mod settings;
mod sources;
mod wal_g;
pub mod writer;

pub use flags::Storage;
pub use keys::Choice;
pub use setting_flags::CommandLine;
pub use settings::{
    Settings, find, find_in_file, first_answer, flags, patient_store, refuse_plain_text, remark, remember_flags, store,
};
pub use sources::Sources;
pub use wal_g::{SLOT, TARGET_USER_DATA, variables};

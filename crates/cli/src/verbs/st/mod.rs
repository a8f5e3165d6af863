//! `st`: the objects of the repository, one by one.

mod list;
mod objects;

use clap::Subcommand;
use walarchive_core::Result;

use crate::repository::Storage;

/// `st`.
#[derive(Debug, clap::Args)]
pub struct StorageTools {
    #[command(subcommand)]
    tool: Tool,
    /// Take paths as patterns of a shell: * and ? stand for anything but a slash.
    #[arg(short, long, global = true)]
    glob: bool,
    /// The storage. There is only one, default; the flag is WAL-G's.
    #[arg(short, long, global = true, value_name = "NAME", value_parser = ["default"])]
    target: Option<String>,
}

/// The tools.
#[derive(Debug, Subcommand)]
enum Tool {
    /// List the objects and folders of a folder.
    Ls {
        /// The folder; by default the repository's own.
        folder: Option<String>,
        /// List the objects of its subfolders, too.
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// Show one object as ls would.
    Stat {
        /// The object.
        path: String,
        #[command(flatten)]
        storage: Storage,
    },
    /// Print an object on stdout, as it is stored.
    Cat {
        /// The object.
        path: String,
        /// Decompress it, as its name says. An encrypted one is decrypted before.
        #[arg(long)]
        decompress: bool,
        /// Decrypt it with the key that is configured.
        #[arg(long)]
        decrypt: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// Write an object into a file, decompressed. The file must not exist.
    Get {
        /// The object.
        path: String,
        /// The file, or a directory.
        destination: std::path::PathBuf,
        /// Leave it compressed.
        #[arg(long)]
        no_decompress: bool,
        /// Leave it encrypted. It cannot be decompressed then: use --no-decompress, too.
        #[arg(long)]
        no_decrypt: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// Store a file, compressed as WAL is; its object has the suffix of that.
    ///
    /// Nothing is overwritten without --force, and nothing is stored in walarchive_005, where walarchive keeps what it knows of
    /// the repository.
    Put(objects::Put),
    /// Delete an object, or all objects of a folder.
    ///
    /// There is no other question: this does not look at what a restore needs, as "delete" does. Like every verb that writes, it
    /// is refused beside a server that may not write into the repository. Objects in walarchive_005 are deleted only with --force:
    /// without it nobody knows any more who may write.
    Rm {
        /// The object, or the folder.
        path: String,
        /// Delete in walarchive_005, too.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        storage: Storage,
    },
    /// Find out whether the storage can be read, or written.
    Check {
        #[command(subcommand)]
        what: Check,
    },
}

/// The ways to try the storage.
#[derive(Debug, Subcommand)]
enum Check {
    /// List the storage, and look for objects.
    Read {
        /// The objects that must be there.
        files: Vec<String>,
        #[command(flatten)]
        storage: Storage,
    },
    /// Write an object with a random name, and delete it.
    Write {
        #[command(flatten)]
        storage: Storage,
    },
}

/// Do it.
pub async fn run(args: &StorageTools) -> Result<()> {
    match &args.tool {
        Tool::Ls {
            folder,
            recursive,
            storage,
        } => list::list(storage, folder.as_deref().unwrap_or_default(), *recursive, args.glob).await,
        Tool::Stat { path, storage } => list::stat(storage, path).await,
        Tool::Cat {
            path,
            decompress,
            decrypt,
            storage,
        } => {
            let form = objects::form(*decrypt || *decompress, *decompress);
            objects::cat(storage, path, form, *decrypt, args.glob).await
        }
        Tool::Get {
            path,
            destination,
            no_decompress,
            no_decrypt,
            storage,
        } => objects::get(storage, path, destination, objects::form(!no_decrypt, !no_decompress)).await,
        Tool::Put(put) => objects::put(put).await,
        Tool::Rm { path, force, storage } => objects::remove(storage, path, args.glob, *force).await,
        Tool::Check {
            what: Check::Read { files, storage },
        } => list::check_read(storage, files).await,
        Tool::Check {
            what: Check::Write { storage },
        } => objects::check_write(storage).await,
    }
}

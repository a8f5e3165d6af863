//! Objects that are read, written and deleted.

use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use walarchive_core::codec::Compression;
use walarchive_core::objects::{Existing, Form, Sealing, read_into, write_from};
use walarchive_core::repository::layout;
use walarchive_core::{Error, Result};
use walarchive_storage::{Created, Store};

use super::list::{matching, missing};
use crate::print;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::writer::{writable, writable_in_plain_text};
use crate::repository::{self, Storage, find};

/// `st put`.
#[derive(Debug, clap::Args)]
pub struct Put {
    /// The file and then the object; with --read-stdin the object alone.
    #[arg(required = true, num_args = 1..=2, value_names = ["FILE", "OBJECT"])]
    paths: Vec<PathBuf>,
    /// Store what comes from stdin.
    #[arg(short = 's', long)]
    read_stdin: bool,
    /// Do not compress it, and add no suffix.
    #[arg(long)]
    no_compress: bool,
    /// Store it in plain text even if the settings ask for encryption.
    #[arg(long)]
    no_encrypt: bool,
    /// Overwrite an object that is there.
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    storage: Storage,
}

/// The form in which an object is wanted.
pub fn form(decrypt: bool, decompress: bool) -> Form {
    match (decrypt, decompress) {
        (true, true) => Form::Plain,
        (true, false) => Form::Decrypted,
        (false, true) => Form::Decompressed,
        (false, false) => Form::Stored,
    }
}

/// `st cat`.
pub async fn cat(storage: &Storage, path: &str, form: Form, must_decrypt: bool, glob: bool) -> Result<()> {
    let store = repository::store(storage).await?;
    if must_decrypt && store.keyring().is_empty() {
        return Err(Error::config(
            "there is no key to decrypt with",
            "Give it with --encryption-key-file or --encryption-key-command, or in WAL-G's variables.",
        ));
    }
    let keys = match glob {
        true => matching(&store, path)
            .await?
            .objects
            .into_iter()
            .map(|object| object.key)
            .collect(),
        false => vec![path.trim_matches('/').to_owned()],
    };
    for key in keys {
        match read_into(&store, &key, form, std::io::stdout(), "stdout").await {
            // The reader has closed the pipe.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            read => read.map(|_| ())?,
        }
    }
    Ok(())
}

/// `st get`. The file gets its name when all of the object has proved right.
pub async fn get(storage: &Storage, path: &str, destination: &Path, form: Form) -> Result<()> {
    let store = repository::store(storage).await?;
    let key = path.trim_matches('/');
    let mut file = destination.to_owned();
    if file.is_dir() {
        file.push(key.rsplit('/').next().unwrap_or_default());
    }
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let create = |error| Error::io("create", &file, error);
    if file.symlink_metadata().is_ok() {
        return Err(create(nix::errno::Errno::EEXIST.into()));
    }
    let mut options = tempfile::Builder::new();
    options
        .prefix(".walarchive-")
        .permissions(Permissions::from_mode(0o640));
    let (sink, temporary) = options.tempfile_in(directory).map_err(create)?.into_parts();
    let (_, sink) = read_into(&store, key, form, sink, &file.display().to_string()).await?;
    sink.sync_all().map_err(|error| Error::io("write", &file, error))?;
    temporary
        .persist_noclobber(&file)
        .map_err(|failed| create(failed.error))
}

/// `st put`.
pub async fn put(args: &Put) -> Result<()> {
    let (source, name, object): (Box<dyn Read + Send>, String, &PathBuf) = match (&args.paths[..], args.read_stdin) {
        ([object], true) => (Box::new(std::io::stdin()), "stdin".to_owned(), object),
        ([file, object], false) => {
            let opened = File::open(file).map_err(|error| Error::io("open", file, error))?;
            if opened.metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(Error::config(
                    format!("\"{}\" is a directory", file.display()),
                    "Give a file. A directory is stored by the tools of the store.",
                ));
            }
            (Box::new(opened), file.display().to_string(), object)
        }
        _ => {
            return Err(Error::config(
                "it is not clear what is to be stored under which name",
                "Write \"st put FILE OBJECT\", or \"st put --read-stdin OBJECT\".",
            ));
        }
    };
    let key = object.to_string_lossy().trim_matches('/').to_owned();
    refuse_own(&key, "nothing is stored there by hand")?;
    let store = match args.no_encrypt {
        true => writable_in_plain_text(&args.storage).await?,
        false => writable(&args.storage).await?,
    };
    let compression = match args.no_compress {
        true => Compression::Plain,
        false => find(&args.storage, usual_data_dir().as_deref())?.compression,
    };
    let key = format!("{key}{}", compression.format().suffix());
    let existing = match args.force {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let sealing = match args.no_encrypt {
        true => Sealing::None,
        false => Sealing::AsStore,
    };
    // Before anything is read and sent.
    if existing == Existing::Keep && store.size(&key).await?.is_some() {
        return Err(exists(&store, &key));
    }
    match write_from(&store, &key, (compression, sealing), existing, source, &name).await? {
        Created::Yes => Ok(()),
        Created::Exists => Err(exists(&store, &key)),
    }
}

fn exists(store: &Store, key: &str) -> Error {
    Error::refused(
        format!("object \"{}\" exists", store.object_url(key)),
        "Use another name, or --force to overwrite it.",
    )
}

/// Nobody changes by hand the objects that walarchive keeps for itself.
fn refuse_own(key: &str, why: &str) -> Result<()> {
    let is_own = key == layout::OWN_FOLDER || key.starts_with(&format!("{}/", layout::OWN_FOLDER));
    match is_own || key.is_empty() {
        false => Ok(()),
        true => Err(Error::refused(
            format!("\"{key}\" belongs to what walarchive knows of the repository: {why}"),
            "Without it nobody knows any more whose the repository is, and who may write.",
        )),
    }
}

/// `st rm`.
pub async fn remove(storage: &Storage, path: &str, glob: bool, force: bool) -> Result<()> {
    let store = writable(storage).await?;
    let mut keys = Vec::new();
    match glob {
        true => {
            let found = matching(&store, path).await?;
            keys.extend(found.objects.into_iter().map(|object| object.key));
            for folder in found.folders.iter().filter(|folder| !folder.is_empty()) {
                keys.extend(store.list(folder).await?.into_iter().map(|object| object.key));
            }
        }
        false => {
            let key = path.trim_matches('/');
            if !path.ends_with('/') && !key.is_empty() && store.size(key).await?.is_some() {
                keys.push(key.to_owned());
            } else {
                keys.extend(store.list(key).await?.into_iter().map(|object| object.key));
            }
        }
    }
    if keys.is_empty() {
        return Err(missing(&store, path.trim_matches('/')));
    }
    if !force {
        keys.iter()
            .try_for_each(|key| refuse_own(key, "it is deleted with --force only"))?;
    }
    let mut deleted = 0usize;
    let result = store.delete_many(&keys, |_| deleted += 1).await;
    eprintln!("walarchive: {deleted} of {} objects were deleted", keys.len());
    Ok(result?)
}

/// `st check write`.
pub async fn check_write(storage: &Storage) -> Result<()> {
    let store = writable(storage).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let key = layout::check(&format!("st-{}-{}", std::process::id(), now.as_nanos()));
    let written = store.put(&key, "test".into()).await;
    let deleted = store.delete(&key).await;
    written.and(deleted)?;
    print::piece("")?;
    eprintln!("walarchive: the storage can be written");
    Ok(())
}

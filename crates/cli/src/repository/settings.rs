//! Where the repository is: flags, then `WALARCHIVE_*`, then WAL-G's variables, then the data directory's files.

use std::env::VarError;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use walarchive_core::archive::prefetch::{DEFAULT_SEGMENTS, MOST_SEGMENTS};
use walarchive_core::codec::{Compression, Format};
use walarchive_core::repository::layout;
use walarchive_core::server_config::ServerConfig;
use walarchive_core::{Error, Result, printable};
use walarchive_storage::crypt::{EncryptionConfig, WAL_G_KEYS};
use walarchive_storage::{StorageConfig, StorageOptions, Store};

use super::data_dir::usual_data_dir;
use super::flags::Storage;
use super::keys::{self, Choice, absolute};
use super::sources;
use super::wal_g::{self, Environment};

/// The settings that were found.
#[derive(Debug)]
pub struct Settings {
    /// The repository.
    pub storage: StorageConfig,
    /// The compression of new objects: from WAL-G's variable or the server's configuration.
    pub compression: Compression,
    /// WAL files that `wal-push` uploads at a time, at least 1.
    pub upload_concurrency: usize,
    /// The format in which an object is looked for first.
    pub reads_first: Format,
    /// Segments that are fetched ahead of recovery.
    pub prefetch: usize,
    /// What was said about the form of new objects.
    pub choice: Choice,
}

/// The flags that a later call needs to find the same settings.
static FLAGS: OnceLock<Vec<String>> = OnceLock::new();

/// Keep what [`Sources::adopt`] returned.
pub fn remember_flags(flags: Vec<OsString>) {
    let flags = flags.iter().map(|flag| flag.to_string_lossy().into_owned()).collect();
    // A process calls this once.
    let _ = FLAGS.set(flags);
}

/// For restore_command.
pub fn flags() -> Vec<String> {
    FLAGS.get().cloned().unwrap_or_default()
}

/// Call this before anything is written: nothing may be stored in plain text if WAL-G would have encrypted it, or where a key is
/// given.
pub fn refuse_plain_text(settings: &Settings) -> Result<()> {
    let variables = || std::env::vars_os();
    match (settings.choice, settings.storage.encryption.writes) {
        (Choice::Method, _) => Ok(()),
        (_, Some(_)) => walarchive_core::wal_g::refuse_other_encryption(variables()),
        (Choice::Nothing, None) => walarchive_core::wal_g::refuse_plain_text(variables()),
        (Choice::Keys, None) => {
            walarchive_core::wal_g::refuse_plain_text(variables())?;
            Err(Error::config(
                "a key is given, and it is not said how new objects are encrypted, so nothing is written",
                "Say it with --encryption or WALARCHIVE_ENCRYPTION: libsodium, openpgp, or none for plain text.",
            ))
        }
    }
}

/// Print once which of WAL-G's variables have no effect.
pub fn remark() {
    for remark in wal_g::remarks(&std::env::vars_os().collect::<Vec<_>>()) {
        eprintln!("walarchive: warning: {remark}");
    }
}

/// Find the settings. `data_dir` is the directory whose configuration files are read, if there is one.
pub fn find(flags: &Storage, data_dir: Option<&Path>) -> Result<Settings> {
    // A variable that is not text counts as unset. A key must not.
    for name in keys::VARIABLES {
        if let Err(VarError::NotUnicode(_)) = std::env::var(name) {
            return Err(Error::config(
                format!("{name} is not text"),
                "Write it, and the names of the files in it, in UTF-8.",
            ));
        }
    }
    let environment = |name: &str| match std::env::var(name) {
        // The key itself may be any bytes. That it is there is what counts here.
        Err(VarError::NotUnicode(_)) if WAL_G_KEYS.contains(&name) => Some("?".to_owned()),
        value => value.ok().filter(|value| !value.is_empty()),
    };
    let server = data_dir.map(ServerConfig::read).transpose()?.unwrap_or_default();
    find_in(flags, &environment, &server)
}

/// The store for a verb about the whole repository, wherever the server is.
pub async fn store(flags: &Storage) -> Result<Store> {
    let data_dir = usual_data_dir();
    Ok(Store::open_settled(&find(flags, data_dir.as_deref())?.storage).await?)
}

/// The same for work of hours, after the store has answered: a failure that passes within some minutes does not end it.
pub async fn patient_store(flags: &Storage) -> Result<Store> {
    let data_dir = usual_data_dir();
    Ok(Store::open_settled(&find(flags, data_dir.as_deref())?.storage.for_backup()).await?)
}

/// After this time without an answer a person at a terminal wants to know what is going on.
const SILENT: Duration = Duration::from_secs(5);

/// Ask a patient store for the first time, and say so if no answer comes soon: all that follows waits as long as this.
pub async fn first_answer(store: &Store) -> Result<()> {
    let mut asked = std::pin::pin!(store.size(&layout::CLUSTER));
    let answer = match tokio::time::timeout(SILENT, &mut asked).await {
        Ok(answer) => answer,
        Err(_) => {
            eprintln!(
                "walarchive: note: \"{}\" has not answered for {} s; it is asked again for up to 10 minutes",
                printable::line(store.url()),
                SILENT.as_secs()
            );
            asked.await
        }
    };
    match answer.map_err(Error::from) {
        Err(error) if error.is_transient() => Err(error),
        // What is asked next has an error of its own.
        _ => Ok(()),
    }
}

/// The storage of a configuration file.
#[derive(Debug)]
pub struct InFile {
    /// The storage.
    pub storage: StorageConfig,
    /// Nothing may be stored there in plain text.
    pub asks_for_encryption: bool,
    /// The file of its credentials, which is nowhere on disk.
    _secrets: Option<File>,
}

/// The storage that a configuration file names, and nothing else: neither flags nor the environment, which may be about another
/// one.
pub fn find_in_file(file: &Path) -> Result<InFile> {
    let settings = sources::settings_of_file(file)?;
    let environment = |name: &str| {
        let found = settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    let url = match environment("WALARCHIVE_STORAGE") {
        Some(url) => Some(url),
        None => wal_g::url(&environment)?,
    };
    let url = url.ok_or_else(|| {
        Error::config(
            format!("configuration file \"{}\" names no storage", file.display()),
            "It must have WALG_S3_PREFIX, WALG_FILE_PREFIX or another prefix.",
        )
    })?;
    let mut storage = StorageConfig::new(url.clone());
    if let Some(options) = environment("WALARCHIVE_STORAGE_OPTIONS") {
        storage.options = options.parse()?;
    }
    wal_g::add_options(&url, &mut storage.options, &environment)?;
    storage.encryption = EncryptionConfig {
        // Those of this process may be of another repository.
        wal_g: false,
        ..keys::find(&Storage::default(), &environment, None)?.0
    };
    let asks_for_encryption = storage.encryption.names_a_key()
        || storage.encryption.writes.is_some()
        || !walarchive_core::wal_g::encryption_settings(settings.iter().map(|(name, value)| (name, value))).is_empty();
    let mut held = None;
    if let Some(path) = environment("WALARCHIVE_CREDENTIALS_FILE") {
        storage.credentials_file = Some(PathBuf::from(path));
    } else {
        let secrets = wal_g::credentials(&url, &environment);
        if !secrets.is_empty() {
            let made = in_memory(&secrets);
            let (path, file) = made.map_err(|error| Error::io("create", "memory for the credentials", error))?;
            storage.credentials_file = Some(path);
            held = Some(file);
        }
    }
    Ok(InFile {
        storage,
        asks_for_encryption,
        _secrets: held,
    })
}

/// A file of such lines that only this process can open.
fn in_memory(lines: &[(String, String)]) -> std::io::Result<(PathBuf, File)> {
    let created = memfd_create(c"walarchive credentials", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(created);
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    for (key, value) in lines {
        writeln!(file, "{key} = {value}")?;
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok((path, file))
}

fn find_in(flags: &Storage, environment: Environment<'_>, server: &ServerConfig) -> Result<Settings> {
    let url = match flags.url.clone().or_else(|| environment("WALARCHIVE_STORAGE")) {
        Some(url) => url,
        None => match wal_g::url(environment)? {
            Some(url) => url,
            None => server.storage.clone().ok_or_else(unknown)?,
        },
    };
    // The server's options belong to the server's storage; with another one they would be wrong.
    let same_storage = server.storage.as_deref().map(str::trim) == Some(url.trim());
    let of_server = |value: &Option<String>| value.clone().filter(|_| same_storage);
    let mut options: StorageOptions = match environment("WALARCHIVE_STORAGE_OPTIONS") {
        Some(text) => text.parse()?,
        None => of_server(&server.storage_options).unwrap_or_default().parse()?,
    };
    for argument in &flags.options {
        options.insert_argument(argument)?;
    }
    wal_g::add_options(&url, &mut options, environment)?;
    let credentials_file = flags.credentials_file.clone();
    let credentials_file = credentials_file.or_else(|| environment("WALARCHIVE_CREDENTIALS_FILE").map(PathBuf::from));
    let credentials_file = credentials_file.or_else(|| server.credentials_file.clone().filter(|_| same_storage));
    let mut storage = StorageConfig::new(url);
    storage.options = options;
    storage.credentials_file = credentials_file.map(|file| absolute(&file)).transpose()?;
    let choice;
    (storage.encryption, choice) = keys::find(flags, environment, same_storage.then_some(&server.encryption))?;
    Ok(Settings {
        storage,
        compression: wal_g::compression(environment).unwrap_or_else(|| compression(server))?,
        upload_concurrency: wal_g::upload_concurrency(environment)?,
        reads_first: match wal_g::format(environment) {
            Some(format) => format,
            None => compression(server)?.format(),
        },
        prefetch: server.prefetch.unwrap_or(DEFAULT_SEGMENTS).min(MOST_SEGMENTS),
        choice,
    })
}

fn unknown() -> Error {
    Error::config(
        "the storage is not known",
        "Give --storage URL, set WALARCHIVE_STORAGE, or set walarchive.storage in the data directory's postgresql.conf.",
    )
}

fn compression(server: &ServerConfig) -> Result<Compression> {
    if server.compression.is_none() && server.compression_level.is_none() {
        return Ok(Compression::default());
    }
    let level = match server.compression_level.as_deref().map(str::parse) {
        None => 1,
        Some(Ok(level)) => level,
        Some(Err(_)) => {
            return Err(Error::config(
                "walarchive.compression_level is not a number",
                "Correct it in the server's configuration.",
            ));
        }
    };
    Compression::new(server.compression.as_deref().unwrap_or("zstd"), level)
}

#[cfg(test)]
mod tests {
    use walarchive_core::server_config::encryption::EncryptionSettings;
    use walarchive_storage::crypt::Method;

    use super::*;

    fn find_with(flags: &Storage, environment: &[(&str, &str)], server: &ServerConfig) -> Result<StorageConfig> {
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        find_in(flags, &lookup, server).map(|settings| settings.storage)
    }

    fn server() -> ServerConfig {
        ServerConfig {
            storage: Some("s3://server/p".to_owned()),
            storage_options: Some("aws_region=server".to_owned()),
            credentials_file: Some(PathBuf::from("/server/keys")),
            ..ServerConfig::default()
        }
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_server() {
        let mut environment = vec![("WALG_FILE_PREFIX", "/wal g")];
        let url = |flags: &Storage, environment: &[(&str, &str)]| {
            find_with(flags, environment, &server()).expect("found").url
        };
        let flags = Storage {
            url: Some("file:///flag".to_owned()),
            ..Storage::default()
        };
        assert_eq!(url(&Storage::default(), &[]), "s3://server/p");
        assert_eq!(url(&Storage::default(), &environment), "file:///wal%20g");
        environment.push(("WALG_S3_PREFIX", "s3://walg/p"));
        assert_eq!(url(&Storage::default(), &environment), "s3://walg/p");
        environment.push(("WALARCHIVE_STORAGE", "file:///env"));
        assert_eq!(url(&Storage::default(), &environment), "file:///env");
        assert_eq!(url(&flags, &environment), "file:///flag");
        assert!(find_with(&Storage::default(), &[], &ServerConfig::default()).is_err());
        assert!(find_with(&Storage::default(), &[("WALG_FILE_PREFIX", "relative")], &server()).is_err());
    }

    #[test]
    fn a_file_says_whether_its_storage_is_to_be_encrypted() {
        for (line, asks) in [
            ("", false),
            (r#", "WALG_LIBSODIUM_KEY": "k""#, true),
            (r#", "WALG_PGP_KEY_PATH": "/k""#, true),
            (r#", "WALARCHIVE_ENCRYPTION_KEY_FILE": "/k""#, true),
            (r#", "WALARCHIVE_ENCRYPTION_KEY_COMMAND": "/k""#, true),
            (r#", "WALARCHIVE_ENCRYPTION": "openpgp""#, true),
            (r#", "WALG_PGP_KEY_PATH": """#, false),
        ] {
            let mut file = tempfile::Builder::new().suffix(".json").tempfile().expect("made");
            write!(file, r#"{{"WALG_FILE_PREFIX": "/r"{line}}}"#).expect("written");
            let found = find_in_file(file.path()).expect("found");
            assert_eq!(found.asks_for_encryption, asks, "{line}");
        }
    }

    #[test]
    fn options_belong_to_their_storage() {
        let of_server = find_with(&Storage::default(), &[], &server()).expect("found");
        assert_eq!(of_server.options.to_string(), "aws_region=server");
        assert_eq!(of_server.credentials_file, Some(PathBuf::from("/server/keys")));
        let other = find_with(&Storage::default(), &[("WALARCHIVE_STORAGE", "s3://other")], &server()).expect("found");
        assert_eq!((other.options.to_string().as_str(), other.credentials_file), ("", None));
        let flags = Storage {
            options: vec!["aws_region=flag".to_owned()],
            credentials_file: Some(PathBuf::from("keys")),
            ..Storage::default()
        };
        let environment = [("WALARCHIVE_STORAGE_OPTIONS", "aws_region=env,allow_http=true")];
        let found = find_with(&flags, &environment, &server()).expect("found");
        assert_eq!(found.options.to_string(), "allow_http=true,aws_region=flag");
        assert!(found.credentials_file.is_some_and(|file| file.is_absolute()));
    }

    #[test]
    fn keys_and_method_come_from_flags_the_environment_wal_g_and_then_the_server() {
        let mut server = server();
        server.encryption = EncryptionSettings {
            method: Some("libsodium".to_owned()),
            key_file: Some("key".to_owned()),
            accept_plain: true,
            metadata: true,
            directory: PathBuf::from("/data"),
            ..EncryptionSettings::default()
        };
        let no_flags = Storage::default();
        let find = |flags: &Storage, environment: &[(&str, &str)]| {
            find_with(flags, environment, &server).map(|found| found.encryption)
        };
        let of_server = find(&no_flags, &[]).expect("found");
        assert_eq!(of_server.writes, Some(Method::Libsodium));
        assert_eq!(of_server.key_files, [PathBuf::from("/data/key")]);
        assert!(of_server.accept_plain && of_server.metadata);
        // The settings of another storage are not for this one.
        let other = find(&no_flags, &[("WALARCHIVE_STORAGE", "s3://other")]).expect("found");
        assert_eq!(
            (other.writes, other.names_a_key(), other.accept_plain, other.metadata),
            (None, false, false, false)
        );
        let mut environment = vec![("WALG_LIBSODIUM_KEY", "k"), ("WALG_PGP_KEY_PATH", "/p")];
        let of_wal_g = find(&no_flags, &environment).expect("found");
        assert_eq!(
            of_wal_g.writes,
            Some(Method::OpenPgp),
            "WAL-G looks for these keys first"
        );
        environment.extend([
            ("WALARCHIVE_ENCRYPTION", "libsodium"),
            ("WALARCHIVE_ENCRYPTION_KEY_FILE", "/a,/b"),
            ("WALARCHIVE_ENCRYPTION_KEY_COMMAND", "/bin/key main"),
            ("WALARCHIVE_ENCRYPTION_ACCEPT_PLAIN", "off"),
            ("WALARCHIVE_ENCRYPT_METADATA", "off"),
        ]);
        let of_environment = find(&no_flags, &environment).expect("found");
        assert_eq!(of_environment.writes, Some(Method::Libsodium));
        assert_eq!(of_environment.key_files, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(of_environment.key_command, ["/bin/key", "main"]);
        assert!(!of_environment.accept_plain && !of_environment.metadata);
        let flags = Storage {
            encryption: Some("none".to_owned()),
            encryption_key_file: vec![PathBuf::from("/a,b")],
            encrypt_metadata: true,
            ..Storage::default()
        };
        let of_flags = find(&flags, &environment).expect("found");
        assert_eq!(of_flags.writes, None);
        assert_eq!(of_flags.key_files, [PathBuf::from("/a,b")]);
        assert!(of_flags.key_command.is_empty() && of_flags.metadata);
        assert!(find(&no_flags, &[("WALARCHIVE_ENCRYPT_METADATA", "maybe")]).is_err());
        assert!(find(&no_flags, &[("WALARCHIVE_ENCRYPTION", "libsodum")]).is_err());
    }

    #[test]
    fn wal_gs_variables_become_options() {
        let environment = [
            ("WALG_S3_PREFIX", "s3://walg/p"),
            ("AWS_ENDPOINT", "http://h:9000"),
            ("AWS_REGION", "eu"),
            ("AWS_S3_FORCE_PATH_STYLE", "true"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ];
        let found = find_with(&Storage::default(), &environment, &ServerConfig::default()).expect("found");
        assert_eq!(
            found.options.to_string(),
            "allow_http=true,aws_endpoint=http://h:9000,aws_region=eu,aws_virtual_hosted_style_request=false"
        );
        let flags = Storage {
            options: vec!["endpoint=https://flag".to_owned(), "aws_secret_access_key=x".to_owned()],
            ..Storage::default()
        };
        assert!(
            find_with(&flags, &environment, &ServerConfig::default()).is_err(),
            "secrets are no options"
        );
    }
}

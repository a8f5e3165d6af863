use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::azurite::AzuriteServer;
use crate::dir::{TestDir, give_to_server};
use crate::gcs::GcsServer;
use crate::moto::MotoServer;
use crate::s3::S3Server;
use crate::sftp::SftpServer;
use crate::swift::SwiftServer;

/// A store for one test, whatever its kind: what walarchive must be told to use it.
pub trait StoreServer: Send + Sync {
    /// The value for walarchive.storage. Several prefixes are several repositories in one store.
    fn url(&self, prefix: &str) -> String;

    /// The value for walarchive.storage_options; may be empty.
    fn options(&self) -> String;

    /// The environment variables with the right credentials.
    fn env(&self) -> Vec<(String, String)>;

    /// The same as lines of walarchive.credentials_file.
    fn credentials(&self) -> Vec<(String, String)> {
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        self.env().into_iter().map(lower).collect()
    }

    /// Those of the credentials that nobody may see.
    fn secrets(&self) -> Vec<String> {
        let secret = |name: &str| {
            ["secret", "password", "key"].iter().any(|word| name.contains(word))
                && !["key_id", "path", "file"].iter().any(|word| name.contains(word))
        };
        let credentials = self.credentials().into_iter();
        credentials
            .filter(|(name, _)| secret(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The directory that holds all objects as files, if there is one.
    fn files(&self) -> Option<PathBuf> {
        None
    }

    /// Whether it keeps its objects in memory only, and they do not survive a stop.
    fn forgets(&self) -> bool {
        false
    }

    /// From now on nothing answers.
    fn stop(&self);

    /// The store is there again, in the same place.
    fn start_again(&self);
}

/// A directory as a store.
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// An empty one.
    #[track_caller]
    pub fn start(dir: &TestDir) -> Directory {
        Directory {
            root: dir.subdir("store"),
        }
    }

    fn elsewhere(&self) -> PathBuf {
        self.root.with_extension("unmounted")
    }
}

impl StoreServer for Directory {
    /// Makes the directory, as a DBA must.
    fn url(&self, prefix: &str) -> String {
        let path = self.root.join(prefix);
        if !path.exists() && self.root.exists() {
            std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("could not create {}: {e}", path.display()));
            for made in path.ancestors().take_while(|made| **made != self.root) {
                give_to_server(made);
            }
        }
        format!("file://{}", path.display())
    }

    fn options(&self) -> String {
        String::new()
    }

    fn env(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn files(&self) -> Option<PathBuf> {
        Some(self.root.clone())
    }

    /// As if its file system were unmounted.
    fn stop(&self) {
        std::fs::rename(&self.root, self.elsewhere()).expect("could not take the directory away");
    }

    /// Files that were written meanwhile are below the mount point, and hidden.
    fn start_again(&self) {
        let _ = std::fs::remove_dir_all(&self.root);
        std::fs::rename(self.elsewhere(), &self.root).expect("could not bring the directory back");
    }
}

/// All servers have these methods under the same names.
macro_rules! store_server {
    ($server:ty $(, $method:item)*) => {
        impl StoreServer for $server {
            fn url(&self, prefix: &str) -> String {
                <$server>::url(self, prefix)
            }

            fn options(&self) -> String {
                <$server>::options(self)
            }

            fn env(&self) -> Vec<(String, String)> {
                let pairs = <$server>::env(self).into_iter();
                pairs.map(|(name, value)| (name.to_owned(), value.to_string())).collect()
            }

            fn stop(&self) {
                <$server>::stop(self);
            }

            fn start_again(&self) {
                <$server>::start_again(self);
            }

            $($method)*
        }
    };
}

store_server!(
    S3Server,
    // Unfinished uploads lie beside the bucket.
    fn files(&self) -> Option<PathBuf> {
        self.dir().parent().map(PathBuf::from)
    }
);

store_server!(
    MotoServer,
    fn forgets(&self) -> bool {
        true
    }
);

store_server!(
    AzuriteServer,
    // Its index is written every few seconds only, and a kill comes in between.
    fn forgets(&self) -> bool {
        true
    }
);

store_server!(SwiftServer);

store_server!(
    SftpServer,
    // The options name the key.
    fn credentials(&self) -> Vec<(String, String)> {
        Vec::new()
    },
    fn files(&self) -> Option<PathBuf> {
        Some(self.dir())
    }
);

store_server!(
    GcsServer,
    // The credentials are a file's name; the secret is in that file.
    fn secrets(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.key_file()).expect("no key file");
        let lines = text.split("\\n").map(str::to_owned);
        lines.filter(|line| line.len() == 64).collect()
    }
);

impl TestDir {
    /// Writes a credentials file for walarchive that only the servers' user can read, and returns its path.
    #[track_caller]
    pub fn credentials_file(&self, name: &str, credentials: &[(String, String)]) -> PathBuf {
        let lines: String = credentials
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        self.secret_file(name, lines.as_bytes())
    }

    /// Writes a file that only the servers' user can read, and returns its path.
    #[track_caller]
    pub fn secret_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content))
            .unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
        give_to_server(&path);
        path
    }
}

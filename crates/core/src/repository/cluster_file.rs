//! `cluster.json`, as it is stored.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::formats::manifest::unhex;
use crate::repository::layout;
use walarchive_storage::Store;
use walarchive_storage::crypt::Method;

/// The version of everything that this project adds to WAL-G's layout.
const PLAIN: u32 = 1;

/// That of a repository with a mark of encryption. Programs that know no mark refuse it by this version.
const ENCRYPTED: u32 = 2;

/// The newest version that is known here.
const FORMAT_VERSION: u32 = ENCRYPTED;

/// More than any `cluster.json` has, in bytes.
pub(super) const LIMIT: u64 = 64 << 10;

/// `cluster.json`. Fields that a later version adds are left as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ClusterFile {
    pub(super) format_version: u32,
    pub(super) system_identifier: u64,
    pub(super) pg_major_version: u32,
    pub(super) wal_segment_size: u64,
    encryption: Encryption,
    /// The keys from before encryption was turned off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    encrypted_before: Vec<KeyName>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Encryption {
    Is(bool),
    By(Mark),
}

/// A key, told without showing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName {
    /// "libsodium" or "openpgp".
    pub method: String,
    /// 16 hexadecimal digits that the key gives with the salt.
    pub key_id: String,
    /// Hexadecimal digits.
    pub salt: String,
}

impl KeyName {
    /// The salt as bytes, for [`Keyring::key_ids`](walarchive_storage::crypt::Keyring::key_ids).
    pub fn salt(&self) -> Vec<u8> {
        unhex(&self.salt).unwrap_or_default()
    }
}

/// Says that a repository is encrypted, and with which key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The key that new objects are encrypted with.
    #[serde(flatten)]
    pub key: KeyName,
    /// A small text, encrypted with that key, in base64.
    pub(super) token: String,
    /// There may be objects from before encryption was turned on, in plain text.
    pub plain_before: bool,
    /// The keys that other objects may be encrypted with.
    #[serde(default)]
    pub former_keys: Vec<KeyName>,
}

/// Is a repository encrypted?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has no owner yet, so nobody has said.
    Unclaimed,
    /// It is not.
    Plain {
        /// The keys that objects were encrypted with before encryption was turned off.
        former_keys: Vec<KeyName>,
    },
    /// It is.
    Encrypted(Mark),
}

impl State {
    /// The keys that objects of the repository may be encrypted with.
    pub fn keys(&self) -> Vec<KeyName> {
        match self {
            State::Unclaimed => Vec::new(),
            State::Plain { former_keys } => former_keys.clone(),
            State::Encrypted(mark) => [std::slice::from_ref(&mark.key), &mark.former_keys].concat(),
        }
    }
}

/// The name of a method, as settings have it.
pub fn method_name(method: Method) -> &'static str {
    match method {
        Method::Libsodium => "libsodium",
        Method::OpenPgp => "openpgp",
    }
}

impl ClusterFile {
    /// That of a cluster whose repository is not encrypted.
    pub(super) fn new(system_identifier: u64, pg_major_version: u32, wal_segment_size: u64) -> Self {
        ClusterFile {
            format_version: PLAIN,
            system_identifier,
            pg_major_version,
            wal_segment_size,
            encryption: Encryption::Is(false),
            encrypted_before: Vec::new(),
            others: serde_json::Map::new(),
        }
    }

    pub(super) async fn read(store: &Store) -> Result<Option<Self>> {
        let content = store.get(&layout::CLUSTER, LIMIT).await?;
        content.map(|content| Self::parse(store, &content)).transpose()
    }

    pub(super) fn parse(store: &Store, content: &[u8]) -> Result<Self> {
        serde_json::from_slice(content).map_err(|error| {
            Error::damaged(
                store.object_url(&layout::CLUSTER),
                format!("It cannot be read: {error}."),
            )
        })
    }

    pub(super) fn content(&self) -> Result<Bytes> {
        let content = serde_json::to_vec_pretty(self);
        let content = content.map_err(|error| Error::defect(format!("cannot write JSON: {error}")))?;
        Ok(Bytes::from(content))
    }

    /// Why nobody here can tell how the repository is encrypted, as a sentence; none if that can be told.
    pub(super) fn unknown(&self) -> Option<String> {
        match &self.encryption {
            _ if self.format_version > FORMAT_VERSION => Some(format!(
                "Its format version is {}, this program knows up to {FORMAT_VERSION}.",
                self.format_version
            )),
            Encryption::Is(true) => Some("It says that its content is encrypted, and not with which key.".to_owned()),
            Encryption::Is(false) | Encryption::By(_) => None,
        }
    }

    /// Is the repository encrypted? An error if nobody here can tell.
    pub(super) fn state(&self, store: &Store) -> Result<State> {
        match (self.unknown(), &self.encryption) {
            (Some(reason), _) => Err(Error::ForeignRepository {
                repository: store.url().to_owned(),
                reason,
            }),
            (None, Encryption::By(mark)) => Ok(State::Encrypted(mark.clone())),
            (None, Encryption::Is(_)) => Ok(State::Plain {
                former_keys: self.encrypted_before.clone(),
            }),
        }
    }

    /// The same file with this state.
    pub(super) fn with(self, state: State) -> Self {
        let (format_version, encryption, encrypted_before) = match state {
            State::Encrypted(mark) => (ENCRYPTED, Encryption::By(mark), Vec::new()),
            State::Plain { former_keys } => (PLAIN, Encryption::Is(false), former_keys),
            State::Unclaimed => (PLAIN, Encryption::Is(false), Vec::new()),
        };
        ClusterFile {
            format_version,
            encryption,
            encrypted_before,
            ..self
        }
    }
}

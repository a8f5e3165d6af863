//! Who owns a repository: `walarchive_005/cluster.json`.

use bytes::Bytes;
use serde::Deserialize;

use super::cluster_file::{ClusterFile, LIMIT};
use super::encryption::{self, State};
use crate::error::{Error, Result};
use crate::repository::description;
use crate::repository::layout::{self, Key};
use crate::version;
use crate::wal::SegmentSize;
use walarchive_storage::{CreateOnly, Created, Store};

/// The cluster that writes into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// From `pg_control`.
    pub system_identifier: u64,
    /// PostgreSQL's major version, for example 15; see [`version`].
    pub major_version: u32,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
}

/// Make sure that the repository is this cluster's, and that its mark says how this store's keys encrypt: claim it if it is
/// nobody's, refuse it if it is another's, or encrypted in another way. On the way the store is asked whether its create-only
/// writes can be relied on: `cluster.json` is created a second time with the content that it has anyway.
pub async fn claim(store: &Store, identity: &ClusterIdentity) -> Result<CreateOnly> {
    let found = owned(store, identity).await?;
    claim_found(store, identity, found).await
}

/// The same, after [`owned`].
pub(crate) async fn claim_found(store: &Store, identity: &ClusterIdentity, found: Option<Bytes>) -> Result<CreateOnly> {
    let content = match found {
        Some(content) => content,
        None => {
            let mark = encryption::judge(store, &State::Unclaimed, identity.system_identifier).await?;
            claim_new(store, identity, mark.map_or(State::Unclaimed, State::Encrypted)).await?
        }
    };
    check(store, &content, identity)?;
    let content = encryption::settle_found(store, content).await?;
    check(store, &content, identity)?;
    Ok(store.probe_create_only(&layout::CLUSTER, content).await?)
}

/// Make a repository of nobody this cluster's, encrypted as `state` says. Returns what is there then.
async fn claim_new(store: &Store, identity: &ClusterIdentity, state: State) -> Result<Bytes> {
    let (system, version) = (identity.system_identifier, identity.major_version);
    let file = ClusterFile::new(system, version, identity.segment_size.bytes()).with(state.clone());
    let content = file.content()?;
    match store.create(&layout::CLUSTER, content.clone()).await? {
        Created::Yes => {
            tracing::info!(repository = store.url(), "claimed the repository for this cluster");
            if let State::Encrypted(mark) = &state {
                encryption::tell(store, &State::Unclaimed, mark);
            }
        }
        Created::Exists => {}
    }
    // Read back: another cluster may have come first, and on a store that overwrites it may have come last.
    Ok(store.get(&layout::CLUSTER, LIMIT).await?.unwrap_or(content))
}

/// The same for a copy of another repository, which carries objects as they are: what is said of the encryption of that one is said
/// of this one, too.
pub(crate) async fn claim_for_copy(
    (from, of_source): (&Store, &State),
    to: &Store,
    identity: &ClusterIdentity,
) -> Result<CreateOnly> {
    let content = match owned(to, identity).await? {
        Some(content) => encryption::join((from, of_source), to, content).await?,
        None => claim_new(to, identity, of_source.clone()).await?,
    };
    check(to, &content, identity)?;
    Ok(to.probe_create_only(&layout::CLUSTER, content).await?)
}

/// Does the repository belong to this cluster, or to nobody yet (false)? An error if it is another's. Writes nothing.
pub async fn is_owned(store: &Store, identity: &ClusterIdentity) -> Result<bool> {
    Ok(owned(store, identity).await?.is_some())
}

/// The same, with the content of `cluster.json`.
pub(crate) async fn owned(store: &Store, identity: &ClusterIdentity) -> Result<Option<Bytes>> {
    let found = store.get(&layout::CLUSTER, LIMIT).await?;
    match &found {
        Some(content) => check(store, content, identity)?,
        None => refuse_foreign_backups(store, identity).await?,
    }
    Ok(found)
}

/// The cluster to which the repository belongs; none if `cluster.json` is not there.
pub async fn owner(store: &Store) -> Result<Option<ClusterIdentity>> {
    let Some(content) = store.get(&layout::CLUSTER, LIMIT).await? else {
        return Ok(None);
    };
    let file = ClusterFile::parse(store, &content)?;
    Ok(Some(ClusterIdentity {
        system_identifier: file.system_identifier,
        major_version: file.pg_major_version,
        segment_size: SegmentSize::new(file.wal_segment_size)
            .map_err(|error| Error::damaged(store.object_url(&layout::CLUSTER), format!("It is wrong: {error}.")))?,
    }))
}

fn check(store: &Store, content: &[u8], identity: &ClusterIdentity) -> Result<()> {
    let file = ClusterFile::parse(store, content)?;
    let reason = if let Some(reason) = file.unknown() {
        reason
    } else if file.system_identifier != identity.system_identifier {
        foreign(file.system_identifier, identity)
    } else if file.pg_major_version != identity.major_version {
        format!(
            "It is of PostgreSQL {}, this cluster is of {}.",
            version::name(file.pg_major_version),
            version::name(identity.major_version)
        )
    } else if file.wal_segment_size != identity.segment_size.bytes() {
        return Err(other_segment_size(store, file.wal_segment_size, identity.segment_size));
    } else {
        return Ok(());
    };
    Err(Error::ForeignRepository {
        repository: store.url().to_owned(),
        reason,
    })
}

/// A repository that WAL-G wrote has no `cluster.json`, but its backups tell whose they are.
async fn refuse_foreign_backups(store: &Store, identity: &ClusterIdentity) -> Result<()> {
    #[derive(Deserialize)]
    struct Origin {
        #[serde(rename = "SystemIdentifier")]
        system_identifier: Option<u64>,
    }
    let sentinels = store.list_shallow(&layout::BACKUPS_FOLDER).await?;
    let newest = sentinels
        .into_iter()
        .filter(|object| layout::backup_of_sentinel(&object.key).is_some())
        .max_by_key(|object| object.last_modified);
    let Some(newest) = newest else { return Ok(()) };
    let content = description::read(store, &Key::listed(&newest)).await?;
    let owner = content.and_then(|content| serde_json::from_slice::<Origin>(&content).ok()?.system_identifier);
    match owner {
        Some(owner) if owner != 0 && owner != identity.system_identifier => Err(Error::ForeignRepository {
            repository: store.url().to_owned(),
            reason: foreign(owner, identity),
        }),
        _ => Ok(()),
    }
}

fn other_segment_size(store: &Store, of_repository: u64, of_cluster: SegmentSize) -> Error {
    Error::OtherSegmentSize {
        repository: store.url().to_owned(),
        of_repository,
        of_cluster: of_cluster.bytes(),
    }
}

/// Does this cluster write WAL segments of the size that the repository has? After a change segments have other names, so what was
/// and what is cannot be compared.
pub fn check_segment_size(store: &Store, of_repository: SegmentSize, of_cluster: SegmentSize) -> Result<()> {
    match of_repository == of_cluster {
        true => Ok(()),
        false => Err(other_segment_size(store, of_repository.bytes(), of_cluster)),
    }
}

fn foreign(owner: u64, identity: &ClusterIdentity) -> String {
    format!(
        "Its system identifier is {owner}, this cluster's is {}.",
        identity.system_identifier
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn identity(system_identifier: u64) -> ClusterIdentity {
        ClusterIdentity {
            system_identifier,
            major_version: 15,
            segment_size: SegmentSize::DEFAULT,
        }
    }

    #[tokio::test]
    async fn a_second_cluster_is_refused() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        assert_eq!(
            claim(&store, &identity(1)).await.expect("claimed"),
            CreateOnly::Honoured
        );
        assert_eq!(claim(&store, &identity(1)).await.expect("ours"), CreateOnly::Honoured);
        assert!(matches!(
            claim(&store, &identity(2)).await,
            Err(Error::ForeignRepository { .. })
        ));
        let wider = ClusterIdentity {
            segment_size: SegmentSize::new(64 << 20).expect("a size"),
            ..identity(1)
        };
        let error = claim(&store, &wider).await.expect_err("refused");
        let said = format!(
            "{error} {} {}",
            error.detail().unwrap_or_default(),
            error.hint().unwrap_or_default()
        );
        for says in [
            "WAL segments of 16777216 bytes, and this cluster writes segments of 67108864",
            "pg_resetwal",
            "prefix of its own",
        ] {
            assert!(said.contains(says), "{said}");
        }
        assert!(!said.contains("another cluster"), "{said}");
    }

    #[tokio::test]
    async fn the_backups_of_another_cluster_are_enough_to_refuse() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        store
            .put(&layout::sentinel("base_1"), r#"{"SystemIdentifier": 2}"#.into())
            .await
            .expect("written");
        assert!(matches!(
            claim(&store, &identity(1)).await,
            Err(Error::ForeignRepository { .. })
        ));
        assert_eq!(
            store.size(&layout::CLUSTER).await.expect("asked"),
            None,
            "nothing was written"
        );
        claim(&store, &identity(2)).await.expect("its own");
    }
}

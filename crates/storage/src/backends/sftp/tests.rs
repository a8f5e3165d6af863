//! Cases that cannot be brought about from outside: answers that were lost, and what they would have said.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use url::Url;
use walarchive_testkit::{PATIENCE, SftpServer, TestDir, wait_until};

use super::config::Settings;
use super::failure::Failure;
use super::pool::Pool;
use super::session::Session;
use super::temporary::{Temporary, is_temporary};
use super::write;
use super::write::Publish;
use crate::config::StorageConfig;
use crate::renewal::Followed;

fn settings(server: &SftpServer) -> Arc<Followed<Settings>> {
    let config = StorageConfig {
        options: server.options().parse().expect("options"),
        ..StorageConfig::new(server.url("p"))
    };
    let url = Url::parse(&config.url).expect("a URL");
    crate::backends::sftp::follow(move || Settings::new(&url, &config, &|_| None)).expect("settings")
}

struct Site {
    pool: Arc<Pool>,
    session: Arc<Session>,
    root: PathBuf,
}

impl Site {
    async fn new(server: &SftpServer) -> Self {
        let pool = Arc::new(Pool::new(settings(server), Arc::default()));
        let session = pool.session().await.expect("a session");
        let root = server.dir().join("p");
        Site { pool, session, root }
    }

    async fn written(&self, content: &'static str) -> Temporary {
        let target = self.pool.path("x");
        let created = write::create(&self.pool, &self.session, "x", &target).await;
        let (temporary, file) = created.expect("created");
        file.write(0, &PutPayload::from(content)).await.expect("written");
        file.finish().await.expect("flushed");
        temporary
    }

    async fn publish(&self, temporary: &mut Temporary, publish: Publish) -> Result<(), Failure> {
        write::publish(&self.session, temporary, &self.pool.path("x"), publish, true).await
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.root.join("x")).expect("read")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name().into_string();
        entries.map(|entry| name(entry).expect("text")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_created_a_file_knows_it_although_the_answer_was_lost() {
    let dir = TestDir::new();
    let other_dir = TestDir::new();
    let servers = [
        (SftpServer::start(&dir), true),
        (SftpServer::start_plain(&other_dir), false),
    ];
    for (server, linked) in &servers {
        let site = Site::new(server).await;
        let features = site.session.features;
        let found = [features.hardlink, features.posix_rename, features.fsync];
        assert_eq!(found, [*linked; 3]);
        // The server made the link, and was cut off before it could say so.
        let mut ours = site.written("ours").await;
        if *linked {
            std::fs::hard_link(ours.path(), site.root.join("x")).expect("linked");
        } else {
            std::fs::rename(ours.path(), site.root.join("x")).expect("renamed");
        }
        site.publish(&mut ours, Publish::New).await.expect("ours");
        assert_eq!((site.content().as_str(), site.names().len()), ("ours", 1));
        // A copy of the same content and time is not the same file.
        let mut theirs = site.written("ours").await;
        let times = std::fs::metadata(site.root.join("x")).and_then(|meta| meta.modified());
        let file = std::fs::File::open(theirs.path()).expect("opened");
        file.set_modified(times.expect("a time")).expect("set");
        let exists = site.publish(&mut theirs, Publish::New).await;
        assert!(matches!(exists, Err(Failure::Exists)), "{exists:?}");
        drop(theirs);
        wait_until("the other file is removed", PATIENCE, || site.names() == ["x"]);
        let mut over = site.written("over").await;
        std::fs::rename(over.path(), site.root.join("x")).expect("renamed");
        site.publish(&mut over, Publish::Over).await.expect("published");
        assert_eq!(site.content(), "over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_names_are_nobody_elses() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = crate::backends::sftp::store::SftpStore::new(settings(&server), Default::default());
    let site = Site::new(&server).await;
    let name = |target: &str| {
        let mut temporary = Temporary::beside(&site.pool, target);
        temporary.is_gone();
        temporary.path().to_owned()
    };
    for target in ["/a/b", "b", "/a/ünï", &format!("/a/{}", "ü".repeat(127))] {
        let (one, other) = (name(target), name(target));
        assert_ne!(one, other);
        let name = one.rsplit_once('/').expect("a directory").1;
        assert!(is_temporary(name) && name.len() <= 255, "{name}");
    }
    let refused = store.put(&".x.walarchive-tmp".into(), "x".into()).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_renames_replace_only_when_they_may() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = crate::backends::sftp::store::SftpStore::new(settings(&server), Default::default());
    server.url("p");
    let (a, b, c) = ("a".into(), "b".into(), "c/d".into());
    store.put(&a, "a".into()).await.expect("put");
    store.put(&b, "bb".into()).await.expect("put");
    let refused = store.copy_if_not_exists(&a, &b).await;
    assert!(
        matches!(refused, Err(object_store::Error::AlreadyExists { .. })),
        "{refused:?}"
    );
    store.copy_if_not_exists(&a, &c).await.expect("copied");
    store.copy(&b, &a).await.expect("copied");
    assert_eq!(store.head(&a).await.expect("there").size, 2);
    let refused = store.rename_if_not_exists(&c, &a).await;
    assert!(
        matches!(refused, Err(object_store::Error::AlreadyExists { .. })),
        "{refused:?}"
    );
    store.rename(&c, &a).await.expect("renamed");
    assert_eq!(store.head(&a).await.expect("there").size, 1);
    let missing = store.delete(&c).await;
    assert!(
        matches!(missing, Err(object_store::Error::NotFound { .. })),
        "{missing:?}"
    );
    let listed = store.list_with_delimiter(None).await.expect("listed");
    assert_eq!((listed.objects.len(), listed.common_prefixes.len()), (2, 0));
}

//! Directories that somebody prepared: `pg_wal` elsewhere, `lost+found`, names and modes as they were.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::existing::{delta, repository};
use super::*;

fn waldir(path: &Path) -> RestoreOptions {
    RestoreOptions {
        wal_directory: Some(path.to_owned()),
        ..RestoreOptions::default()
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

async fn refused(repository: &Repository, options: RestoreOptions, says: &str) {
    let error = repository.restore_with(options).await.expect_err(says);
    assert!(
        error.to_string().contains(says) && error.hint().is_some(),
        "\"{error}\" does not say \"{says}\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_prepared_is_empty() {
    let wal = tempfile::tempdir().expect("a directory");
    let wal = wal.path().canonicalize().expect("real");
    for prepare in 0..3 {
        let repository = repository().await;
        let target = repository.target();
        std::fs::create_dir_all(target.join("lost+found")).expect("created");
        match prepare {
            0 => std::fs::create_dir_all(target.join("pg_wal/lost+found")).expect("created"),
            1 => symlink(&wal, target.join("pg_wal")).expect("linked"),
            _ => {}
        }
        let options = if prepare == 2 {
            delta()
        } else {
            RestoreOptions::default()
        };
        repository.restore_with(options).await.expect("restored");
        assert!(target.join("lost+found").is_dir() && target.join("pg_wal").is_dir());
        let link = std::fs::read_link(target.join("pg_wal")).ok();
        assert_eq!(link, (prepare == 1).then(|| wal.clone()));
        // And again, into the same.
        repository.restore_with(delta()).await.expect("restored again");
        assert!(target.join("lost+found").is_dir());
        assert_eq!(std::fs::read_link(target.join("pg_wal")).ok(), link);
    }
    let repository = repository().await;
    for (made, says) in [("base", "is not empty"), ("pg_wal/archive_status", "is not empty")] {
        std::fs::create_dir_all(repository.target().join(made)).expect("created");
        refused(&repository, RestoreOptions::default(), says).await;
        std::fs::remove_dir_all(repository.target()).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_wal_goes_where_it_is_wanted_and_stays_there() {
    let repository = repository().await;
    let at = |name: &str| repository.place.path().canonicalize().expect("real").join(name);
    let link = repository.target().join("pg_wal");
    refused(&repository, waldir(Path::new("relative")), "is not an absolute path").await;
    refused(&repository, waldir(&at("data/wal")), "overlap").await;
    std::fs::create_dir(at("full")).expect("created");
    std::fs::write(at("full/x"), "of somebody").expect("written");
    refused(&repository, waldir(&at("full")), "is not empty").await;
    std::fs::create_dir_all(&link).expect("created");
    refused(&repository, waldir(&at("wal")), "is not a link to the WAL directory").await;
    std::fs::remove_dir_all(repository.target()).expect("removed");

    let planned = plan(&repository.store, BACKUP, &repository.target(), waldir(&at("wal"))).await;
    assert!(
        planned
            .expect("planned")
            .plan
            .to_string()
            .contains("pg_wal:       a link to ")
    );
    repository.restore_with(waldir(&at("wal"))).await.expect("restored");
    assert_eq!(std::fs::read_link(&link).expect("a link"), at("wal"));
    assert_eq!(mode(&at("wal")), mode(&repository.target()));
    // The server ran, and somebody else has put something there.
    for name in [
        "000000010000000000000007",
        "00000002.history",
        "archive_status/x.ready",
        "of somebody",
        "lost+found/x",
    ] {
        std::fs::create_dir_all(at("wal").join(name).parent().expect("below")).expect("created");
        std::fs::write(at("wal").join(name), "").expect("written");
    }
    repository.restore_with(delta()).await.expect("restored");
    assert_eq!(std::fs::read_link(&link).expect("still a link"), at("wal"));
    let mut left: Vec<PathBuf> = walk(&at("wal"));
    left.sort();
    assert_eq!(left, [at("wal/lost+found/x"), at("wal/of somebody")]);
    // To another place: what the link led to is left alone.
    let moved = RestoreOptions {
        wal_directory: Some(at("other")),
        ..delta()
    };
    repository.restore_with(moved).await.expect("restored");
    assert_eq!(std::fs::read_link(&link).expect("a link"), at("other"));
    assert!(at("wal/of somebody").exists() && at("other").is_dir());
    std::fs::remove_dir(at("other")).expect("removed");
    refused(&repository, delta(), "which does not exist").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_follows_no_link_of_another_user_to_where_that_one_could_not_write() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may do what others may not");
        return;
    }
    let repository = repository().await;
    let roots = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(repository.target()).expect("created");
    std::os::unix::fs::chown(repository.target(), Some(12_345), Some(12_345)).expect("given");
    symlink(roots.path(), repository.target().join("pg_wal")).expect("linked");
    let owner = Some(Owner {
        uid: 12_345,
        gid: 12_345,
    });
    let options = RestoreOptions {
        owner,
        ..RestoreOptions::default()
    };
    refused(
        &repository,
        options.clone(),
        "belongs to another user than the data directory",
    )
    .await;
    let wanted = RestoreOptions {
        wal_directory: Some(roots.path().to_owned()),
        ..options
    };
    repository.restore_with(wanted).await.expect("the user said so");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_may_be_as_long_as_files_can_have_them() {
    for (length, fits) in [(231, true), (232, true), (255, true), (256, false)] {
        let name = format!("base/5/{}", "x".repeat(length));
        let repository = Repository::new(&sentinel(""), &[], &[(&name, CONTENT)]).await;
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(CONTENT.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, &name, CONTENT).expect("appended");
        let content = zstd(&tar.into_inner().expect("finished"));
        repository.put(&layout::tar(BACKUP, "part_001.tar.zst"), &content).await;
        let verify = RestoreOptions {
            mode: RestoreMode::VerifyOnly,
            ..RestoreOptions::default()
        };
        let (verified, restored) = (repository.restore_with(verify).await, repository.restore().await);
        assert_eq!(
            (verified.is_ok(), restored.is_ok()),
            (fits, fits),
            "{length}: {verified:?} {restored:?}"
        );
        if fits {
            assert_eq!(std::fs::read(repository.target().join(name)).expect("there"), CONTENT);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_cannot_be_verified() {
    let members = [file("/base/5", CONTENT), file("/base/5/1259", CONTENT)];
    let listed: [(&str, &[u8]); 2] = [("base/5", CONTENT), ("base/5/1259", CONTENT)];
    for mode in [RestoreMode::Fresh, RestoreMode::VerifyOnly] {
        let repository = Repository::new(&sentinel(""), &members, &listed).await;
        let options = RestoreOptions {
            mode,
            ..RestoreOptions::default()
        };
        let error = repository.restore_with(options).await.expect_err("no directory");
        assert!(matches!(error, Error::Damaged { .. }), "{mode:?}: {error:?}");
        let detail = error.detail().unwrap_or_default();
        assert_eq!(
            detail, "The backup has files below it, but it is no directory.",
            "{mode:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_may_read_what_it_could_read() {
    let tar_of = |members: &[(&str, EntryType, u32, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, mode, content) in members {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).expect("appended");
        }
        zstd(&tar.into_inner().expect("finished"))
    };
    for of_file in [0o640, 0o600] {
        let repository = Repository::new(&sentinel(""), &[], &[("PG_VERSION", b"15")]).await;
        let part = tar_of(&[
            ("base", EntryType::Directory, 0o700, b""),
            ("PG_VERSION", EntryType::Regular, of_file, b"15"),
        ]);
        repository.put(&layout::tar(BACKUP, "part_001.tar.zst"), &part).await;
        // As the server's own functions return it, it has no mode.
        let label = tar_of(&[("backup_label", EntryType::Regular, 0o600, b"START WAL")]);
        repository
            .put(&layout::tar(BACKUP, "backup_label.tar.zst"), &label)
            .await;
        let options = RestoreOptions {
            archive_off: true,
            wal_directory: Some(repository.place.path().join("wal")),
            ..RestoreOptions::default()
        };
        repository.restore_with(options).await.expect("restored");
        let at = |name: &str| mode(&repository.target().join(name));
        let of_directory = if of_file == 0o640 { 0o750 } else { 0o700 };
        assert_eq!([at("."), at("pg_wal")], [of_directory; 2]);
        let files = ["PG_VERSION", "backup_label", "backup_manifest", "postgresql.auto.conf"];
        assert_eq!(files.map(at), [of_file; 4]);
    }
}

//! Links of the original that are links again, and those that `--delta` meets.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::existing::{delta, repository};
use super::*;

/// The backup's server had these behind links.
async fn with_links() -> Repository {
    let repository = repository().await;
    let of = |path: &str, target: &str, is_directory: bool| {
        format!(r#"{{"path": "{path}", "target": "{target}", "is_directory": {is_directory}}}"#)
    };
    let links = [
        of("base", "/disk/base", true),
        of("base/5", "/disk/five", true),
        of("PG_VERSION", "/disk/version", false),
        of("pg_wal", "/disk/wal", true),
    ];
    let metadata = format!(r#"{{"finish_lsn": 2, "walarchive_links": [{}]}}"#, links.join(", "));
    repository.put(&layout::metadata(BACKUP), metadata.as_bytes()).await;
    repository
}

fn at(repository: &Repository, name: &str) -> PathBuf {
    repository.place.path().canonicalize().expect("real").join(name)
}

fn linked(repository: &Repository, maps: &[(&str, &str)]) -> RestoreOptions {
    let mut options = RestoreOptions::default();
    for (old, new) in maps {
        let map = format!("{old}={}", at(repository, new).display());
        options.links.add(&map).expect("a mapping");
    }
    options
}

async fn refused(repository: &Repository, options: RestoreOptions, says: &str) {
    let error = repository.restore_with(options).await.expect_err(says);
    assert!(
        error.to_string().contains(says) && error.hint().is_some(),
        "\"{error}\" does not say \"{says}\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_come_back_as_links_to_where_they_are_wanted() {
    let repository = with_links().await;
    std::fs::create_dir_all(at(&repository, "five/lost+found")).expect("created");
    std::fs::create_dir(at(&repository, "etc")).expect("created");
    let etc_mode = at(&repository, "etc").metadata().expect("there").permissions().mode();
    let maps = [
        ("base/5", "five"),
        ("/disk/base", "deep/base"),
        ("PG_VERSION", "etc/version"),
    ];
    let planned = plan(
        &repository.store,
        BACKUP,
        &repository.target(),
        linked(&repository, &maps),
    )
    .await;
    let planned = planned.expect("planned");
    let shown = planned.plan.to_string();
    for (path, place, was) in [
        ("base", "deep/base", "/disk/base"),
        ("base/5", "five", "/disk/five"),
        ("PG_VERSION", "etc/version", "/disk/version"),
    ] {
        let line = format!(
            "link:         {path} to {} (was to {was})",
            at(&repository, place).display()
        );
        assert!(shown.contains(&line), "{shown}");
    }
    assert!(
        !at(&repository, "deep").exists() && !repository.target().exists(),
        "nothing is written"
    );
    apply(planned, Arc::default(), CancellationToken::new())
        .await
        .expect("restored");
    let target = repository.target();
    for (path, place) in [("base", "deep/base"), ("base/5", "five"), ("PG_VERSION", "etc/version")] {
        assert_eq!(
            std::fs::read_link(target.join(path)).expect(path),
            at(&repository, place)
        );
    }
    let read = |name: &str| std::fs::read(at(&repository, name)).expect(name);
    assert_eq!(
        (read("five/1259"), read("five/1"), read("etc/version")),
        (CONTENT.to_vec(), CONTENT.to_vec(), b"15".to_vec())
    );
    let mode = |name: &str| at(&repository, name).metadata().expect("there").permissions().mode();
    assert_eq!(mode("five") & 0o777, mode("data") & 0o777);
    assert_eq!(mode("etc"), etc_mode, "that of the file is somebody else's");
    assert!(target.join("global/pg_control").is_file() && target.join("pg_wal").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_of_links_are_empty_and_apart() {
    let repository = with_links().await;
    std::fs::create_dir_all(at(&repository, "full")).expect("created");
    std::fs::write(at(&repository, "full/x"), "of somebody").expect("written");
    symlink("/nowhere", at(&repository, "full/dangling")).expect("linked");
    for (maps, says) in [
        (&[("base", "full")][..], "the place of link \"base\", is not empty"),
        (&[("PG_VERSION", "full/x")], "exists already, and link \"PG_VERSION\""),
        (&[("PG_VERSION", "none/x")], "does not exist"),
        (&[("base", "data/other")], "overlap"),
        (&[("base", "one"), ("base/5", "one/five")], "overlap"),
        (&[("base", "one"), ("PG_VERSION", "one/version")], "overlap"),
        (&[("pg_xact", "one")], "followed no symbolic link \"pg_xact\""),
        (&[("pg_wal", "one")], "\"pg_wal\" cannot be made a link"),
    ] {
        refused(&repository, linked(&repository, maps), says).await;
    }
    let mut options = linked(&repository, &[("PG_VERSION", "full/dangling")]);
    repository
        .restore_with(options.clone())
        .await
        .expect_err("a link is there");
    options = linked(&repository, &[("base", "wal/base")]);
    options.wal_directory = Some(at(&repository, "wal"));
    refused(&repository, options, "overlap").await;
    assert!(
        !repository.target().exists() && !at(&repository, "one").exists(),
        "nothing was made"
    );
    assert_eq!(std::fs::read(at(&repository, "full/x")).expect("there"), b"of somebody");

    // A file that comes there after the plan is not lost either.
    let maps = [("base", "late"), ("PG_VERSION", "late.version")];
    for spoiled in ["late/x", "late.version"] {
        let planned = plan(
            &repository.store,
            BACKUP,
            &repository.target(),
            linked(&repository, &maps),
        )
        .await;
        let planned = planned.expect("planned");
        std::fs::create_dir_all(at(&repository, "late")).expect("created");
        std::fs::write(at(&repository, spoiled), "of somebody").expect("written");
        let applied = apply(planned, Arc::default(), CancellationToken::new()).await;
        assert!(applied.is_err(), "{spoiled}");
        assert_eq!(std::fs::read(at(&repository, spoiled)).expect("there"), b"of somebody");
        std::fs::remove_file(at(&repository, spoiled)).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_restore_removes_nothing_behind_a_link() {
    for (path, moved) in [
        ("base", "base/5/1"),
        ("base/5", "base/5/1"),
        ("global", "global/pg_control"),
        ("PG_VERSION", "PG_VERSION"),
    ] {
        let repository = with_links().await;
        repository.restore().await.expect("restored");
        repository.write("base/5/2", b"not in the backup");
        let (link, behind) = (repository.target().join(path), at(&repository, "behind"));
        std::fs::rename(&link, &behind).expect("moved");
        symlink(&behind, &link).expect("linked");
        let before = walk(&at(&repository, "."));
        let error = repository.restore_with(delta()).await.expect_err("a link");
        let says = format!("{path}\" is a symbolic link to \"{}\", and --delta", behind.display());
        assert!(error.to_string().contains(&says), "{error}");
        assert_eq!(walk(&at(&repository, ".")), before, "{path}");
        assert!(repository.target().join(moved).exists());
        // As the hint has it: the link is removed, what it led to stays.
        std::fs::remove_file(&link).expect("removed");
        if path != "global" {
            repository.restore_with(delta()).await.expect("restored");
            assert!(link.exists() && !link.is_symlink() && behind.exists());
        }
    }
}

/// Files behind a link are fetched again into the new place; the others are compared, and kept if they are as in the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_restore_makes_links_anew() {
    for was_link in [true, false] {
        let repository = with_links().await;
        repository.restore().await.expect("restored");
        let target = repository.target();
        let content = std::fs::read(target.join("base/5/1")).expect("read");
        repository.write("base/5/2", b"not in the backup");
        let behind = at(&repository, "behind");
        if was_link {
            std::fs::rename(target.join("base/5"), &behind).expect("moved");
            symlink(&behind, target.join("base/5")).expect("linked");
        }
        let kept = target.join("PG_VERSION").metadata().expect("there").ino();
        let delta_to = |place: &str| {
            let mut options = linked(&repository, &[("base/5", place)]);
            options.mode = RestoreMode::Delta;
            options
        };
        if was_link {
            let error = repository.restore_with(delta_to("behind")).await.expect_err("in use");
            assert!(
                error
                    .to_string()
                    .contains("behind\", the place of link \"base/5\", is not empty"),
                "{error}"
            );
            assert!(behind.join("2").exists());
        }
        repository.restore_with(delta_to("new")).await.expect("restored");
        assert_eq!(
            std::fs::read_link(target.join("base/5")).expect("a link"),
            at(&repository, "new")
        );
        assert_eq!(std::fs::read(target.join("base/5/1")).expect("read"), content);
        assert!(!target.join("base/5/2").exists());
        assert_eq!(target.join("PG_VERSION").metadata().expect("there").ino(), kept, "kept");
        assert_eq!(behind.join("2").exists(), was_link, "what a link led to is left alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_writes_into_no_directory_of_the_system() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may do what others may not");
        return;
    }
    let repository = with_links().await;
    for (old, new) in [("base", "/etc/walarchive-test"), ("PG_VERSION", "/etc/walarchive-test")] {
        for owner in [
            None,
            Some(Owner {
                uid: 12_345,
                gid: 12_345,
            }),
        ] {
            let mut options = RestoreOptions {
                owner,
                ..RestoreOptions::default()
            };
            options.links.add(&format!("{old}={new}")).expect("a mapping");
            refused(&repository, options, "would lead into a directory of the system").await;
        }
    }
    // Elsewhere, all goes to the owner, and a directory that holds a file stays whose it is.
    std::fs::create_dir(at(&repository, "etc")).expect("created");
    let mut options = linked(&repository, &[("base", "one"), ("PG_VERSION", "etc/version")]);
    options.owner = Some(Owner {
        uid: 12_345,
        gid: 12_346,
    });
    repository.restore_with(options).await.expect("restored");
    let owner = |path: PathBuf| {
        path.symlink_metadata()
            .map(|meta| (meta.uid(), meta.gid()))
            .expect("there")
    };
    for path in ["one", "one/5/1", "etc/version", "data/base", "data/PG_VERSION"] {
        assert_eq!(owner(at(&repository, path)), (12_345, 12_346), "{path}");
    }
    assert_eq!(owner(at(&repository, "etc")).0, 0);
}

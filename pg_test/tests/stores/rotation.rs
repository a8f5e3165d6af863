//! Credentials that are replaced while the server runs: no reload, no restart, no lost backup.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_pg_test::archiving::{archiving, present_segment, status, switch_segments, wait_drained, wait_message};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, S3Server, TestDir, run};

/// The text of a credentials file.
fn credentials(server: &S3Server, secret: Option<&str>) -> String {
    let [(_, key), (_, right)] = server.env();
    format!(
        "aws_access_key_id = {key}\naws_secret_access_key = {}\n",
        secret.unwrap_or(right)
    )
}

/// A file of the server's user, which comes under its name at once.
fn put(cluster: &Cluster, file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).expect("written");
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).expect("mode set");
    give(cluster, &new);
    std::fs::rename(&new, file).expect("renamed");
}

fn give(cluster: &Cluster, file: &Path) {
    run(Command::new("chown")
        .arg("--reference")
        .arg(cluster.datadir())
        .arg(file))
    .expect_success();
}

struct Rotation {
    cluster: Cluster,
    server: S3Server,
    file: PathBuf,
    _dir: TestDir,
}

impl Rotation {
    fn new(settings: &[(&str, &str)]) -> Rotation {
        let dir = TestDir::new();
        let server = S3Server::start(&dir, "bucket");
        let file = dir.subdir("secrets").join("credentials");
        let builder = archiving(&dir, "c", &server.url("prefix"))
            .setting("walarchive.storage_options", &server.options())
            .setting("walarchive.credentials_file", &file.display().to_string())
            .setting("walarchive.archive_timeout", "20s");
        let builder = settings
            .iter()
            .fold(builder, |builder, (name, value)| builder.setting(name, value));
        let cluster = builder.create();
        put(&cluster, &file, &credentials(&server, None));
        cluster.start_again();
        cluster.psql("CREATE EXTENSION walarchive");
        Rotation {
            cluster,
            server,
            file,
            _dir: dir,
        }
    }

    fn replace(&self, secret: Option<&str>) {
        put(&self.cluster, &self.file, &credentials(&self.server, secret));
    }
}

#[test]
fn the_archiver_goes_on_with_credentials_that_are_replaced() {
    let place = Rotation::new(&[]);
    let cluster = &place.cluster;
    switch_segments(cluster, 2);
    wait_drained(cluster);

    // Half written, then away: what was read before is used on.
    let mark = cluster.log_mark();
    for half in ["aws_access_key_id = AK\naws_secr", ""] {
        std::fs::write(&place.file, half).expect("written");
        switch_segments(cluster, 2);
        wait_drained(cluster);
    }
    std::fs::remove_file(&place.file).expect("removed");
    switch_segments(cluster, 2);
    wait_drained(cluster);
    let log = cluster.log_since(mark);
    assert!(!log.contains("could not archive"), "{log}");

    // Wrong ones are called so, with the file that has them; the right ones are taken without a reload.
    place.replace(Some("hunter2"));
    cluster.wait_until("the new file is used", PATIENCE, || {
        switch_segments(cluster, 1);
        status(cluster, "last_archive_error").contains("denied permission")
    });
    let message = wait_message(cluster, mark, &["WARNING", "denied permission"], PATIENCE);
    assert!(
        message.contains(&format!("\"{}\"", place.file.display())) && message.contains("walarchive.credentials_file"),
        "{message}"
    );
    place.replace(None);
    wait_drained(cluster);
    assert!(!cluster.log().contains("hunter2"));
}

#[test]
fn a_backup_waits_for_credentials_that_are_being_replaced() {
    let place = Rotation::new(&[
        ("walarchive.backup_rate_limit", "2MB"),
        ("walarchive.tar_size", "1MB"),
        ("log_min_messages", "debug1"),
    ]);
    let cluster = &place.cluster;
    switch_segments(cluster, 1);
    wait_drained(cluster);
    let mut statement = cluster.background_psql("SELECT walarchive_backup_push()");
    cluster.wait_until("the backup has stored something", PATIENCE, || {
        let stored = cluster.psql("SELECT coalesce(max(bytes_stored), 0) > 0 FROM walarchive_progress");
        stored == "t" || !statement.is_running()
    });
    assert!(statement.is_running(), "{:?}", statement.wait(PATIENCE));
    let mark = cluster.log_mark();
    place.replace(Some("hunter2"));
    cluster.wait_until("a request of the backup is denied", PATIENCE, || {
        let log = cluster.log_since(mark);
        log.contains("a request is signed and sent again") || !statement.is_running()
    });
    assert!(statement.is_running(), "{:?}", statement.wait(PATIENCE));
    place.replace(None);
    cluster.psql("ALTER SYSTEM SET walarchive.backup_rate_limit = 0");
    statement.wait(PATIENCE).expect_success();
    assert_eq!(cluster.psql("SELECT count(*) FROM walarchive_backups"), "1");
}

#[test]
fn a_secret_that_kubernetes_mounts_is_taken_and_followed() {
    let place = Rotation::new(&[]);
    let cluster = &place.cluster;
    let mount = place.file.parent().expect("a directory");
    let as_root = nix_is_root();
    let version = |name: &str, secret: Option<&str>| {
        let folder = mount.join(name);
        std::fs::create_dir(&folder).expect("created");
        let file = folder.join("credentials");
        std::fs::write(&file, credentials(&place.server, secret)).expect("written");
        if as_root {
            // fsGroup: root owns it, the server's group may read it.
            let group = run(Command::new("stat").args(["-c", "%g"]).arg(cluster.datadir())).expect_success();
            run(Command::new("chgrp").arg(group.trim()).arg(&file)).expect_success();
        }
        let mode = if as_root { 0o440 } else { 0o400 };
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("mode set");
        symlink(name, mount.join("..new")).expect("linked");
        std::fs::rename(mount.join("..new"), mount.join("..data")).expect("renamed");
    };
    version("..1", None);
    std::fs::remove_file(&place.file).expect("removed");
    symlink("..data/credentials", &place.file).expect("linked");
    cluster.restart();
    switch_segments(cluster, 2);
    wait_drained(cluster);
    version("..2", Some("hunter2"));
    cluster.wait_until("the new version is used", PATIENCE, || {
        switch_segments(cluster, 1);
        status(cluster, "last_archive_error").contains("denied permission")
    });
    version("..3", None);
    wait_drained(cluster);
}

/// Sessions and backups are processes of their own. Each begins with the present content of the file.
#[test]
fn what_begins_while_the_file_is_half_written_waits_for_the_rest() {
    let place = Rotation::new(&[]);
    let cluster = &place.cluster;
    for statement in [
        "SELECT walarchive_backup_push()",
        "SELECT count(*) FROM walarchive_backup_list()",
    ] {
        let half = credentials(&place.server, None);
        put(cluster, &place.file, &half[..half.len() / 2]);
        let begun = cluster.background_psql(statement);
        // The session has said, or has had the time to say, that it waits.
        std::thread::sleep(std::time::Duration::from_secs(1));
        place.replace(None);
        begun.wait(PATIENCE).expect_success();
    }
}

/// Tokens of a session, as a program of the cloud writes them into the file again and again. At the store the old one ends before
/// the new one is there, or the other way round.
#[test]
fn session_tokens_end_in_the_middle_of_a_backup_and_of_archiving() {
    const SESSIONS: usize = 6;
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let file = dir.subdir("secrets").join("credentials");
    let of_session = |number: usize| format!("{}aws_session_token = token-{number}\n", credentials(&server, None));
    let takes = |number: usize| proxy.set([Fault::Session(format!("token-{number}"))]);
    let cluster = archiving(&dir, "c", &server.url("prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .setting("walarchive.credentials_file", &file.display().to_string())
        .setting("walarchive.backup_rate_limit", "1MB")
        .setting("walarchive.tar_size", "1MB")
        .create();
    put(&cluster, &file, &of_session(0));
    takes(0);
    cluster.start_again();
    cluster.psql("CREATE EXTENSION walarchive");
    let first = present_segment(&cluster);
    let mut statement = cluster.background_psql("SELECT walarchive_backup_push()");
    cluster.wait_until("the backup has stored something", PATIENCE, || {
        let stored = cluster.psql("SELECT coalesce(max(bytes_stored), 0) > 0 FROM walarchive_progress");
        stored == "t" || !statement.is_running()
    });
    for number in 1..=SESSIONS {
        let old = format!("token-{}", number - 1);
        let denied = || {
            let mut asked = proxy.requests().into_iter();
            asked.any(|request| request.header("x-amz-security-token") == Some(&old))
        };
        proxy.forget();
        match number % 2 {
            // A backup waits for the new one.
            0 => {
                takes(number);
                cluster.wait_until("the backup is denied", PATIENCE, || denied() || !statement.is_running());
                put(&cluster, &file, &of_session(number));
            }
            // The archiver need not wait: it is there.
            _ => {
                switch_segments(&cluster, 2);
                put(&cluster, &file, &of_session(number));
                takes(number);
                switch_segments(&cluster, 2);
            }
        }
        wait_drained(&cluster);
        let stored = || cluster.psql("SELECT max(bytes_stored) FROM walarchive_progress");
        let before = stored();
        cluster.wait_until("the backup goes on", PATIENCE, || {
            stored() != before || !statement.is_running()
        });
        assert!(statement.is_running(), "{number}: {:?}", statement.wait(PATIENCE));
    }
    cluster.psql("ALTER SYSTEM SET walarchive.backup_rate_limit = 0");
    cluster.psql("SELECT pg_reload_conf()");
    statement.wait(PATIENCE).expect_success();
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    assert_eq!(status(&cluster, "failed_count"), "0", "{}", cluster.log());
    assert_eq!(
        cluster.psql("SELECT count(*) FROM walarchive_backups WHERE restorable"),
        "1"
    );
    let log = cluster.log();
    assert!(
        !log.contains("could not archive") && !log.contains("backup failed"),
        "{log}"
    );
    let repository = Repository::at(server.dir().join("prefix"));
    assert!(repository.assert_complete(&cluster, &first, &last) > 2 * SESSIONS);
    assert!(!cluster.log().contains("token-"), "a token is in the log");
}

fn nix_is_root() -> bool {
    let id = run(Command::new("id").arg("-u")).expect_success();
    id.trim() == "0"
}

#[test]
fn a_bad_storage_in_postgresql_conf_is_called_so() {
    let dir = TestDir::new();
    let cluster = archiving(&dir, "c", "ftp://host/path").start();
    cluster.psql("CREATE EXTENSION walarchive");
    let row = |column: &str| {
        cluster.psql(&format!(
            "SELECT {column} FROM walarchive_check() WHERE check_name = 'settings'"
        ))
    };
    let (detail, hint) = (row("detail"), row("hint"));
    assert_eq!(detail, "walarchive.storage has a value that cannot be used");
    assert!(hint.contains("\"ftp\" is not supported"), "{hint}");
    // A reload mends it.
    let store = dir.subdir("store");
    give(&cluster, &store);
    cluster.set("walarchive.storage", &format!("  file://{}  ", store.display()));
    cluster.reload();
    cluster.wait_until("the settings are right", PATIENCE, || row("status") == "ok");
    assert_eq!(row("detail"), format!("storage is \"file://{}\"", store.display()));
    switch_segments(&cluster, 1);
    wait_drained(&cluster);
    // Options without which WAL would go elsewhere are not left out either.
    cluster.set("walarchive.storage_options", "os_project_name=My Project");
    cluster.restart();
    assert_eq!(
        row("detail"),
        "walarchive.storage_options has a value that cannot be used"
    );
    assert!(row("hint").contains("not of the form \"key=value\""), "{}", row("hint"));
    switch_segments(&cluster, 1);
    assert!(!cluster.waiting_files().is_empty());
    cluster.set("walarchive.storage_options", "");
    cluster.reload();
    wait_drained(&cluster);
    // Nothing set is nothing set.
    cluster.set("walarchive.storage", "");
    cluster.reload();
    cluster.wait_until("it is not set", PATIENCE, || {
        row("detail") == "walarchive.storage is not set"
    });
}

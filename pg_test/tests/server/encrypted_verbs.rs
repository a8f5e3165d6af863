//! The verbs of the binary with a repository that is encrypted: what they write is sealed, what they read needs the key, and
//! without it they say so.

use std::fs;
use std::path::Path;
use std::process::Command;

use walarchive_pg_test::archiving::{switch_segments, wait_drained};
use walarchive_pg_test::encrypted::{
    Independent, assert_all_sealed, assert_lacks_key, encrypting, hex, plain_objects, primary, rows_after_restore,
    sodium_file, sodium_key, text, without_key, writing,
};
use walarchive_pg_test::push;
use walarchive_pg_test::receive::{self, end, wait_stored};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_settled};
use walarchive_testkit::sealed::GpgKey;
use walarchive_testkit::{Builder, Cluster, PATIENCE, StopMode, run};

const ROWS: &str = "SELECT count(*), sum(a) FROM t";

/// A server without the extension that archives by `wal-push`, with a key in WAL-G's variables.
fn pushing(site: &Site, variables: &[(&str, &str)]) -> Builder {
    push::builder(site, "primary")
        .initdb_arg("--wal-segsize=1")
        .setting("wal_keep_size", "1GB")
        .envs(variables.iter().copied())
}

#[test]
fn wal_receive_encrypts_and_is_refused_without_the_key() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let other = sodium_file(&site, "other", &[2]);
    let cluster = receive::builder(&site, "primary")
        .setting("wal_keep_size", "1GB")
        .start();
    let receiver = receive::start(&site, &cluster, &writing(&key));
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a");
    switch_segments(&cluster, 3);
    let segment = cluster.switch_wal();
    wait_stored(&site, &segment);
    let ended = end(receiver);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_all_sealed(&site, 1);
    let mut fetch = site.walarchive(&["wal-fetch", &segment, &text(&site.dir().subdir("wal").join("fetched"))]);
    run(fetch.args(["--encryption-key-file", &key])).expect_success();
    let fetched = fs::read(site.dir().join("wal/fetched")).expect("fetched");
    assert!(fetched == fs::read(cluster.wal_directory().join(&segment)).expect("read"));

    let before = site.objects("");
    switch_segments(&cluster, 2);
    for (args, says) in [
        (&[][..], "is encrypted"),
        (&["--encryption", "none"], "is encrypted"),
        (&writing(&other), "another libsodium key"),
    ] {
        let refused = run(&mut receive::command(&site, &cluster, args));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains(says) && refused.stderr.contains("HINT:  "),
            "{refused:?}"
        );
        assert_eq!(site.objects(""), before, "{args:?}");
    }
    // With the key it goes on where it was.
    let receiver = receive::start(&site, &cluster, &writing(&key));
    let segment = cluster.switch_wal();
    wait_stored(&site, &segment);
    end(receiver);
    assert_all_sealed(&site, 1);
}

#[test]
fn backup_push_encrypts_by_sql_and_by_the_replication_protocol() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let secret = hex(sodium_key(1));
    let variables = [
        ("WALG_LIBSODIUM_KEY", secret.as_str()),
        ("WALG_LIBSODIUM_KEY_TRANSFORM", "hex"),
    ];
    let cluster = pushing(&site, &variables).start();
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    wait_settled(&cluster);
    let from_afar = |args: &[&str]| {
        let mut command = site.walarchive(&["backup-push"]);
        run(push::server_of(command.args(args), &cluster))
    };
    let full = push::push(&site, &cluster, &writing(&key));
    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)");
    let delta = push::push(
        &site,
        &cluster,
        &[&writing(&key)[..], &["--delta-from-name", &full]].concat(),
    );
    assert!(delta.contains("_D_"), "{delta}");
    cluster.psql("INSERT INTO t VALUES (7)");
    let stream = from_afar(&writing(&key)).expect_success();
    assert_all_sealed(&site, 1);
    assert!(!cluster.log().contains(&secret));

    let before = site.objects("basebackups_005");
    for refused in [
        run(&mut push::command(&site, &cluster, &[])),
        from_afar(&[]),
        from_afar(&["--encryption", "none"]),
    ] {
        assert_lacks_key(&refused, 1);
    }
    // A key without a method may be meant to read with.
    let refused = from_afar(&["--encryption-key-file", &key]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("HINT:  "),
        "{refused:?}"
    );
    assert_eq!(site.objects("basebackups_005"), before);

    let rows = cluster.psql(ROWS);
    archive_all(&cluster);
    wait_drained(&cluster);
    lose(&cluster);
    for (name, directory) in [(&delta, "delta"), (&stream, "stream")] {
        let restored = rows_after_restore(&site, name, directory, &["--encryption-key-file", &key]);
        assert_eq!(restored, rows, "{name}");
    }
}

#[test]
fn wal_push_encrypts_to_public_keys_of_wal_gs_variables() {
    let site = Site::on_files();
    let gpg = GpgKey::new(site.dir(), "gpg");
    let public = text(&site.dir().secret_file("public.asc", &gpg.public()));
    let secret = text(&site.dir().secret_file("secret.asc", &gpg.secret()));
    let variables = [("WALG_PGP_KEY_PATH", public.as_str())];
    let cluster = pushing(&site, &variables).start();
    switch_segments(&cluster, 2);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    assert_eq!(plain_objects(&site), [""; 0]);
    let object = site.object(&format!("wal_005/{segment}.zst"));
    assert!(gpg.decrypt(&object).starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));

    // The same file again, and another one of its name.
    let local = cluster.wal_directory().join(&segment);
    let again = |file: &Path, variables: &[(&str, &str)]| {
        let mut command = site.walarchive(&["wal-push", &text(file)]);
        run(command.envs(variables.iter().copied()).env("PGDATA", cluster.datadir()))
    };
    let stored = fs::read(&object).expect("stored");
    again(&local, &variables).expect_success();
    let mut content = fs::read(&local).expect("read");
    *content.last_mut().expect("a byte") ^= 1;
    let changed = site.dir().subdir("changed").join(&segment);
    fs::write(&changed, content).expect("written");
    let conflict = again(&changed, &variables);
    assert!(
        conflict.code == Some(1) && conflict.stderr.contains("HINT:  "),
        "{conflict:?}"
    );
    assert_lacks_key(&again(&local, &[]), 1);
    assert!(fs::read(&object).expect("stored") == stored);

    let fetch = |variables: &[(&str, &str)]| {
        let to = site.dir().subdir("wal").join("fetched");
        let mut command = site.walarchive(&["wal-fetch", &segment, &text(&to)]);
        run(command.envs(variables.iter().copied()))
    };
    assert_lacks_key(&fetch(&[]), 200);
    let public_only = fetch(&variables);
    assert_eq!(public_only.code, Some(200), "{public_only:?}");
    assert!(!public_only.stderr.contains("is damaged"), "{public_only:?}");
    assert!(!site.dir().join("wal/fetched").exists());
    fetch(&[("WALG_PGP_KEY_PATH", &secret)]).expect_success();
    let fetched = fs::read(site.dir().join("wal/fetched")).expect("fetched");
    assert!(fetched == fs::read(&local).expect("read"));
}

#[test]
fn a_standby_is_brought_up_by_an_encrypted_backup() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let variables = [
        ("WALG_LIBSODIUM_KEY_PATH", key.as_str()),
        ("WALG_LIBSODIUM_KEY_TRANSFORM", "hex"),
    ];
    let cluster = pushing(&site, &variables).start();
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&cluster);
    let follow = || {
        let lsn = cluster.psql("SELECT pg_current_wal_flush_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        standby.wait_until("the standby has caught up", PATIENCE, || {
            standby.try_psql(&replayed).as_deref() == Ok("t")
        });
    };
    follow();
    standby.stop(StopMode::Fast);
    let shown = run(standby.pg().program("pg_controldata").arg(standby.datadir())).expect_success();
    let redo = shown
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint's REDO location:"));
    let redo = redo.expect("a location").trim();
    cluster.psql("INSERT INTO t SELECT generate_series(1, 500)");
    archive_all(&cluster);

    let catch = |args: &[&str]| {
        let mut command = site.walarchive(&["catchup-push", &text(cluster.datadir()), "--from-lsn", redo]);
        run(push::server_of(command.args(args), &cluster))
    };
    assert_lacks_key(&catch(&[]), 1);
    let name = catch(&writing(&key)).expect_success();
    assert_all_sealed(&site, 1);
    without_key(&site, &["catchup-list"]).expect_success();

    let control = || fs::read(standby.datadir().join("global/pg_control")).expect("read");
    let before = control();
    let fetch = |args: &[&str]| {
        run(site
            .walarchive(&["catchup-fetch", &text(standby.datadir()), &name])
            .args(args))
    };
    assert_lacks_key(&fetch(&[]), 200);
    assert!(control() == before);
    fetch(&["--encryption-key-file", &key]).expect_success();
    assert!(control() != before);
    standby.start_again();
    follow();
    assert_eq!(standby.psql(ROWS), cluster.psql(ROWS));
}

/// WAL-G's configuration file for a repository in this directory.
fn config_file(site: &Site, name: &str, directory: &Path) -> String {
    let path = site.dir().subdir("config").join(format!("{name}.json"));
    fs::write(&path, format!(r#"{{"WALG_FILE_PREFIX": "{}"}}"#, directory.display())).expect("written");
    text(&path)
}

/// All files below a directory, sorted.
fn files(directory: &Path) -> Vec<String> {
    run(Command::new("find")
        .arg(directory)
        .args(["-type", "f", "-printf", "%P\n"]))
    .expect_success()
    .lines()
    .filter(|file| !file.starts_with("walarchive_005/lease"))
    .map(str::to_owned)
    .collect::<std::collections::BTreeSet<_>>()
    .into_iter()
    .collect()
}

#[test]
fn a_copy_is_encrypted_as_its_original_and_plain_text_does_not_get_in() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let [plain, second, third] = ["plain", "second", "third"].map(|name| site.dir().subdir(name));
    let url = |directory: &Path| format!("file://{}", directory.display());
    let cluster = encrypting(&site, "primary", "none", &key)
        .setting("walarchive.storage", &url(&plain))
        .start();
    cluster.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int);");
    let copy = |from: &Path, to: &Path| {
        let (from, to) = (config_file(&site, "from", from), config_file(&site, "to", to));
        let mut command = site.pg().program("walarchive");
        run(command.args(["copy", "--from", &from, "--to", &to, "--with-history"]))
    };
    // A repository in plain text, and then an encrypted one of the same cluster.
    cluster.psql("INSERT INTO t VALUES (1)");
    backup(&cluster, "");
    archive_all(&cluster);
    wait_drained(&cluster);
    cluster.set("walarchive.storage", &site.url());
    cluster.set("walarchive.encryption", "libsodium");
    cluster.restart();
    cluster.psql("INSERT INTO t VALUES (2)");
    backup(&cluster, "full_backup => true");
    cluster.psql("INSERT INTO t VALUES (3)");
    let rows = cluster.psql(ROWS);
    archive_all(&cluster);
    wait_drained(&cluster);
    cluster.stop(StopMode::Fast);

    copy(&site.dir().join("store"), &second).expect_success();
    let is_marked = |directory: &Path| {
        let content = fs::read(directory.join("walarchive_005/cluster.json")).expect("a cluster.json");
        let content: serde_json::Value = serde_json::from_slice(&content).expect("JSON");
        content["encryption"]["method"] == "libsodium"
    };
    assert!(is_marked(&second));
    let fetch = |name: &str, args: &[&str]| {
        let target = site.dir().join(name);
        let mut command = site.pg().program("walarchive");
        command.args(["backup-fetch", &text(&target), "LATEST", "--storage", &url(&second)]);
        (run(command.args(args)), target)
    };
    assert_lacks_key(&fetch("lacking", &[]).0, 200);
    let (fetched, target) = fetch("restored", &["--encryption-key-file", &key]);
    fetched.expect_success();
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), rows);

    for encrypted in [&second, &site.dir().join("store")] {
        let before = files(encrypted);
        let refused = copy(&plain, encrypted);
        assert!(
            refused.code == Some(1) && refused.stderr.contains("is not encrypted, and is not copied"),
            "{refused:?}"
        );
        let is_sealed = |file: &String| file.starts_with("wal_005") || file.contains("tar_partitions");
        let new: Vec<String> = files(encrypted)
            .into_iter()
            .filter(|file| !before.contains(file) && is_sealed(file))
            .collect();
        assert_eq!(new, [""; 0]);
    }
    // Over plain text it becomes one that has both, and says so.
    copy(&plain, &third).expect_success();
    assert!(!is_marked(&third));
}

#[test]
fn single_objects_are_sealed_as_the_repository_is() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let cluster = primary(&site, "libsodium", &key);
    archive_all(&cluster);
    wait_drained(&cluster);
    cluster.stop(StopMode::Fast);
    let source = site.dir().subdir("source").join("file");
    let content = "a line of text\n".repeat(1000);
    fs::write(&source, &content).expect("written");
    let file = text(&source);
    let put = |object: &str, args: &[&str]| run(site.walarchive(&["st", "put", &file, object]).args(args));
    let object = "wal_005/0000000A.history";
    let refused = put(object, &[]);
    assert_lacks_key(&refused, 1);
    let stored = format!("{object}.zst");
    assert!(!site.object(&stored).exists());
    put(object, &writing(&key)).expect_success();
    let sealed = Independent::PyNaCl(1).decrypt(&site.object(&stored));
    assert!(sealed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let cat = |args: &[&str]| run(site.walarchive(&["st", "cat", &stored, "--decompress"]).args(args));
    let shown = cat(&["--decrypt", "--encryption-key-file", &key]);
    assert!(
        shown.success() && shown.stdout.trim_end() == content.trim_end(),
        "{shown:?}"
    );
    let lacking = cat(&["--decrypt"]);
    assert!(
        lacking.code == Some(1) && lacking.stderr.contains("there is no key to decrypt with"),
        "{lacking:?}"
    );
    let taken = site.dir().subdir("taken").join("file");
    let mut get = site.walarchive(&["st", "get", &stored, &text(&taken)]);
    run(get.args(["--encryption-key-file", &key])).expect_success();
    assert_eq!(fs::read_to_string(&taken).expect("read"), content);
    // Plain text on purpose.
    let unsealed = "wal_005/0000000B.history";
    put(unsealed, &["--no-encrypt"]).expect_success();
    put(
        "wal_005/0000000C.history",
        &[&writing(&key)[..], &["--no-encrypt"]].concat(),
    )
    .expect_success();
    assert_eq!(plain_objects(&site).len(), 2);
    let read = |args: &[&str]| {
        let mut cat = site.walarchive(&["st", "cat", "wal_005/0000000B.history.zst", "--decompress"]);
        run(cat.args(["--encryption-key-file", &key]).args(args))
    };
    let refused = read(&[]);
    assert!(
        !refused.success() && refused.stderr.contains("is not encrypted, and has to be"),
        "{refused:?}"
    );
    read(&["--accept-plain"]).expect_success();
}

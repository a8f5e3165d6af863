//! `walarchive backup-push` where the server has the extension: the server takes the backup.

use walarchive_pg_test::encrypted::{hex, plain_objects, sealed_objects, sodium_file, sodium_key};
use walarchive_pg_test::push;
use walarchive_pg_test::site::{Site, wait_settled};
use walarchive_testkit::{Background, Cluster, PATIENCE, Signal, kill_pid, run};

const ITSELF: &str = "takes the backup itself, with its own settings";

fn note_of(site: &Site, primary: &Cluster, args: &[&str]) -> (String, String) {
    let output = run(&mut push::command(site, primary, args));
    (output.stderr.clone(), output.expect_success())
}

#[test]
fn a_server_with_the_extension_takes_the_backup() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.delta_max_steps", "3")]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    wait_settled(&primary);
    let (said, full) = note_of(&site, &primary, &["--add-user-data", r#"{"why": "it's a test"}"#, "-p"]);
    assert!(said.contains(ITSELF), "{said}");
    let row = format!("SELECT is_permanent, user_data->>'why' FROM walarchive_backups WHERE backup_name = '{full}'");
    assert_eq!(primary.psql(&row), "t|it's a test");
    primary.psql("INSERT INTO t VALUES (1)");
    let (said, delta) = note_of(&site, &primary, &["--delta-from-user-data", r#"{"why":"it's a test"}"#]);
    assert!(delta.ends_with(&format!("_D_{}", &full["base_".len()..])), "{delta}");
    // Messages of the server to its client are passed on.
    assert!(said.contains("note: delta backup based on"), "{said}");
    primary.psql("INSERT INTO t VALUES (2)");
    let mut command = push::command(&site, &primary, &["--full"]);
    let output = run(command.env("WALG_DISK_RATE_LIMIT", "1"));
    assert!(output.stderr.contains("WALG_DISK_RATE_LIMIT"), "{output:?}");
    let full = output.expect_success();
    assert!(!full.contains("_D_"), "{full}");
    // Without a data directory, too.
    primary.psql("CHECKPOINT");
    let mut command = site.walarchive(&["backup-push"]);
    let output = run(push::server_of(&mut command, &primary));
    assert!(output.success() && output.stderr.contains(ITSELF), "{output:?}");
}

#[test]
fn what_its_function_does_not_know_is_done_in_another_way() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let (said, name) = note_of(&site, &primary, &["--without-files-metadata"]);
    assert!(
        said.contains("does not take this backup itself: --without-files-metadata"),
        "{said}"
    );
    assert!(
        !site
            .object(&format!("basebackups_005/{name}/files_metadata.json"))
            .exists()
    );
    let verified = run(&mut site.walarchive(&["backup-verify", &name]));
    assert!(verified.success(), "{verified:?}");
    // Into another repository than the server's no WAL comes.
    let other = site.dir().subdir("other");
    let mut command = primary.pg().program("walarchive");
    let url = format!("file://{}", other.display());
    command.args(["backup-push", &primary.datadir().to_string_lossy(), "--storage", &url]);
    let output = run(push::server_of(&mut command, &primary).env("WALG_STOP_BACKUP_TIMEOUT", "1s"));
    assert!(output.stderr.contains("its repository is"), "{output:?}");
    assert!(
        output.code == Some(1) && output.stderr.contains("was not archived within 1 s"),
        "{output:?}"
    );
}

/// A bucket of the same name at another endpoint is another one.
#[test]
fn a_server_whose_store_has_another_endpoint_does_not_take_the_backup() {
    let (site, other) = (Site::on_s3(), Site::on_s3());
    let primary = site.primary(&[]);
    assert_eq!(site.url(), other.url());
    let mut command = push::command(&other, &primary, &[]);
    let output = run(command.env("WALG_STOP_BACKUP_TIMEOUT", "1s"));
    assert!(
        output.stderr.contains("its repository is") && output.stderr.contains("endpoint"),
        "{output:?}"
    );
    assert!(
        output.code == Some(1) && output.stderr.contains("was not archived within 1 s"),
        "{output:?}"
    );
    primary.psql("CHECKPOINT");
    let output = run(&mut push::command(&site, &primary, &[]));
    assert!(output.success() && output.stderr.contains(ITSELF), "{output:?}");
}

#[test]
fn the_server_ends_the_backup_when_the_program_is_interrupted() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.backup_rate_limit", "1MB")]);
    let mut taking = Background::spawn(&mut push::command(&site, &primary, &[]), None);
    primary.wait_until("files are copied", PATIENCE, || {
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files" || !taking.is_running()
    });
    assert!(taking.is_running(), "{:?}", taking.wait(PATIENCE));
    kill_pid(taking.pid(), Signal::SIGINT);
    let output = taking.wait(PATIENCE);
    assert!(
        output.code == Some(1) && output.stderr.contains("canceled on request"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
    assert_eq!(primary.psql("SELECT count(*) FROM walarchive_progress"), "0");
}

/// The library is there, and this database does not have the extension.
#[test]
fn a_server_that_is_only_preloaded_is_backed_up_beside_it() {
    let site = Site::on_files();
    let primary = site.builder("primary").start();
    let (said, name) = note_of(&site, &primary, &[]);
    assert!(!said.contains(ITSELF), "{said}");
    let verified = run(&mut site.walarchive(&["backup-verify", &name]));
    assert!(verified.success(), "{verified:?}");
}

/// A key that is given here is not handed to the server.
#[test]
fn a_server_takes_the_backup_only_if_it_encrypts_as_the_caller_does() {
    let site = Site::on_files();
    let key = sodium_file(&site, "key", &[1]);
    let primary = site.primary(&[]);
    let push = |key: &[u8]| {
        let mut command = push::command(&site, &primary, &["--full"]);
        if !key.is_empty() {
            command.env("WALG_LIBSODIUM_KEY", hex(sodium_key(key[0])));
            command.env("WALG_LIBSODIUM_KEY_TRANSFORM", "hex");
        }
        run(&mut command)
    };
    let refused = push(&[1]);
    assert!(
        !refused.success()
            && refused
                .stderr
                .contains("the server takes the backup with walarchive.encryption = none, and here it is libsodium")
            && refused.stderr.contains("HINT:  "),
        "{refused:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
    primary.set("walarchive.encryption_key_file", &key);
    primary.set("walarchive.encryption", "libsodium");
    primary.reload();
    for key in [&[1][..], &[]] {
        let output = push(key);
        assert!(output.success() && output.stderr.contains(ITSELF), "{output:?}");
    }
    let is_of_backup = |key: &String| key.starts_with("basebackups_005/");
    assert_eq!(plain_objects(&site).into_iter().find(is_of_backup), None);
    assert!(sealed_objects(&site).iter().any(is_of_backup));
}

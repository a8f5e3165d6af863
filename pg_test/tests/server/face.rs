//! The SQL face of walarchive: names, comments, settings and the SQLSTATEs of errors.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use walarchive_pg_test::archiving::wait_message;
use walarchive_pg_test::site::{Site, backup};
use walarchive_testkit::{Cluster, Fault, FaultProxy, PATIENCE, S3Server, TestDir};

/// The functions, views and types of the extension.
const MEMBERS: &str = "
    WITH members AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'walarchive'
    )";

/// Panics unless the statement ends with an ERROR of this SQLSTATE. Returns what the client was told.
#[track_caller]
fn refused(cluster: &Cluster, statement: &str, sqlstate: &str) -> String {
    let output = cluster.try_psql_verbose(statement);
    assert!(!output.success(), "{statement} succeeded: {output:?}");
    assert!(
        output.stderr.contains(&format!("ERROR:  {sqlstate}: ")),
        "{statement} has not ended with {sqlstate}: {}",
        output.stderr
    );
    output.stderr
}

#[test]
fn no_name_needs_quotes_and_every_name_is_explained() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let quoted = format!(
        "{MEMBERS}
         SELECT DISTINCT name FROM (
             SELECT unnest(p.proname || coalesce(p.proargnames, '{{}}')) FROM pg_proc p
               JOIN members m ON m.objid = p.oid AND m.classid = 'pg_proc'::regclass
             UNION ALL
             SELECT a.attname FROM pg_attribute a
               JOIN members m ON m.objid = a.attrelid AND m.classid = 'pg_class'::regclass WHERE a.attnum > 0
         ) AS names (name) WHERE quote_ident(name) <> name"
    );
    assert_eq!(primary.psql(&quoted), "");
    let silent = format!(
        "{MEMBERS}
         SELECT pg_describe_object(classid, objid, 0) FROM members
          WHERE obj_description(objid, classid::regclass::name) IS NULL
            AND NOT EXISTS (SELECT FROM pg_type WHERE oid = objid AND typtype = 'c' AND typrelid <> 0
                            AND (SELECT relkind FROM pg_class WHERE oid = typrelid) = 'v')
            AND NOT EXISTS (SELECT FROM pg_type WHERE oid = objid AND typcategory = 'A')
         UNION ALL
         SELECT a.attrelid::regclass || '.' || a.attname FROM pg_attribute a
           JOIN members m ON m.objid = a.attrelid AND m.classid = 'pg_class'::regclass
          WHERE a.attnum > 0 AND col_description(a.attrelid, a.attnum) IS NULL"
    );
    assert_eq!(primary.psql(&silent), "");
    // Four columns of text, one of bigint: what the functions that delete share is a type.
    let shared = "SELECT count(*), count(DISTINCT prorettype) FROM pg_proc WHERE proname LIKE 'walarchive_delete_%'";
    assert_eq!(primary.psql(shared), "7|1");
    assert_eq!(
        primary.psql("SELECT pg_get_function_result('walarchive_delete_garbage'::regproc)"),
        "SETOF walarchive_deletion"
    );
}

#[test]
fn a_misspelt_setting_is_told() {
    let site = Site::on_files();
    let primary = site
        .builder("primary")
        .setting("walarchive.retentoin", "full 7")
        .start();
    let told = wait_message(&primary, 0, &["WARNING", "walarchive.retentoin"], PATIENCE);
    assert!(told.contains("\"walarchive\" is now a reserved prefix"), "{told}");
    primary.psql("CREATE EXTENSION walarchive");
    let told = refused(&primary, "SET walarchive.retentoin = 'full 7'", "42602");
    assert!(told.contains("\"walarchive\" is a reserved prefix"), "{told}");
    let system = primary.try_psql("ALTER SYSTEM SET walarchive.retentoin = 'full 7'");
    assert!(
        system
            .as_ref()
            .is_err_and(|error| error.contains("\"walarchive.retentoin\"")),
        "{system:?}"
    );
    refused(&primary, "SHOW walarchive.retentoin", "42704");
    assert_eq!(primary.psql("SHOW walarchive.retention"), "");
    // One that comes into the file later, too.
    let mark = primary.log_mark();
    primary.set("walarchive.backup_shedule", "@daily");
    primary.reload();
    let told = wait_message(&primary, mark, &["walarchive.backup_shedule"], PATIENCE);
    assert!(
        told.contains("reserved prefix") || told.contains("unrecognized configuration parameter"),
        "{told}"
    );
}

#[test]
fn an_argument_that_cannot_be_right_is_an_invalid_parameter_value() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    for call in [
        "walarchive_delete_retain(0)",
        "walarchive_delete_retain(1, 'all')",
        "walarchive_delete_before('yesterday')",
        "walarchive_delete_before('2020-01-01 00:00:00+00', 'full')",
        "walarchive_delete_target('base_x', 'any')",
        "walarchive_delete_garbage('wal')",
        "walarchive_delete_outside_window('-1 day')",
        "walarchive_delete_gfs(0, 0, 0, 0)",
        "walarchive_delete_gfs(-1, 1, 1, 1)",
        "walarchive_wal_verify('integrty')",
        "walarchive_backup_push(full_backup => true, delta_from => 'base_x')",
        "walarchive_backup_push(user_data => to_jsonb(repeat('x', 10000)))",
    ] {
        refused(&primary, &format!("SELECT {call}"), "22023");
    }
    let told = refused(&primary, "SELECT walarchive_delete_retain(1, 'all')", "22023");
    assert!(told.contains("HINT:  Use 'full', 'find_full', or NULL."), "{told}");
    let told = refused(&primary, "SELECT walarchive_delete_garbage('wal')", "22023");
    assert!(
        told.contains("HINT:  Use 'archives', 'backups', or NULL for both."),
        "{told}"
    );
    for call in [
        "walarchive_wal_verify(VARIADIC NULL)",
        "walarchive_wal_verify(NULL)",
        "walarchive_backup_verify(NULL)",
        "walarchive_delete_before(NULL)",
        "walarchive_backup_mark(NULL)",
    ] {
        refused(&primary, &format!("SELECT {call}"), "22004");
    }
    // A backup is an object of the repository, and this one is not there.
    backup(&primary, "");
    for call in [
        "walarchive_backup_verify('base_x')",
        "walarchive_backup_mark('base_x')",
        "walarchive_delete_target('base_x')",
    ] {
        refused(&primary, &format!("SELECT {call}"), "42704");
    }
}

#[test]
fn what_is_not_configured_is_a_missing_prerequisite() {
    let dir = TestDir::new();
    let cluster = Cluster::builder(&dir, "c")
        .setting("shared_preload_libraries", "walarchive")
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    for call in [
        "walarchive_backup_list()",
        "walarchive_wal_verify()",
        "walarchive_backup_push()",
        "walarchive_delete_garbage(confirm => true)",
        "walarchive_take_over()",
    ] {
        let told = refused(&cluster, &format!("SELECT {call}"), "55000");
        assert!(told.contains("walarchive.storage is not set"), "{told}");
    }
    cluster.set("shared_preload_libraries", "");
    cluster.restart();
    refused(&cluster, "SELECT * FROM walarchive_status", "55000");
}

#[test]
fn damage_is_data_corrupted_and_a_denied_permission_insufficient_privilege() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let name = backup(&primary, "");
    let owner = site.object("walarchive_005/cluster.json");
    let intact = fs::read(&owner).expect("the owner");
    fs::write(&owner, "{\"system_identifier\"").expect("written");
    let mark = format!("SELECT walarchive_backup_mark('{name}')");
    refused(&primary, &mark, "XX001");
    fs::write(&owner, intact).expect("written");
    primary.psql(&mark);
    let folder = site.object("basebackups_005");
    fs::set_permissions(&folder, Permissions::from_mode(0o000)).expect("a mode");
    refused(&primary, "SELECT * FROM walarchive_backups", "42501");
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("a mode");
    assert_eq!(primary.psql("SELECT backup_name FROM walarchive_backups"), name);
}

#[test]
fn a_store_that_denies_and_one_that_hangs_are_told_apart() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let [(key, id), (secret, _)] = server.env();
    let wrong = Cluster::builder(&dir, "c")
        .setting("shared_preload_libraries", "walarchive")
        .setting("walarchive.archive_timeout", "4s")
        .setting("walarchive.storage", &server.url("some/prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .env(key, id)
        .env(secret, "not the secret")
        .start();
    wrong.psql("CREATE EXTENSION walarchive");
    refused(&wrong, "SELECT * FROM walarchive_backups", "42501");
    proxy.set([Fault::Silent]);
    let told = refused(&wrong, "SELECT * FROM walarchive_backups", "57014");
    assert!(told.contains(" within "), "{told}");
}

/// Both have the SQLSTATE of a statement that was canceled.
#[test]
fn a_backup_that_had_no_answer_has_failed_and_was_not_canceled() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let cluster = Cluster::builder(&dir, "c")
        .setting("shared_preload_libraries", "walarchive")
        .setting("archive_mode", "on")
        .setting("archive_library", "walarchive")
        .setting("walarchive.archive_timeout", "4s")
        .setting("walarchive.backup_rate_limit", "1MB")
        .setting("walarchive.storage", &server.url("some/prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .envs(server.env())
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let push = cluster.background_psql("SELECT walarchive_backup_push()");
    cluster.wait_until("the backup copies", PATIENCE, || {
        cluster.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    push.cancel();
    assert!(!push.wait(PATIENCE).success());
    let outcome = "SELECT last_backup_outcome FROM walarchive_status";
    cluster.wait_until("it is canceled", PATIENCE, || cluster.psql(outcome) == "canceled");
    proxy.set([Fault::Silent]);
    refused(&cluster, "SELECT walarchive_backup_push()", "57014");
    assert_eq!(cluster.psql(outcome), "failed");
}

#[test]
fn what_a_process_waits_for_has_a_name_where_postgresql_knows_names() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let proxy = FaultProxy::start(server.port());
    let cluster = Cluster::builder(&dir, "c")
        .setting("shared_preload_libraries", "walarchive")
        .setting("archive_mode", "on")
        .setting("archive_library", "walarchive")
        .setting("walarchive.backup_rate_limit", "1MB")
        .setting("walarchive.storage", &server.url("some/prefix"))
        .setting("walarchive.storage_options", &proxy.options())
        .envs(server.env())
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let wait_for = |process: &str, name: &str| {
        let name = if cluster.pg().major() < 17 { "Extension" } else { name };
        let waits = format!("SELECT count(*) FROM pg_stat_activity WHERE {process} AND wait_event = '{name}'");
        cluster.wait_until(&format!("{process} waits for {name}"), PATIENCE, || {
            cluster.psql(&waits) == "1"
        });
    };
    let (push, pid) = cluster.background_backend("SELECT walarchive_backup_push()");
    wait_for(&format!("pid = {pid}"), "WalarchiveBackup");
    wait_for("backend_type = 'walarchive backup'", "WalarchiveBackupMain");
    push.cancel();
    assert!(!push.wait(PATIENCE).success());
    proxy.set([Fault::Silent]);
    let (list, pid) = cluster.background_backend("SELECT count(*) FROM walarchive_backups");
    wait_for(&format!("pid = {pid}"), "WalarchiveStore");
    list.cancel();
    assert!(!list.wait(PATIENCE).success());
    cluster.switch_wal();
    wait_for("backend_type = 'archiver'", "WalarchiveUpload");
    proxy.heal();
}

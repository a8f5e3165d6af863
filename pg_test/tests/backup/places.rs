//! Servers whose files are not all in their data directory: data behind symbolic links, a configuration below `/etc`, a log under
//! another name.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_settled};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, run};

const PUSH: &str = "SELECT walarchive_backup_push()";
const FINGERPRINT: &str = "SELECT count(*), sum(hashtextextended(t::text, 1)) FROM t";

/// Move what lies there to another disk, so to say, and leave a link.
fn move_away(primary: &Cluster, disk: &Path, path: &str) -> PathBuf {
    let (full, target) = (primary.datadir().join(path), disk.join(path.replace('/', "-")));
    fs::create_dir_all(disk).expect("could not make a directory");
    fs::rename(&full, &target).expect("could not move it");
    symlink(&target, &full).expect("could not make a link");
    target
}

/// As the tests may run as root, the server must own what they make.
fn give_to_server(site: &Site, path: &Path) {
    let owner = fs::metadata(site.dir().join("primary")).expect("no data directory");
    run(std::process::Command::new("chown")
        .arg("-hR")
        .arg(format!("{}:{}", owner.uid(), owner.gid()))
        .arg(path))
    .expect_success();
}

/// The same for all of them, while the server is stopped. Returns where they are now.
fn move_all_away(site: &Site, primary: &Cluster, paths: &[&str]) -> PathBuf {
    primary.stop(StopMode::Fast);
    let disk = site.dir().join("disk2");
    for path in paths {
        move_away(primary, &disk, path);
    }
    give_to_server(site, &disk);
    primary.start_again();
    wait_settled(primary);
    disk
}

#[test]
fn data_behind_links_comes_back() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.delta_max_steps", "1")]);
    primary.psql("CREATE TABLE t AS SELECT a, md5(a::text) FROM generate_series(1, 20000) a");
    let links = [
        "base/5",
        "base",
        "global",
        "pg_xact",
        "pg_multixact/members",
        "postgresql.conf",
        "pg_wal",
    ];
    move_all_away(&site, &primary, &links);
    let full = backup(&primary, "");
    primary.psql("INSERT INTO t SELECT a, 'more' FROM generate_series(1, 1000) a");
    let delta = backup(&primary, "");
    assert!(delta.contains("_D_"), "{delta}");
    primary.psql("INSERT INTO t VALUES (0, 'after')");
    archive_all(&primary);
    let before = primary.psql(FINGERPRINT);
    for name in [&full, &delta] {
        assert_eq!(
            primary.psql(&format!(
                "SELECT left_out IS NULL, restorable FROM walarchive_backups WHERE backup_name = '{name}'"
            )),
            "t|t"
        );
        run(&mut site.walarchive(&["backup-verify", name])).expect_success();
    }
    lose(&primary);
    for (directory, name) in [("from-full", &full), ("from-delta", &delta)] {
        let target = site.dir().join(directory);
        let (_, output) = site.backup_fetch(directory, name, &[]);
        let said = output.stderr.clone();
        output.expect_success();
        assert!(
            said.contains("followed symbolic links. The restore puts their content in the place of the links")
                && said.contains("\"pg_xact\" (to "),
            "{said}"
        );
        for path in links {
            let meta = fs::symlink_metadata(target.join(path)).expect(path);
            assert!(
                !meta.is_symlink() && meta.is_dir() == (path != "postgresql.conf"),
                "{path}"
            );
        }
        let restored = site.restored(directory).attach(&target);
        restored.wait_promoted(PATIENCE);
        assert_eq!(restored.psql(FINGERPRINT), before);
    }
}

/// A restore onto a machine that has its disks elsewhere: the links lead to them.
#[test]
fn data_behind_links_goes_where_the_user_has_his_disks() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.delta_max_steps", "1")]);
    primary.psql("CREATE TABLE t AS SELECT a, md5(a::text) FROM generate_series(1, 20000) a");
    let links = [
        "base/5",
        "base",
        "global",
        "pg_xact",
        "pg_multixact/members",
        "postgresql.conf",
    ];
    let disk = move_all_away(&site, &primary, &links);
    backup(&primary, "");
    primary.psql("INSERT INTO t SELECT a, 'more' FROM generate_series(1, 1000) a");
    let name = backup(&primary, "");
    assert!(name.contains("_D_"), "{name}");
    archive_all(&primary);
    let before = primary.psql(FINGERPRINT);
    let new = site.dir().join("new");
    fs::create_dir_all(new.join("etc")).expect("could not make a directory");
    fs::create_dir_all(new.join("pg_xact")).expect("could not make a directory");
    give_to_server(&site, &new);
    lose(&primary);

    let place = |path: &str| match path {
        "postgresql.conf" => new.join("etc/postgresql.conf"),
        path => new.join(path.replace('/', "-")),
    };
    let map = |old: &str, path: &str| format!("--link={old}={}", place(path).display());
    // One of them by where it led.
    let led = disk.join("base").canonicalize().expect("there").display().to_string();
    let mut args = vec![map(&led, "base")];
    args.extend(["base/5", "pg_xact", "postgresql.conf", "global"].map(|path| map(path, path)));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();

    let (_, planned) = site.backup_fetch("restored", &name, &[&args[..], &["--dry-run"]].concat());
    let shown = planned.stdout.clone();
    planned.expect_success();
    assert!(
        shown.contains(&format!(
            "link:         pg_xact to {} (was to ",
            place("pg_xact").display()
        )),
        "{shown}"
    );
    assert!(!place("base").exists() && !site.dir().join("restored").exists());

    let target = site.restore("restored", &name, &args);
    for path in links.iter().filter(|path| **path != "pg_multixact/members") {
        assert_eq!(fs::read_link(target.join(path)).expect(path), place(path));
    }
    assert!(place("base-5").join("PG_VERSION").is_file() && place("base").join("1/PG_VERSION").is_file());
    let members = fs::symlink_metadata(target.join("pg_multixact/members")).expect("there");
    assert!(members.is_dir(), "nobody wanted a link");
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(FINGERPRINT), before);
    restored.psql("CREATE DATABASE another; DROP DATABASE another");
    restored.stop(StopMode::Fast);

    // Behind the links is what somebody may want: nothing there is removed, and nothing written over.
    let (_, output) = site.backup_fetch("again", &name, &args);
    assert!(
        !output.success() && output.stderr.contains("the place of link \"base\", is not empty"),
        "{}",
        output.stderr
    );
    let (_, output) = site.backup_fetch("again", &name, &[args[3]]);
    assert!(
        !output.success() && output.stderr.contains("exists already, and link \"postgresql.conf\""),
        "{}",
        output.stderr
    );
    let (_, output) = site.backup_fetch("restored", &name, &["--delta"]);
    assert!(
        !output.success() && output.stderr.contains("and --delta does not restore through it"),
        "{}",
        output.stderr
    );
    let started = site.restored("restored").attach(&target);
    assert_eq!(started.psql(FINGERPRINT), before);
}

/// Back to a moment before a mistake, in the directory that is there, while what was behind its links goes to another disk.
#[test]
fn a_restore_over_what_is_there_makes_links_anew() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT a, md5(a::text) FROM generate_series(1, 20000) a");
    let links = ["base", "pg_xact", "postgresql.conf"];
    let disk = move_all_away(&site, &primary, &links);
    let name = backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (0, 'after')");
    let before = primary.psql(FINGERPRINT);
    primary.psql("SELECT pg_create_restore_point('good')");
    primary.psql("DROP TABLE t");
    archive_all(&primary);
    primary.stop(StopMode::Fast);
    let datadir = primary.datadir().to_owned();
    drop(primary);
    let new = site.dir().join("new");
    fs::create_dir(&new).expect("could not make a directory");
    give_to_server(&site, &new);
    let place = |path: &str| new.join(path);
    let maps = links.map(|path| format!("--link={path}={}", place(path).display()));
    let mut args = vec!["--delta", "--target-name=good", "--target-action=promote"];
    let kept = fs::metadata(datadir.join("PG_VERSION")).expect("there").ino();
    // Without all of them it would be refused.
    let (_, output) = site.backup_fetch("primary", &name, &[&args[..], &[&maps[0]]].concat());
    assert!(
        !output.success() && output.stderr.contains("and --delta does not restore through it"),
        "{output:?}"
    );
    args.extend(maps.iter().map(String::as_str));
    let (_, output) = site.backup_fetch("primary", &name, &args);
    output.expect_success();
    for path in links {
        assert_eq!(fs::read_link(datadir.join(path)).expect(path), place(path));
    }
    assert!(
        disk.join("base/1/PG_VERSION").is_file(),
        "what a link led to is left alone"
    );
    assert_eq!(fs::metadata(datadir.join("PG_VERSION")).expect("there").ino(), kept);
    let restored = site.restored("primary").attach(&datadir);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(FINGERPRINT), before);
    restored.psql("CREATE DATABASE another; DROP DATABASE another; CHECKPOINT");
    restored.restart();
    assert_eq!(restored.psql(FINGERPRINT), before);
}

#[test]
fn what_is_left_out_is_named_to_the_client_and_in_the_listing() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    for link in ["mine.conf", "base/notes"] {
        symlink("/etc/hostname", primary.datadir().join(link)).expect("could not make a link");
    }
    let (name, notices) = primary.psql_verbose(PUSH);
    assert!(
        notices.contains("NOTICE:  00000: 2 entries of the data directory are not in the backup"),
        "{notices}"
    );
    let named = "base/notes (symbolic link to \"/etc/hostname\"), mine.conf (symbolic link to \"/etc/hostname\")";
    assert!(notices.contains(&format!("DETAIL:  Left out: {named}.")), "{notices}");
    let listed = format!("SELECT array_to_string(left_out, ', ') FROM walarchive_backups WHERE backup_name = '{name}'");
    assert_eq!(primary.psql(&listed), named);
    let list = run(&mut site.walarchive(&["backup-list", "--long"])).expect_success();
    assert!(list.contains("without base/notes (symbolic link"), "{list}");
    let (_, output) = site.backup_fetch("copy", &name, &[]);
    let said = output.stderr.clone();
    output.expect_success();
    assert!(said.contains(&format!("the backup does not have: {named}.")), "{said}");

    for link in ["mine.conf", "base/notes"] {
        fs::remove_file(primary.datadir().join(link)).expect("could not remove a link");
    }
    assert!(!primary.psql_verbose(PUSH).1.contains("not in the backup"));
}

#[test]
fn a_backup_that_could_not_be_restored_is_refused() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE DATABASE other");
    let oid = primary.psql("SELECT oid FROM pg_database WHERE datname = 'other'");
    for path in ["base/1/PG_VERSION".to_owned(), format!("base/{oid}/PG_VERSION")] {
        let (full, aside) = (primary.datadir().join(&path), site.dir().join("aside"));
        fs::rename(&full, &aside).expect("could not move it");
        let error = primary.try_psql(PUSH).expect_err("a backup was taken");
        assert!(
            error.contains(&format!("{path}\" is not in the data directory")) && error.contains("HINT:"),
            "{error}"
        );
        assert_eq!(primary.psql("SELECT count(*) FROM walarchive_backups"), "0");
        fs::rename(&aside, &full).expect("could not move it back");
    }
    // The leavings of a crash in CREATE DATABASE are no database.
    fs::create_dir(primary.datadir().join("base/99999")).expect("could not make a directory");
    fs::write(primary.datadir().join("base/99999/1259"), "x").expect("could not write");
    give_to_server(&site, &primary.datadir().join("base/99999"));
    let name = backup(&primary, "");
    run(&mut site.walarchive(&["backup-verify", &name])).expect_success();
}

/// As after a `DROP DATABASE` that was interrupted: PostgreSQL lets nobody use such a database, and nothing of it is missed.
#[test]
fn a_database_that_was_dropped_by_half_stops_no_backup() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE DATABASE half");
    let oid = primary.psql("SELECT oid FROM pg_database WHERE datname = 'half'");
    primary.psql("CHECKPOINT");
    fs::remove_file(primary.datadir().join(format!("base/{oid}/PG_VERSION"))).expect("could not remove a file");
    let refused = primary.try_psql(PUSH).expect_err("backed up without it");
    assert!(
        refused.contains(&format!("base/{oid}/PG_VERSION\" is not in the data directory")),
        "{refused}"
    );
    primary.psql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'");
    backup(&primary, "");
}

#[test]
fn a_configuration_below_etc_is_in_the_backup_and_comes_back_where_it_is_asked_for() {
    let site = Site::on_files();
    let etc = site.dir().join("etc/15/main");
    let config_file = etc.join("postgresql.conf");
    let primary = site
        .builder("primary")
        .server_setting("config_file", &config_file.to_string_lossy())
        .create();
    let data = primary.datadir().to_owned();
    fs::create_dir_all(etc.join("conf.d")).expect("could not make a directory");
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(data.join(file), etc.join(file)).expect("could not move it");
    }
    let mut text = fs::read_to_string(&config_file).expect("could not read");
    text.push_str(&format!(
        "data_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\ninclude_dir = 'conf.d'\nssl_key_file = '{}'\n",
        data.display(),
        etc.join("pg_hba.conf").display(),
        etc.join("pg_ident.conf").display(),
        etc.join("conf.d/key.conf").display(),
    ));
    fs::write(&config_file, text).expect("could not write");
    fs::write(etc.join("conf.d/10.conf"), "application_name = 'included'\n").expect("could not write");
    fs::write(etc.join("conf.d/key.conf"), "# secret\n").expect("could not write");
    give_to_server(&site, &site.dir().join("etc"));
    primary.start_again();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT 1 AS a, 'x' AS b");
    let name = backup(&primary, "");
    archive_all(&primary);
    let objects = site.objects(&format!("basebackups_005/{name}"));
    assert!(
        objects.iter().any(|key| key.ends_with("/configuration.tar.zst")),
        "{objects:?}"
    );
    let verified = run(&mut site.walarchive(&["backup-verify", &name, "--json"])).expect_success();
    assert!(verified.contains("It holds 4 files of the server."), "{verified}");

    // The binary finds the storage by the command line of the last start, or as Debian's tools find the cluster.
    let list = || {
        let mut list = site.pg().program("walarchive");
        list.args(["backup-list"])
            .env("PGDATA", &data)
            .env("PG_CLUSTER_CONF_ROOT", site.dir().join("etc"));
        run(&mut list).expect_success()
    };
    assert!(list().contains(&name));
    lose_all_but_version(&primary);
    assert!(list().contains(&name));

    let (target, output) = site.backup_fetch("restored", &name, &[]);
    let said = output.stderr.clone();
    output.expect_success();
    assert!(
        said.contains("was outside of its data directory, and is not restored") && said.contains("--config-dir"),
        "{said}"
    );
    assert!(!target.join("postgresql.conf").exists());
    fs::remove_dir_all(&target).expect("could not remove it");

    let config = site.dir().join("config");
    let config_text = config.to_string_lossy().into_owned();
    let (target, output) = site.backup_fetch("restored", &name, &["--config-dir", &config_text]);
    let said = output.stderr.clone();
    output.expect_success();
    assert!(said.contains("wrote 4 configuration files into"), "{said}");
    assert!(
        said.contains(&format!("config_file={config_text}/postgresql.conf")),
        "{said}"
    );
    assert!(config.join("conf.d/10.conf").is_file() && !config.join("conf.d/key.conf").exists());
    // It does not overwrite.
    let (_, output) = site.backup_fetch("another", &name, &["--config-dir", &config_text]);
    assert!(
        !output.success() && output.stderr.contains("exists already"),
        "{}",
        output.stderr
    );

    // For the test kit, which looks for one.
    fs::write(target.join("postgresql.conf"), "").expect("could not write");
    let place = |file: &str| config.join(file).to_string_lossy().into_owned();
    let restored = site
        .restored("restored")
        .server_setting("config_file", &place("postgresql.conf"))
        .server_setting("data_directory", &target.to_string_lossy())
        .server_setting("hba_file", &place("pg_hba.conf"))
        .server_setting("ident_file", &place("pg_ident.conf"))
        .server_setting("archive_mode", "off")
        .attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT a, b FROM t"), "1|x");
}

/// The machine burns; a data directory is there again, and nothing is known of it.
fn lose_all_but_version(primary: &Cluster) {
    let data = primary.datadir().to_owned();
    lose(primary);
    fs::create_dir_all(data.join("global")).expect("could not make a directory");
    fs::write(data.join("PG_VERSION"), "15\n").expect("could not write");
}

#[test]
fn a_log_under_another_name_is_left_out() {
    let site = Site::on_files();
    let primary = site
        .builder("primary")
        .setting("log_directory", "mylogs")
        .server_setting("logging_collector", "on")
        .start();
    primary.psql("CREATE EXTENSION walarchive");
    let logs = fs::read_dir(primary.datadir().join("mylogs")).expect("no log");
    assert!(logs.count() > 0);
    let name = backup(&primary, "");
    let target = site.restore("restored", &name, &[]);
    let logs = fs::read_dir(target.join("mylogs")).expect("the directory itself comes back");
    assert_eq!(logs.count(), 0);
}

//! The verbs that WAL-G has beside those of backups and WAL: single objects, copies, completion; and the name of the
//! binary.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Place, SEGMENT, SEGMENT_BYTES, code};

const BACKUP: &str = "base_000000010000000000000003";

/// With a segment and a backup in its store.
fn place_with_backup() -> Place {
    let place = Place::with_segment();
    assert_eq!(place.push(&[("WALARCHIVE_STORAGE", &place.url())]), (0, String::new()));
    let start = 3 * SEGMENT_BYTES + 40;
    let sentinel = format!(
        r#"{{"LSN": {start}, "FinishLSN": {}, "StartTime": "2026-11-20T10:00:00Z", "FinishTime": "2026-11-20T10:00:01Z",
            "PgVersion": 150000, "SystemIdentifier": 7, "FilesMetadataDisabled": true, "UserData": {{"release": 7}}}}"#,
        start + 100
    );
    let tars = format!("store/basebackups_005/{BACKUP}/tar_partitions");
    std::fs::create_dir_all(place.path(&tars)).expect("made");
    place.write(&format!("{tars}/part_001.tar.zst"), b"a tar", 0o600);
    place.write(
        &format!("store/basebackups_005/{BACKUP}_backup_stop_sentinel.json"),
        sentinel.as_bytes(),
        0o600,
    );
    place
}

fn run(place: &Place, args: &[&str]) -> Output {
    let url = place.url();
    place
        .command(args, &[("WALARCHIVE_STORAGE", &url)])
        .output()
        .expect("run")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All files below a directory, relative to it, in order.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed") {
            let path = entry.expect("read").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(directory).expect("below").display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn single_objects_are_stored_listed_read_and_deleted() {
    let place = Place::new();
    place.write("data/text", b"some text\n", 0o600);
    let done = |args: &[&str]| {
        let output = run(&place, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        stdout(&output)
    };
    let refused = |args: &[&str], says: &str| {
        let (exit, said) = code(&run(&place, args));
        assert!(exit == 1 && said.contains(says), "{args:?}: {exit} {said}");
    };
    done(&["st", "put", "text", "notes/plain", "--no-compress"]);
    done(&["st", "put", "text", "/notes/packed"]);
    assert_eq!(files(&place.path("store")), ["notes/packed.zst", "notes/plain"]);
    refused(&["st", "put", "text", "notes/packed"], "exists");
    place.write("data/text", b"other text\n", 0o600);
    done(&["st", "put", "text", "notes/packed", "-f"]);
    assert_eq!(done(&["st", "cat", "notes/packed.zst", "--decompress"]), "other text\n");
    assert_eq!(done(&["st", "cat", "notes/plain"]), "some text\n");
    assert_eq!(done(&["st", "cat", "--glob", "notes/pl*"]), "some text\n");
    done(&["st", "get", "notes/packed.zst", "got"]);
    assert_eq!(std::fs::read(place.path("data/got")).expect("read"), b"other text\n");
    refused(&["st", "get", "notes/packed.zst", "got"], "File exists");
    assert_eq!(
        std::fs::read(place.path("data/got")).expect("read"),
        b"other text\n",
        "it stays"
    );
    std::fs::create_dir(place.path("data/there")).expect("made");
    done(&["st", "get", "notes/packed.zst", "there", "--no-decompress"]);
    assert!(
        std::fs::read(place.path("data/there/packed.zst"))
            .expect("read")
            .starts_with(b"\x28\xb5\x2f\xfd")
    );
    refused(&["st", "get", "notes/nothing", "never"], "does not exist");
    assert!(!place.path("data/never").exists());

    let list = done(&["st", "ls", "notes"]);
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["type", "size", "last", "modified", "name"], "{list}");
    assert_eq!((lines[1][0], lines[1].last()), ("obj", Some(&"packed.zst")), "{list}");
    assert_eq!((lines[2][1], lines[2].last()), ("10", Some(&"plain")), "{list}");
    assert!(
        done(&["st", "ls"]).contains("dir  0    0001-01-01 00:00:00 +0000 UTC notes/"),
        "a folder"
    );
    assert!(done(&["st", "ls", "-r"]).contains(" notes/plain"));
    assert!(done(&["st", "ls", "-g", "no*"]).starts_with("notes:\ntype"));
    assert!(done(&["st", "stat", "notes/plain"]).contains(" 10   "));
    done(&["st", "check", "read", "notes/plain"]);
    refused(
        &["st", "check", "read", "notes/plain", "notes/nothing"],
        "notes/nothing",
    );
    done(&["st", "check", "write"]);
    done(&["st", "rm", "notes/plain"]);
    refused(&["st", "rm", "notes/plain"], "notes/plain");
    done(&["st", "rm", "notes/"]);
    assert_eq!(files(&place.path("store")), [""; 0]);
    assert_eq!(code(&run(&place, &["st", "ls", "--target", "other"])).0, 2);
}

#[test]
fn what_is_read_from_stdin_is_stored() {
    use std::io::Write;
    let place = Place::new();
    let url = place.url();
    let mut command = place.command(
        &["st", "put", "-s", "from/stdin", "--no-compress"],
        &[("WALARCHIVE_STORAGE", &url)],
    );
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("started");
    child.stdin.take().expect("piped").write_all(b"piped").expect("written");
    assert!(child.wait().expect("ended").success());
    assert_eq!(std::fs::read(place.path("store/from/stdin")).expect("read"), b"piped");
}

/// Nobody takes the owner and the lease away by a mistyped path.
#[test]
fn what_walarchive_knows_of_the_repository_is_not_touched_by_hand() {
    let place = place_with_backup();
    place.write("data/text", b"text", 0o600);
    let before = files(&place.path("store"));
    assert!(before.contains(&"walarchive_005/cluster.json".to_owned()), "{before:?}");
    for args in [
        &[
            "st",
            "put",
            "text",
            "walarchive_005/cluster.json",
            "--no-compress",
            "--force",
        ][..],
        &["st", "put", "text", "walarchive_005"],
        &["st", "rm", "walarchive_005"],
        &["st", "rm", "walarchive_005/cluster.json"],
        &["st", "rm", "--glob", "*"],
    ] {
        let (exit, said) = code(&run(&place, args));
        assert!(
            exit == 1 && said.contains("belongs to what walarchive knows"),
            "{args:?}: {exit} {said}"
        );
        assert_eq!(files(&place.path("store")), before, "{args:?}");
    }
    // An encrypted repository gets nothing in plain text by accident.
    let url = place.url();
    let environment = [
        ("WALARCHIVE_STORAGE", url.as_str()),
        ("WALG_GPG_KEY_ID", "hunter2hunter2hunter2hunter2"),
    ];
    let (exit, said) = place.run(&["st", "put", "text", "notes"], &environment);
    assert!(
        exit == 1 && said.contains("ask for encryption") && !said.contains("hunter2"),
        "{exit} {said}"
    );
    assert_eq!(
        place
            .run(&["st", "put", "text", "notes", "--no-encrypt"], &environment)
            .0,
        0
    );
    assert_eq!(code(&run(&place, &["st", "rm", "walarchive_005", "--force"])).0, 0);
    assert!(
        !files(&place.path("store"))
            .iter()
            .any(|file| file.starts_with("walarchive_005"))
    );
}

#[test]
fn a_backup_is_copied_to_the_storage_of_another_file() {
    let place = place_with_backup();
    std::fs::create_dir(place.path("elsewhere")).expect("made");
    let elsewhere = place.path("elsewhere");
    place.write(
        "from.json",
        format!(r#"{{"WALG_FILE_PREFIX": "{}"}}"#, place.store()).as_bytes(),
        0o600,
    );
    place.write(
        "to.yaml",
        format!("walg_file_prefix: {}\n", elsewhere.display()).as_bytes(),
        0o600,
    );
    let (from, to) = (place.path("from.json"), place.path("to.yaml"));
    let (from, to) = (from.display().to_string(), to.display().to_string());
    // Another storage in the environment is no matter.
    let copy = |further: &[&str]| {
        let args = [&["copy", "--from", &from, "--to", &to], further].concat();
        let output = place
            .command(&args, &[("WALG_FILE_PREFIX", "/nowhere")])
            .output()
            .expect("run");
        (stdout(&output), code(&output))
    };
    let (names, (exit, said)) = copy(&["--dry-run"]);
    assert!(
        exit == 0 && names == format!("{BACKUP}\n") && said.contains("would be copied"),
        "{said}"
    );
    assert_eq!(files(&elsewhere), [""; 0]);
    let (_, (exit, said)) = copy(&["-b", "LATEST", "--with-history"]);
    assert!(
        exit == 0 && said.contains("copied 3 objects") && said.contains("; 0 were there"),
        "{said}"
    );
    let of_wal_g = |directory: &Path| {
        let mut files = files(directory);
        files.retain(|file| !file.starts_with("walarchive_005/"));
        files
    };
    assert_eq!(of_wal_g(&elsewhere), of_wal_g(&place.path("store")));
    let (_, (exit, said)) = copy(&["-w"]);
    assert!(
        exit == 0 && said.contains("copied 0 objects") && said.contains("; 3 were there"),
        "{said}"
    );
    // The copy is a repository of its own.
    let url = format!("file://{}", elsewhere.display());
    let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG", "--storage", &url];
    assert_eq!(place.run(&fetch, &[]).0, 0);
    let list = place.output(&["backup-list", "--storage", &url]);
    assert!(stdout(&list).contains(BACKUP) && list.stderr.is_empty(), "{list:?}");
    let (_, (exit, said)) = copy(&["-b", "base_none"]);
    assert!(exit == 1 && said.contains("there is no backup \"base_none\""), "{said}");
    assert_eq!(copy(&["--with-history", "--without-history"]).1.0, 2);
    place.write("to.yaml", b"AWS_REGION: x\n", 0o600);
    let (_, (exit, said)) = copy(&[]);
    assert!(exit == 1 && said.contains("names no storage"), "{said}");
}

#[test]
fn user_data_names_a_backup() {
    let place = place_with_backup();
    let with = |data: &str| {
        let args = ["backup-fetch", "../new", "--target-user-data", data, "--dry-run"];
        let output = run(&place, &args);
        (stdout(&output), code(&output))
    };
    // The tar is none; but the backup was found.
    let (_, (_, said)) = with(r#"{ "release" : 7 }"#);
    assert!(said.contains(BACKUP), "{said}");
    let (_, (exit, said)) = with(r#"{"release": 8}"#);
    assert!(
        exit == 1 && said.contains("no backup has this user data"),
        "{exit} {said}"
    );
    // The variable names it where nothing else does, and may be in the configuration file.
    let by_variable = |args: &[&str]| {
        let environment = [("WALG_FILE_PREFIX", place.store())];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        code(&place.command(args, &environment).output().expect("run"))
    };
    place.write(
        "data.json",
        br#"{"WALG_FETCH_TARGET_USER_DATA": "{\"release\": 8}"}"#,
        0o600,
    );
    let file = place.path("data.json").display().to_string();
    let (exit, said) = by_variable(&["backup-fetch", "../new", "--config", &file]);
    assert!(
        exit == 1 && said.contains("no backup has this user data") && !said.contains("does not understand"),
        "{exit} {said}"
    );
    let (_, said) = by_variable(&["backup-fetch", "../new", BACKUP, "--dry-run", "--config", &file]);
    assert!(said.contains(BACKUP), "{said}");
    let both = ["backup-fetch", "../new", "LATEST", "--target-user-data", "7"];
    assert_eq!(code(&run(&place, &both)).0, 2);
    assert_eq!(code(&run(&place, &["backup-fetch", "../new"])).0, 2);
    let deleted = run(&place, &["delete", "target", "--target-user-data", r#"{"release": 7}"#]);
    assert!(
        deleted.status.success() && stdout(&deleted).contains(BACKUP),
        "{deleted:?}"
    );
}

#[test]
fn the_verbs_about_the_program_need_no_storage() {
    let place = Place::new();
    let flags = stdout(&place.output(&["flags"]));
    for word in [
        "--config",
        "--envdir",
        "--turbo",
        "WALG_S3_PREFIX",
        "AWS_REGION",
        "WALARCHIVE_STORAGE",
        "--walg-file-prefix",
    ] {
        assert!(flags.contains(word), "{word}: {flags}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let completion = stdout(&place.output(&["completion", shell]));
        assert!(completion.contains("backup-fetch"), "{shell}: {completion}");
    }
    assert_eq!(code(&place.output(&["completion", "tcsh"])).0, 2);
    let (exit, said) = code(&place.output(&["daemon", "/run/wal-g.sock"]));
    assert!(exit == 1 && said.contains("none is needed"), "{exit} {said}");
}

#[test]
fn a_link_named_wal_g_is_as_good() {
    let place = place_with_backup();
    let link: PathBuf = place.path("wal-g");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_walarchive"), &link).expect("linked");
    let call = |args: &[&str]| {
        let mut command = Command::new(&link);
        command.args(args).current_dir(place.path("data")).env_clear();
        command
            .env("HOME", place.path("home"))
            .env("WALG_FILE_PREFIX", place.store());
        command.output().expect("run")
    };
    let fetched = call(&["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(
        code(&call(&["wal-fetch", "000000010000000000000004", "pg_wal/X"])).0,
        74
    );
    assert!(stdout(&call(&["backup-list"])).starts_with("backup_name "));
    assert!(stdout(&call(&["completion", "bash"])).contains(" wal-g\n"));
    // A mistyped restore_command must not end recovery.
    assert_eq!(code(&call(&["wal-fetsch", SEGMENT, "pg_wal/X"])).0, 200);
}

#[test]
fn a_variable_names_the_configuration_file_and_turbo_is_understood() {
    let place = place_with_backup();
    place.write(
        "c.json",
        format!(r#"{{"WALG_FILE_PREFIX": "{}"}}"#, place.store()).as_bytes(),
        0o600,
    );
    let file = place.path("c.json").display().to_string();
    let limits = [
        ("WALG_CONFIG_PATH", file.as_str()),
        ("WALG_NETWORK_RATE_LIMIT", "1"),
        ("WALG_DISK_RATE_LIMIT", "1"),
    ];
    let listed = place
        .command(&["backup-list", "--turbo"], &limits)
        .output()
        .expect("run");
    assert!(
        stdout(&listed).contains(BACKUP) && listed.stderr.is_empty(),
        "{listed:?}"
    );
}

#[test]
fn a_setting_of_wal_g_is_a_flag_of_every_verb() {
    let place = place_with_backup();
    let store = place.store();
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let output = place.command(args, environment).output().expect("run");
        (stdout(&output), code(&output))
    };
    // It comes before the environment.
    let elsewhere = [("WALG_FILE_PREFIX", "/nothing/is/here")];
    let prefix = format!("--walg-file-prefix={store}");
    let (listed, (exit, said)) = run(&["backup-list", "--walg-file-prefix", &store], &elsewhere);
    assert!(exit == 0 && listed.contains(BACKUP), "{listed} {said}");
    let (_, (exit, said)) = run(&[&prefix, "wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"], &elsewhere);
    assert_eq!((exit, said.as_str()), (0, ""));
    // What is missing or unknown is told with the flags of the verb; a mistyped restore_command does not end recovery.
    assert_eq!(run(&["backup-list", "--walg-file-prefix"], &elsewhere).1.0, 2);
    assert_eq!(
        run(&["--walg-file-prefix", "wal-fetch", SEGMENT, "x"], &elsewhere).1.0,
        200
    );
    let (listed, (exit, said)) = run(&["backup-list", &prefix, "--aws-secret-access-key=hush"], &[]);
    assert!(exit == 0 && listed.contains(BACKUP), "{said}");
    let warning = "everybody on this machine could see secrets on the command line: AWS_SECRET_ACCESS_KEY";
    assert!(said.contains(warning) && !said.contains("hush"), "{said}");
}

//! The exit codes that PostgreSQL and scripts go by, seen from outside.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_testkit::{Answer, HttpMock};

use support::{Place, SEGMENT, SEGMENT_BYTES, code, segment};

/// The one object in the store's WAL folder.
fn object(place: &Place) -> PathBuf {
    let folder = std::fs::read_dir(place.path("store/wal_005")).expect("read");
    folder
        .map(|entry| entry.expect("read").path())
        .next()
        .expect("an object")
}

/// But for the files where `wal-push` notes whether it may write.
fn files_in(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("read");
    names
        .map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("walarchive.instance"))
        .collect()
}

#[test]
fn a_segment_goes_there_and_comes_back() {
    let place = Place::new();
    std::fs::write(place.path("data/pg_wal").join(SEGMENT), segment()).expect("written");
    let push =
        |place: &Place| code(&place.output(&["wal-push", &format!("pg_wal/{SEGMENT}"), "--storage", &place.url()]));
    assert_eq!(push(&place), (0, String::new()));
    assert_eq!(push(&place), (0, String::new()), "the same again is fine");
    assert_eq!(place.fetch(&place.url()), (0, String::new()));
    assert!(std::fs::read(place.path("data/pg_wal/RECOVERYXLOG")).expect("read") == segment());
    // The settings of the data directory are enough.
    std::fs::remove_file(place.path("data/pg_wal/RECOVERYXLOG")).expect("removed");
    let conf = format!("walarchive.storage = '{}'\n", place.url());
    std::fs::write(place.path("data/postgresql.auto.conf"), conf).expect("written");
    assert_eq!(code(&place.output(&["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"])).0, 0);
    assert!(place.path("data/pg_wal/RECOVERYXLOG").exists());
    // Other content under that name is refused.
    let mut other = segment();
    other[SEGMENT_BYTES - 1] ^= 1;
    std::fs::write(place.path("data/pg_wal").join(SEGMENT), other).expect("written");
    let (exit, says) = push(&place);
    assert!(
        exit == 1 && says.contains("other content") && says.contains("HINT:"),
        "{exit} {says}"
    );
}

#[test]
fn a_file_that_is_not_there_is_74() {
    let place = Place::new();
    // A directory with no repository in it may be a mount point with nothing mounted: that is no end of the archive.
    let (exit, says) = place.fetch(&place.url());
    assert!(exit == 200 && says.contains("mounted"), "{exit} {says}");
    let wal = place.path("store/wal_005");
    std::fs::create_dir_all(&wal).expect("created");
    std::fs::write(wal.join("00000002.history.zst"), "").expect("written");
    let (exit, says) = place.fetch(&place.url());
    assert!(exit == 74 && says.contains("not in the archive"), "{exit} {says}");
    std::fs::write(place.path("data/standby.signal"), "").expect("written");
    assert_eq!(place.fetch(&place.url()).0, 74);
    assert_eq!(files_in(&place.path("data/pg_wal")), Vec::<String>::new());
}

#[test]
fn an_archive_that_cannot_be_asked_stops_recovery_but_not_a_standby() {
    let place = Place::new();
    let missing = format!("{}/missing", place.url());
    // Nothing listens on this port.
    let dead = [
        "--storage-option",
        "aws_endpoint=http://127.0.0.1:1",
        "--storage-option",
        "allow_http=true",
    ];
    let dead = [&["wal-fetch", SEGMENT, "pg_wal/X", "--storage", "s3://b"][..], &dead].concat();
    let ask_dead = |place: &Place| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walarchive"));
        command.args(&dead).current_dir(place.path("data")).env_clear();
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y");
        code(&command.output().expect("run"))
    };
    let (exit, says) = place.fetch(&missing);
    assert!(exit == 200 && says.contains("does not exist"), "{exit} {says}");
    assert_eq!(ask_dead(&place).0, 200);
    std::fs::write(place.path("data/standby.signal"), "").expect("written");
    assert_eq!(place.fetch(&missing).0, 1);
    let (exit, says) = ask_dead(&place);
    assert!(exit == 1 && says.contains("could not read"), "{exit} {says}");
    // From elsewhere, the path alone tells whose file it is.
    let path = place.path("data/pg_wal/X");
    let mut command = Command::new(env!("CARGO_BIN_EXE_walarchive"));
    command
        .args(["wal-fetch", SEGMENT])
        .arg(path)
        .args(["--storage", &missing])
        .current_dir("/")
        .env_clear();
    assert_eq!(code(&command.output().expect("run")).0, 1);
}

/// At the end of recovery there is no signal file any more, and the server asks for the history of the timeline that it leaves.
#[test]
fn the_end_of_recovery_goes_on_without_the_archive_if_the_server_has_the_history() {
    let place = Place::new();
    let missing = format!("{}/missing", place.url());
    let ask = |name: &str| {
        let command = ["wal-fetch", name, "pg_wal/RECOVERYHISTORY", "--storage", &missing];
        place.run(&command, &[])
    };
    // Timeline 1 has none.
    assert_eq!(ask("00000001.history").0, 74);
    assert_eq!(ask("00000002.history").0, 200);
    std::fs::write(place.path("data/pg_wal/00000002.history"), "1\t0/3000000\tx\n").expect("written");
    let (exit, says) = ask("00000002.history");
    assert!(exit == 1 && says.contains("recovery is over"), "{exit} {says}");
    assert_eq!(ask(SEGMENT).0, 200);
    // Recovery goes on: a newer timeline may be in the archive.
    std::fs::write(place.path("data/recovery.signal"), "").expect("written");
    assert_eq!(ask("00000002.history").0, 200);
    assert_eq!(ask("00000001.history").0, 200);
}

/// A promotion waits for several calls in a row, and `pg_ctl promote` for a minute.
#[test]
fn a_standby_waits_for_a_silent_store_for_seconds_only() {
    let place = Place::new();
    std::fs::write(place.path("data/standby.signal"), "").expect("written");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept() {
            held.push(connection);
        }
    });
    let fetch = |name: &str| {
        let begun = std::time::Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_walarchive"))
            .args([
                "wal-fetch",
                name,
                "pg_wal/RECOVERYXLOG",
                "--storage",
                "s3://bucket/prefix",
            ])
            .args([
                "--storage-option",
                "allow_http=true",
                "--storage-option",
                "aws_region=x",
            ])
            .args(["--storage-option", &format!("aws_endpoint={endpoint}")])
            .current_dir(place.path("data"))
            .env_clear()
            .envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")])
            .output()
            .expect("run");
        (code(&output), begun.elapsed().as_secs())
    };
    let ((exit, says), seconds) = fetch(SEGMENT);
    assert!(exit == 1 && says.contains("HINT:"), "{exit} {says}");
    assert!(seconds < 40, "{seconds} s");
    // No server has ever written that one, so no store is asked for it.
    let ((exit, says), seconds) = fetch("00000001.history");
    assert!(exit == 74 && seconds < 9, "{exit} after {seconds} s: {says}");
}

/// The recovery of a primary waits for what may pass. To wait for anything else only hides it.
#[test]
fn what_does_not_pass_is_told_at_once() {
    let place = Place::new();
    let answers = |status: u16, body: &'static str| {
        HttpMock::start(move |_| Answer::new(status, body).header("location", "http://127.0.0.1:9/elsewhere"))
    };
    let elsewhere = answers(301, "");
    let denied = answers(403, "<Error><Code>InvalidAccessKeyId</Code></Error>");
    let away = answers(500, "");
    let of = |mock: &HttpMock| format!("aws_endpoint=http://127.0.0.1:{}", mock.port());
    let object = place.path(&format!("store/wal_005/{SEGMENT}.zst"));
    std::fs::create_dir_all(object.parent().expect("a directory")).expect("created");
    nix::unistd::mkfifo(&object, nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::fs::write(place.path("file"), "").expect("written");
    let directory = |name: &str| format!("file://{}", place.path(name).display());
    for (storage, option, says, waits) in [
        ("s3://b/p".to_owned(), of(&elsewhere), "which is not followed", false),
        ("s3://b/p".to_owned(), of(&denied), "denied permission", false),
        (place.url(), String::new(), "it is not a regular file", false),
        (directory("file"), String::new(), "is not a directory", false),
        (directory("missing"), String::new(), "does not exist", false),
        ("s3://b/p".to_owned(), of(&away), "recovery waits for", true),
    ] {
        let mut args = vec![
            "wal-fetch",
            SEGMENT,
            "pg_wal/X",
            "--patience",
            "3",
            "--storage",
            &storage,
        ];
        if !option.is_empty() {
            args.extend(["--storage-option", &option, "--storage-option", "allow_http=true"]);
        }
        let secrets = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y")];
        let (exit, said) = place.run(&args, &secrets);
        assert!(exit == 200 && said.contains(says), "{exit} {said}");
        assert_eq!(said.contains("recovery waits for"), waits, "{said}");
    }
}

#[test]
fn what_may_pass_never_stops_a_standby() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let (file, ca) = (place.path("credentials"), place.path("ca.pem"));
    let write = |content: &str, mode: u32| {
        std::fs::write(&file, content).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("mode set");
    };
    let good = "aws_access_key_id = AK\naws_secret_access_key = SK\n";
    let missing = || drop(std::fs::remove_file(&file));
    let states: [(&str, &dyn Fn()); 5] = [
        ("the credentials file is away", &missing),
        ("its mode is wrong", &|| write(good, 0o644)),
        ("it is half written", &|| {
            write("aws_access_key_id = AK\naws_secr", 0o600)
        }),
        ("it is cut behind a line", &|| write("aws_access_key_id = AK\n", 0o600)),
        ("the certificate file is away", &|| write(good, 0o600)),
    ];
    for signal in [false, true] {
        if signal {
            std::fs::write(place.path("data/standby.signal"), "").expect("written");
        }
        // A primary waits for such a file.
        let seen = if signal { &states[..] } else { &states[2..3] };
        for (what, state) in seen {
            state();
            let ca_option = format!("ca_cert_file={}", ca.display());
            let output = place.output(&[
                "wal-fetch",
                SEGMENT,
                "pg_wal/X",
                "--storage",
                "s3://b/p",
                "--storage-option",
                "aws_endpoint=https://127.0.0.1:1",
                "--storage-option",
                &ca_option,
                "--credentials-file",
                &file.display().to_string(),
            ]);
            let (exit, says) = code(&output);
            println!("{what}: {exit} {says}");
            assert_eq!(exit, if signal { 1 } else { 200 }, "{what}: {says}");
            assert!(says.contains("HINT:"), "{what}: {says}");
        }
        // A setting of the server that is being mended.
        std::fs::write(place.path("data/postgresql.conf"), "walarchive.storage = 'ftp://x'\n").expect("written");
        let (exit, says) = code(&place.output(&["wal-fetch", SEGMENT, "pg_wal/X"]));
        assert_eq!(exit, if signal { 1 } else { 200 }, "{says}");
    }
}

/// The file is whole after a moment: what is said is then of the store, which is not there.
#[test]
fn verbs_wait_for_a_credentials_file_that_is_being_written() {
    use std::os::unix::fs::PermissionsExt;
    for verb in [
        &["backup-list"][..],
        &["wal-show"],
        &["wal-fetch", SEGMENT, "pg_wal/X"],
        &["backup-fetch", "restored", "LATEST"],
        &["check"],
    ] {
        let place = Place::new();
        let file = place.path("credentials");
        let write = |content: &str| {
            std::fs::write(&file, content).expect("written");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("mode set");
        };
        write("aws_access_key_id = AK\naws_secr");
        let mut child = Command::new(env!("CARGO_BIN_EXE_walarchive"))
            .args(verb)
            .args([
                "--storage",
                "s3://b/p",
                "--storage-option",
                "aws_endpoint=https://127.0.0.1:1",
            ])
            .arg("--credentials-file")
            .arg(&file)
            .current_dir(place.path("data"))
            .env_clear()
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("run");
        let mut told = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut says = String::new();
        while !says.contains("waiting up to 10 s") && told.read_line(&mut says).expect("read") > 0 {}
        write("aws_access_key_id = AK\naws_secret_access_key = SK\n");
        told.read_to_string(&mut says).expect("read");
        let output = child.wait_with_output().expect("ended");
        says += &String::from_utf8_lossy(&output.stdout);
        println!("{verb:?}: {says}");
        assert!(
            !output.status.success() && says.contains("Connection refused"),
            "{verb:?}: {says}"
        );
        assert!(says.contains("waiting up to 10 s"), "{verb:?}: {says}");
    }
}

#[test]
fn damage_is_200_and_leaves_nothing() {
    for (what, signal) in [("cut", false), ("flipped", false), ("cut", true)] {
        let place = Place::new();
        std::fs::write(place.path("data/pg_wal").join(SEGMENT), segment()).expect("written");
        let push = place.output(&["wal-push", &format!("pg_wal/{SEGMENT}"), "--storage", &place.url()]);
        assert_eq!(code(&push), (0, String::new()));
        std::fs::remove_file(place.path("data/pg_wal").join(SEGMENT)).expect("removed");
        let object = object(&place);
        let mut content = std::fs::read(&object).expect("read");
        match what {
            "cut" => content.truncate(content.len() - 1),
            _ => {
                let middle = content.len() / 2;
                content[middle] ^= 0x10;
            }
        }
        std::fs::write(&object, content).expect("written");
        if signal {
            std::fs::write(place.path("data/standby.signal"), "").expect("written");
        }
        let (exit, says) = place.fetch(&place.url());
        assert!(
            exit == 200 && says.contains("is damaged") && says.contains("DETAIL:"),
            "{what}: {exit} {says}"
        );
        assert_eq!(files_in(&place.path("data/pg_wal")), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_mistake_in_restore_command_stops_recovery() {
    let place = Place::new();
    for args in [
        &["wal-fetch", SEGMENT][..],
        &["wal-fetch", SEGMENT, "x", "--storge", "file:///x"],
        &["wal-fetch", SEGMENT, "x"],
        &["wal-fetch", SEGMENT, "x", "--storage", "nonsense"],
        &["wal-fetch", "nonsense", "x", "--storage", "file:///tmp"],
        &["wal-fecth", SEGMENT, "x"],
        &["--config", "/nowhere", "wal-fecth", SEGMENT, "x"],
        &[
            "wal-fetch",
            SEGMENT,
            "x",
            "--config",
            "/nowhere",
            "--storage",
            "file:///tmp",
        ],
    ] {
        let (exit, says) = code(&place.output(args));
        assert!(exit == 200 && !says.is_empty(), "{args:?}: {exit} {says}");
    }
    let (_, says) = code(&place.output(&["wal-fetch", "nonsense", "x", "--storage", "file:///tmp"]));
    assert!(
        says.contains("\"nonsense\" is not the name of a WAL file") && says.contains("passes as %f"),
        "not the hint of wal-push: {says}"
    );
    assert_eq!(code(&place.output(&["wal-fetch", "--help"])).0, 0);
}

#[test]
fn other_usage_errors_are_2() {
    let place = Place::new();
    let storage = place.url();
    for args in [
        &[][..],
        &["-v"],
        &["backup-fetch", "x"],
        &["--config", "/x", "backup-fetch"],
        &[
            "backup-fetch",
            "../new",
            "LATEST",
            "--tablespace-map",
            "nonsense",
            "--storage",
            &storage,
        ],
        &["wal-push"],
        &["backup-mark"],
        &["delete"],
        &["delete", "retain", "--storage", &storage],
        &["delete", "retain", "many", "--storage", &storage],
        &["delete", "everything", "please", "--storage", &storage],
        &["delete", "gfs", "x", "--storage", &storage],
        &["wal-verify", "nonsense"],
        &["check", "--nonsense"],
        &["help", "nonsense"],
    ] {
        let (exit, says) = code(&place.output(args));
        assert!(exit == 2 && !says.is_empty(), "{args:?}: {exit} {says}");
    }
    for args in [
        &["--help"][..],
        &["help"],
        &["--version"],
        &["help", "delete"],
        &["delete", "retain", "--help"],
    ] {
        assert_eq!(code(&place.output(args)).0, 0, "{args:?}");
    }
}

/// A named pipe in the place of an object has no writer, and so a reader would wait for ever.
#[test]
fn a_named_pipe_is_no_wal_file() {
    let place = Place::new();
    let folder = place.path("store/wal_005");
    std::fs::create_dir(&folder).expect("made");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&folder.join(format!("{SEGMENT}.zst")), mode).expect("made");
    let begun = std::time::Instant::now();
    let (exit, says) = place.fetch(&place.url());
    assert!(
        exit == 200 && says.contains("it is not a regular file"),
        "{exit} {says}"
    );
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(100),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn backup_fetch_tells_a_refusal_from_a_failing_archive() {
    let place = Place::new();
    let fetch = |place: &Place, directory: &str, name: &str, storage: &str| {
        code(&place.output(&["backup-fetch", directory, name, "--storage", storage, "-q"]))
    };
    let (exit, says) = fetch(&place, "../new", "LATEST", &place.url());
    assert!(exit == 1 && says.contains("no backup can be restored"), "{exit} {says}");
    assert_eq!(fetch(&place, "../new", "base_x", &place.url()).0, 1);
    assert_eq!(fetch(&place, "../new", "LATEST", "file:///nowhere/at/all").0, 200);
    let name = "base_000000010000000000000002";
    let sentinel = place.path(&format!("store/basebackups_005/{name}_backup_stop_sentinel.json"));
    std::fs::create_dir_all(sentinel.parent().expect("a parent")).expect("created");
    let healthy = r#"{"LSN": 1, "FinishLSN": 2, "StartTime": "2020-11-20T10:00:00Z", "UserData": {"a": 1}}"#;
    std::fs::write(&sentinel, healthy).expect("written");
    let (exit, says) = fetch(&place, "../new", "LATEST", &place.url());
    assert!(
        exit == 200 && says.contains("is damaged"),
        "a backup without tars: {exit} {says}"
    );
    assert!(!place.path("new").exists());
    let list = place.output(&["backup-list", "--json", "--detail", "--storage", &place.url()]);
    let listed: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert_eq!(listed[0]["backup_name"], name);
    assert_eq!(
        (&listed[0]["finish_lsn"], &listed[0]["user_data"]["a"]),
        (&2.into(), &1.into())
    );
    let table = place.output(&["backup-list", "--storage", &place.url()]);
    assert!(String::from_utf8_lossy(&table.stdout).contains(name), "{table:?}");
    std::fs::write(&sentinel, "{").expect("written");
    let list = place.output(&["backup-list", "--storage", &place.url()]);
    assert!(
        list.status.success() && String::from_utf8_lossy(&list.stderr).contains("damaged"),
        "{list:?}"
    );
    let table = place.output(&["backup-list", "--long", "--storage", &place.url()]);
    assert!(
        table.status.success() && String::from_utf8_lossy(&table.stdout).contains("damaged"),
        "{table:?}"
    );
}

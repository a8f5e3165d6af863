//! The binary in WAL-G's place: its variables, its configuration file, its directory of variables, and objects that it encrypted.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::{Place, SEGMENT, SEGMENT_BYTES, code, segment};

const SECRET: &str = "hunter2hunter2hunter2hunter2hunt";

#[test]
fn no_verb_writes_where_encryption_of_another_kind_is_configured() {
    let place = Place::with_segment();
    let store = place.store();
    let json = format!(r#"{{"WALG_FILE_PREFIX": "{store}", "walg_gpg_key_id": "k"}}"#);
    place.write("config.json", json.as_bytes(), 0o600);
    std::fs::create_dir(place.path("env")).expect("made");
    place.write("env/WALG_FILE_PREFIX", store.as_bytes(), 0o600);
    place.write("env/WALG_CSE_KMS_ID", b"k", 0o600);
    let config = place.path("config.json").display().to_string();
    let envdir = place.path("env").display().to_string();
    let prefix = ("WALG_FILE_PREFIX", store.as_str());
    let segment = format!("pg_wal/{SEGMENT}");
    let push = ["wal-push", segment.as_str()];
    let key = ("WALG_LIBSODIUM_KEY", "another key of thirty-two bytes!");
    for (what, args, environment) in [
        // It says how to read a key, and is none.
        (
            "WALG_LIBSODIUM_KEY_TRANSFORM",
            &push[..],
            &[prefix, ("WALG_LIBSODIUM_KEY_TRANSFORM", "hex")][..],
        ),
        ("WALE_GPG_KEY_ID", &push, &[prefix, ("WALE_GPG_KEY_ID", SECRET)]),
        ("WALE_GPG_KEY_ID", &push, &[prefix, key, ("WALE_GPG_KEY_ID", SECRET)]),
        ("YC_CSE_KMS_KEY_ID", &push, &[prefix, ("YC_CSE_KMS_KEY_ID", SECRET)]),
        ("WALG_GPG_KEY_ID", &[&push[..], &["--config", &config]].concat(), &[]),
        ("WALG_CSE_KMS_ID", &[&["--envdir", &envdir], &push[..]].concat(), &[]),
        (
            "WALG_CSE_KMS_ID",
            &["backup-mark", "base_000000010000000000000001"],
            &[prefix, ("WALG_CSE_KMS_ID", SECRET)],
        ),
        (
            "WALG_CSE_KMS_ID",
            &["delete", "garbage", "--confirm"],
            &[prefix, ("WALG_CSE_KMS_ID", SECRET)],
        ),
    ] {
        let (exit, says) = place.run(args, environment);
        assert!(
            exit == 1 && says.contains("ask for encryption") && says.contains(what),
            "{args:?}: {exit} {says}"
        );
        assert!(
            !says.contains(SECRET) && says.contains("HINT:  Set walarchive.encryption"),
            "{says}"
        );
    }
    assert_eq!(place.stored(), [""; 0]);
    let other = [prefix, ("WALG_CSE_KMS_ID", SECRET)];
    let checked = place.command(&["check"], &other).output().expect("run");
    let table = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.code() == Some(2)
            && table.contains("ask for encryption")
            && !table.contains("Nothing was written"),
        "{table}"
    );
    // Reading alone is not refused. With a key, plain text is read only where that is permitted.
    assert_eq!(place.push(&[prefix]).0, 0);
    let keys = [prefix, ("WALG_LIBSODIUM_KEY", SECRET)];
    let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"];
    let (exit, says) = place.run(&fetch, &keys);
    assert!(
        exit == 200 && says.contains("is not encrypted, and has to be") && says.contains("--accept-plain"),
        "{exit} {says}"
    );
    assert!(!place.path("data/pg_wal/RECOVERYXLOG").exists());
    assert_eq!(
        place.run(&[&fetch[..], &["--accept-plain"]].concat(), &keys),
        (0, String::new())
    );
    let accepting = [&keys[..], &[("WALARCHIVE_ENCRYPTION_ACCEPT_PLAIN", "on")]].concat();
    assert_eq!(place.run(&fetch, &accepting), (0, String::new()));
}

/// The variables of WAL-G encrypt as WAL-G does, from each place.
#[test]
fn a_key_of_wal_gs_encrypts() {
    // 32 raw bytes are no text.
    for (name, key, flag) in [
        ("variable", SECRET.as_bytes(), None),
        ("envdir", &[0xf0; 32], Some("--envdir")),
        ("config", SECRET.as_bytes(), Some("--config")),
    ] {
        let place = Place::with_segment();
        let store = place.store();
        let mut environment = vec![("WALG_FILE_PREFIX", store.as_str())];
        let (directory, file) = (
            place.path("env").display().to_string(),
            place.path("config.json").display().to_string(),
        );
        let flags = match flag {
            Some("--envdir") => {
                std::fs::create_dir(place.path("env")).expect("made");
                place.write("env/WALG_LIBSODIUM_KEY", key, 0o600);
                vec!["--envdir", directory.as_str()]
            }
            Some(flag) => {
                let json = format!(r#"{{"WALG_LIBSODIUM_KEY": "{SECRET}"}}"#);
                place.write("config.json", json.as_bytes(), 0o600);
                vec![flag, file.as_str()]
            }
            None => {
                environment.push(("WALG_LIBSODIUM_KEY", SECRET));
                Vec::new()
            }
        };
        let segment = format!("pg_wal/{SEGMENT}");
        let (exit, said) = place.run(&[&["wal-push", segment.as_str()], &flags[..]].concat(), &environment);
        assert_eq!((exit, said.as_str()), (0, ""), "{name}");
        let stored = std::fs::read(place.path(&format!("store/wal_005/{SEGMENT}.zst"))).expect("stored");
        assert!(!stored.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "{name} is plain");
        let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"];
        assert_eq!(
            place.run(&[&fetch[..], &flags].concat(), &environment),
            (0, String::new()),
            "{name}"
        );
        let fetched = std::fs::read(place.path("data/pg_wal/RECOVERYXLOG")).expect("fetched");
        assert_eq!(fetched, support::segment(), "{name}");
        // Without the key.
        let prefix = [("WALG_FILE_PREFIX", store.as_str())];
        assert_eq!(place.run(&fetch, &prefix).0, 200, "{name}");
    }
}

#[test]
fn the_configuration_file_and_the_directory_are_read_like_the_environment() {
    for (name, text) in [
        (
            "home/.walg.json",
            r#"{"walg_file_prefix": "STORE", "WALG_COMPRESSION_METHOD": "lz4"}"#,
        ),
        (
            "home/.walg.yaml",
            "WALG_FILE_PREFIX: STORE\nWALG_COMPRESSION_METHOD: lz4\n",
        ),
        (
            "home/.walg.toml",
            "WALG_FILE_PREFIX = 'STORE'\nwalg_compression_method = 'lz4'\n",
        ),
        (
            "elsewhere.yml",
            "WALG_FILE_PREFIX: STORE\nWALG_COMPRESSION_METHOD: lz4\n",
        ),
        ("env/WALG_FILE_PREFIX", "STORE\n"),
    ] {
        let place = Place::with_segment();
        std::fs::create_dir(place.path("env")).expect("made");
        place.write("env/WALG_COMPRESSION_METHOD", b"lz4", 0o600);
        place.write(name, text.replace("STORE", &place.store()).as_bytes(), 0o600);
        let (file, env) = (
            place.path(name).display().to_string(),
            place.path("env").display().to_string(),
        );
        let flags = match name {
            "elsewhere.yml" => vec!["--config", file.as_str()],
            _ if name.starts_with("env/") => vec!["--envdir", env.as_str()],
            _ => Vec::new(),
        };
        let push = ["wal-push", &format!("pg_wal/{SEGMENT}")];
        assert_eq!(
            place.run(&[&flags[..], &push[..]].concat(), &[]),
            (0, String::new()),
            "{name}"
        );
        assert_eq!(place.stored(), [format!("{SEGMENT}.lz4")], "{name}");
        let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"];
        assert_eq!(
            place.run(&[&fetch[..], &flags[..]].concat(), &[]),
            (0, String::new()),
            "{name}"
        );
        assert!(
            std::fs::read(place.path("data/pg_wal/RECOVERYXLOG")).expect("read") == segment(),
            "{name}"
        );
    }
    let place = Place::with_segment();
    place.write(
        "home/.walg.json",
        br#"{"WALG_FILE_PREFIX": "/nowhere", "AWS_SECRET_ACCESS_KEY": "x"#,
        0o600,
    );
    let (exit, says) = place.push(&[]);
    assert!(
        exit == 1 && says.contains(".walg.json\" cannot be read: line 1 is wrong"),
        "{exit} {says}"
    );
    let (exit, says) = place.run(&["wal-fetch", SEGMENT, "pg_wal/X"], &[]);
    assert!(exit == 200, "recovery must not end for that: {exit} {says}");
    place.write("home/.walg.json", br#"{"AWS_SECRET_ACCESS_KEY": "x"}"#, 0o644);
    let (exit, says) = place.push(&[("WALG_FILE_PREFIX", &place.store())]);
    assert!(
        exit == 0 && says.contains("can be read by everybody") && says.matches("warning").count() == 1,
        "{says}"
    );
    place.write("home/.walg.json", b"{}", 0o666);
    let (exit, says) = place.push(&[("WALG_FILE_PREFIX", &place.store())]);
    assert!(
        exit == 1 && says.contains("can be written by everybody"),
        "{exit} {says}"
    );
}

/// Secrets of the file reach the store, and nothing else.
#[test]
fn keys_of_the_configuration_file_sign_requests() {
    let place = Place::with_segment();
    let server = TcpListener::bind("127.0.0.1:0").expect("bound");
    let endpoint = format!("http://{}", server.local_addr().expect("an address"));
    let config = format!(
        "WALG_S3_PREFIX: s3://bucket/p\nAWS_ENDPOINT: {endpoint}\nAWS_REGION: here\nAWS_ACCESS_KEY_ID: KEYOFTHEFILE\n\
         aws_secret_access_key: {SECRET}\n"
    );
    place.write("config.yaml", config.as_bytes(), 0o600);
    let file = place.path("config.yaml").display().to_string();
    let child = place
        .command(&["backup-list", "--config", &file], &[])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    server.set_nonblocking(true).expect("set");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut request = String::new();
    while Instant::now() < deadline && !request.contains("KEYOFTHEFILE") {
        let Ok((mut stream, _)) = server.accept() else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        stream.set_nonblocking(false).expect("set");
        let mut bytes = [0; 8192];
        let read = stream.read(&mut bytes).expect("read");
        request = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    assert!(
        request.contains("Credential=KEYOFTHEFILE/") && !request.contains(SECRET),
        "{request}"
    );
    // It may go on asking; nobody answers any more.
    drop(server);
    let output = child.wait_with_output().expect("ended");
    let (exit, says) = code(&output);
    assert!(exit == 1 && !says.contains(SECRET), "{exit} {says}");
}

#[test]
fn variables_without_effect_are_named_once() {
    let place = Place::with_segment();
    let store = place.store();
    let (exit, says) = place.push(&[
        ("WALG_FILE_PREFIX", &store),
        ("WALG_COMPRESSION_METHOD", "gzip"),
        ("WALG_UPLOAD_WAL_METADATA", "BULK"),
        ("WALG_UPLOAD_CONCURRENCY", "16"),
    ]);
    assert_eq!(exit, 0);
    assert!(says.matches("WALG_UPLOAD_WAL_METADATA").count() == 1, "{says}");
    assert!(
        says.contains("its value is not understood") && !says.contains("CONCURRENCY"),
        "{says}"
    );
    assert_eq!(place.stored(), [format!("{SEGMENT}.zst")]);
}

/// A history file, as a real WAL-G has compressed and encrypted it, with each form of a key.
#[test]
fn what_wal_g_encrypted_is_fetched_with_its_key() {
    const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";
    const RAW: (&str, &str) = ("WALG_LIBSODIUM_KEY", "0123456789abcdef0123456789ABCDEF");
    let place = Place::with_segment();
    let store = place.store();
    let prefix = ("WALG_FILE_PREFIX", store.as_str());
    std::fs::create_dir(place.path("store/wal_005")).expect("made");
    let vector = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../storage/tests/wal-g");
        std::fs::read(format!("{folder}/{name}")).expect(name)
    };
    place.write("secret.asc", &vector("pgp-secret.asc"), 0o600);
    place.write(
        "hex",
        b"# ours\n000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n",
        0o600,
    );
    place.write("open", RAW.1.as_bytes(), 0o644);
    let path = |name: &str| place.path(name).display().to_string();
    let (secret, hex, open) = (path("secret.asc"), path("hex"), path("open"));
    let armored = String::from_utf8(vector("pgp-secret.asc"))
        .expect("text")
        .replace('\n', "\\n");
    let transform = |value| ("WALG_LIBSODIUM_KEY_TRANSFORM", value);
    let (base64, wrong) = (
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "another key of thirty-two bytes!",
    );
    let none: [&str; 0] = [];
    for (object, flags, environment, says) in [
        ("sodium-none.history.zst", &none[..], &[RAW][..], None),
        (
            "sodium-base64.history.zst",
            &none,
            &[("WALG_LIBSODIUM_KEY", base64), transform("base64")],
            None,
        ),
        ("sodium-hex.history.zst", &["--encryption-key-file", &hex], &[RAW], None),
        (
            "sodium-hex.history.zst",
            &none,
            &[("WALARCHIVE_ENCRYPTION_KEY_FILE", &hex)],
            None,
        ),
        (
            "sodium-hex.history.zst",
            &none,
            &[("WALG_LIBSODIUM_KEY_PATH", &hex), transform("hex")],
            Some("is not one"),
        ),
        ("pgp.history.lz4", &none, &[("WALG_PGP_KEY_PATH", &secret)], None),
        ("pgp.history.lz4", &none, &[("WALG_PGP_KEY", &armored), RAW], None),
        (
            "sodium-none.history.zst",
            &none,
            &[("WALG_LIBSODIUM_KEY", wrong)],
            Some("cannot be decrypted with the keys"),
        ),
        (
            "sodium-none.history.zst",
            &none,
            &[("WALG_PGP_KEY_PATH", &secret)],
            Some("by a method that no configured key"),
        ),
        (
            "pgp.history.lz4",
            &none,
            &[RAW],
            Some("by a method that no configured key"),
        ),
        (
            "pgp.history.lz4",
            &none,
            &[],
            Some("is encrypted, and no key is configured"),
        ),
        (
            "sodium-none.history.zst",
            &["--encryption-key-file", &open],
            &[],
            Some("can be read by others"),
        ),
        (
            "sodium-none.history.zst",
            &["--encryption-key-file", "/no/key"],
            &[],
            Some("could not open key file"),
        ),
    ] {
        let suffix = object.rsplit('.').next().expect("a suffix");
        let stored = format!("store/wal_005/00000002.history.{suffix}");
        place.write(&stored, &vector(object), 0o600);
        let fetch = [&["wal-fetch"], flags, &["00000002.history", "pg_wal/RECOVERYHISTORY"]].concat();
        let (exit, said) = place.run(&fetch, &[&[prefix], environment].concat());
        let fetched = std::fs::read(place.path("data/pg_wal/RECOVERYHISTORY"));
        match says {
            None => {
                assert_eq!((exit, said.as_str()), (0, ""), "{object}");
                assert_eq!(fetched.expect("fetched"), HISTORY, "{object}");
                std::fs::remove_file(place.path("data/pg_wal/RECOVERYHISTORY")).expect("removed");
            }
            Some(says) => {
                assert!(
                    exit == 200 && said.contains(says) && said.contains("HINT:  "),
                    "{object}: {exit} {said}"
                );
                assert!(
                    fetched.is_err() && !said.contains(wrong) && !said.contains(RAW.1),
                    "{said}"
                );
            }
        }
        std::fs::remove_file(place.path(&stored)).expect("removed");
    }
}

#[test]
fn an_encrypted_object_is_told_from_a_damaged_one() {
    let pgp = b"\xc1\xc0\x4c\x03\xf5\xf8\x11\x55\xa0\xff\x85\x15\x01\x07\xff\x41 and so on";
    let noise: Vec<u8> = (0..4096u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80)
        .collect();
    for (object, content, says_so, damaged) in [
        ("lz4", &pgp[..], "is encrypted, and no key is configured", false),
        ("zst", pgp, "is encrypted, and no key is configured", false),
        (
            "zst",
            b"age-encryption.org/v1\n-> X25519 abc",
            "is encrypted, and no key is configured",
            false,
        ),
        (
            "zst",
            &noise,
            "not of the compression that its name says (.zst), so it may be encrypted",
            true,
        ),
        (
            "lzma",
            &noise,
            "not of the compression that its name says (.lzma), so it may be encrypted",
            true,
        ),
        (
            "zst",
            b"\x28\xb5\x2f\xfd\x04\x00damaged",
            "cannot be decompressed",
            true,
        ),
    ] {
        let place = Place::with_segment();
        let store = place.store();
        let environment = [("WALG_FILE_PREFIX", store.as_str())];
        std::fs::create_dir(place.path("store/wal_005")).expect("made");
        place.write(&format!("store/wal_005/{SEGMENT}.{object}"), content, 0o600);
        let (exit, says) = place.run(&["wal-fetch", SEGMENT, "pg_wal/X"], &environment);
        assert!(exit == 200 && says.contains(says_so), "{object}: {exit} {says}");
        assert_eq!(says.contains("is damaged\n"), damaged, "{says}");
        let verified = place
            .command(&["wal-verify", "content", "--all", "-q"], &environment)
            .output()
            .expect("run");
        let table = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.code() == Some(1), "{verified:?}");
        let word = if says_so.contains("encrypted") {
            "encrypted"
        } else {
            "decompressed"
        };
        assert!(table.contains(word), "{table}");
    }
}

#[test]
fn an_encrypted_backup_is_told_from_a_damaged_one() {
    let place = Place::with_segment();
    let store = place.store();
    let environment = [("WALG_FILE_PREFIX", store.as_str())];
    let name = "base_000000010000000000000003";
    let tars = format!("store/basebackups_005/{name}/tar_partitions");
    std::fs::create_dir_all(place.path(&tars)).expect("made");
    std::fs::create_dir(place.path("store/wal_005")).expect("made");
    let start = 3 * SEGMENT_BYTES + 40;
    let sentinel = format!(
        r#"{{"LSN": {start}, "FinishLSN": {}, "StartTime": "2026-11-20T10:00:00Z", "FinishTime": "2026-11-20T10:00:01Z",
            "PgVersion": 150000, "FilesMetadataDisabled": true}}"#,
        start + 100
    );
    let pgp = b"\x85\x01\x0c\x03\x11\x22\x33\x44\x55\x66\x77\x88 and so on";
    place.write(
        &format!("store/basebackups_005/{name}_backup_stop_sentinel.json"),
        sentinel.as_bytes(),
        0o600,
    );
    for tar in ["part_001", "pg_control", "backup_label"] {
        place.write(&format!("{tars}/{tar}.tar.zst"), pgp, 0o600);
    }
    place.write(&format!("store/wal_005/{SEGMENT}.zst"), pgp, 0o600);
    let encrypted = "encrypted, and no key is configured";
    let (exit, says) = place.run(&["backup-fetch", "../new", "LATEST", "-q"], &environment);
    assert!(exit == 200 && says.contains(encrypted), "{exit} {says}");
    assert!(!place.path("new/global/pg_control").exists());
    // A key that does not fit is found before anything is made ready.
    let keyed = [
        environment[0],
        ("WALG_LIBSODIUM_KEY", "another key of thirty-two bytes!"),
    ];
    let (exit, says) = place.run(&["backup-fetch", "../keyed", "LATEST", "-q"], &keyed);
    assert!(
        exit == 200 && says.contains("by a method that no configured key is for"),
        "{exit} {says}"
    );
    let is_empty = std::fs::read_dir(place.path("keyed")).map_or(true, |mut entries| entries.next().is_none());
    assert!(is_empty);
    let (exit, says) = place.run(&["backup-fetch", "../x", name, "--verify-only", "-q"], &environment);
    assert!(exit == 2 && says.contains(encrypted), "{exit} {says}");
    let verified = place
        .command(&["backup-verify", name, "-q", "--json"], &environment)
        .output()
        .expect("run");
    let rows = String::from_utf8_lossy(&verified.stdout);
    assert!(
        verified.status.code() == Some(1) && rows.matches(encrypted).count() == 3,
        "{rows}"
    );
    assert!(!rows.contains("in no tar") && !rows.contains("in any tar"), "{rows}");
    // An encrypted object does not show the segment size, and 16 MB would be wrong.
    let listed = place
        .command(&["backup-list", "--long"], &environment)
        .output()
        .expect("run");
    let table = String::from_utf8_lossy(&listed.stdout);
    assert!(
        table.contains("yes") && !table.contains("is not in the archive"),
        "{table}"
    );
}

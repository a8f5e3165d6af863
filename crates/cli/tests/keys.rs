//! Keys: who is refused with one, who needs none, and what is written beside encrypted objects.

mod support;

use support::{Place, SEGMENT};

/// Encrypted by a real WAL-G, with the key below.
const SEALED: &[u8] = include_bytes!("../../storage/tests/wal-g/sodium-none.history.zst");
const KEY: &str = "0123456789abcdef0123456789ABCDEF";

fn stored(place: &Place) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![place.path("store")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => names.push(path.display().to_string()),
            }
        }
    }
    names
}

#[test]
fn nothing_is_written_with_a_key_and_no_method() {
    let place = Place::with_segment();
    place.write("key", KEY.as_bytes(), 0o600);
    place.write("text", b"text", 0o600);
    let (key, text, segment) = (
        place.path("key").display().to_string(),
        place.path("text").display().to_string(),
        format!("pg_wal/{SEGMENT}"),
    );
    let url = place.url();
    let storage = ("WALARCHIVE_STORAGE", url.as_str());
    let by_flag = ["--encryption-key-file", &key];
    let by_variable = [storage, ("WALARCHIVE_ENCRYPTION_KEY_FILE", &key)];
    for verb in [
        &["wal-push", &segment][..],
        &["st", "put", &text, "notes"],
        &["delete", "garbage", "--confirm"],
    ] {
        for (args, environment) in [
            ([verb, &by_flag].concat(), &[storage][..]),
            (verb.to_vec(), &by_variable),
            (
                [verb, &["--encryption-key-command", "/bin/cat key"]].concat(),
                &[storage][..],
            ),
        ] {
            let (exit, said) = place.run(&args, environment);
            assert!(
                exit == 1
                    && said.contains("a key is given, and it is not said how new objects are encrypted")
                    && said.contains("HINT:  Say it with --encryption"),
                "{args:?}: {exit} {said}"
            );
        }
    }
    assert_eq!(stored(&place), Vec::<String>::new());
    let put = ["st", "put", "--encryption", "none", &text, "notes"];
    assert_eq!(place.run(&put, &by_variable).0, 0);
    assert_eq!(stored(&place).len(), 1);
}

#[test]
fn a_key_file_or_a_command_encrypts_and_decrypts() {
    let place = Place::with_segment();
    place.write("key", KEY.as_bytes(), 0o600);
    let (key, url) = (place.path("key").display().to_string(), place.url());
    let command = format!("/bin/cat {key}");
    let storage = ("WALARCHIVE_STORAGE", url.as_str());
    let push = ["wal-push", &format!("pg_wal/{SEGMENT}")];
    let (exit, said) = place.run(
        &[
            &push[..],
            &["--encryption", "libsodium", "--encryption-key-command", &command],
        ]
        .concat(),
        &[storage],
    );
    assert_eq!((exit, said.as_str()), (0, ""));
    let object = std::fs::read(place.path(&format!("store/wal_005/{SEGMENT}.zst"))).expect("stored");
    assert!(!object.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "it is plain");
    let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"];
    let by_file = [storage, ("WALARCHIVE_ENCRYPTION_KEY_FILE", &key)];
    assert_eq!(place.run(&fetch, &by_file), (0, String::new()));
    let by_command = [storage, ("WALARCHIVE_ENCRYPTION_KEY_COMMAND", &command)];
    assert_eq!(place.run(&fetch, &by_command), (0, String::new()));
    // A key of no method, and a method without a key.
    let lacking = [&push[..], &["--encryption", "openpgp"]].concat();
    let (exit, said) = place.run(&lacking, &by_file);
    assert!(
        exit == 1 && said.contains("OpenPGP") && said.contains("HINT:  "),
        "{exit} {said}"
    );
    // The repository is encrypted from now on.
    let (exit, said) = place.run(&push, &[storage]);
    assert!(exit == 1 && said.contains("encrypted"), "{exit} {said}");
}

#[test]
fn what_needs_no_key_does_not_fail_because_of_one() {
    let place = Place::with_segment();
    let url = place.url();
    let storage = ("WALARCHIVE_STORAGE", url.as_str());
    assert_eq!(place.run(&["wal-push", &format!("pg_wal/{SEGMENT}")], &[storage]).0, 0);
    let broken = [
        storage,
        ("WALARCHIVE_ENCRYPTION_KEY_FILE", "/no/key"),
        ("WALG_LIBSODIUM_KEY_PATH", "/no/key"),
        ("WALG_PGP_KEY", "no key"),
    ];
    for verb in [
        &["backup-list"][..],
        &["st", "ls"],
        &["st", "cat", "walarchive_005/cluster.json"],
    ] {
        let (exit, said) = place.run(verb, &broken);
        assert!(exit == 0 && !said.contains("/no/key"), "{verb:?}: {exit} {said}");
    }
    // They tell how to read a key, and are none.
    let no_key = [
        storage,
        ("WALG_LIBSODIUM_KEY_TRANSFORM", "none"),
        ("WALG_PGP_KEY_PASSPHRASE", "secret"),
    ];
    let fetch = ["wal-fetch", SEGMENT, "pg_wal/RECOVERYXLOG"];
    assert_eq!(place.run(&fetch, &no_key), (0, String::new()));
    let (exit, said) = place.run(&fetch, &broken);
    assert!(exit == 200 && said.contains("could not open key file"), "{exit} {said}");
}

#[test]
fn nothing_in_plain_text_goes_beside_what_wal_g_has_encrypted() {
    let place = Place::with_segment();
    std::fs::create_dir(place.path("store/wal_005")).expect("made");
    place.write("store/wal_005/00000002.history.zst", SEALED, 0o600);
    let url = place.url();
    let storage = ("WALARCHIVE_STORAGE", url.as_str());
    let (exit, said) = place.run(&["wal-push", &format!("pg_wal/{SEGMENT}")], &[storage]);
    assert!(
        exit == 1
            && said.contains("00000002.history.zst\" is encrypted")
            && said.contains("HINT:  Set walarchive.encryption"),
        "{exit} {said}"
    );
    assert_eq!(stored(&place).len(), 1, "not even an owner");
    // Deletion needs no key.
    let (exit, said) = place.run(&["st", "rm", "wal_005/00000002.history.zst"], &[storage]);
    assert_eq!(exit, 0, "{said}");
    assert_eq!(place.run(&["wal-push", &format!("pg_wal/{SEGMENT}")], &[storage]).0, 0);
}

#[test]
fn an_object_that_has_not_proved_right_gets_no_name() {
    let place = Place::with_segment();
    std::fs::create_dir(place.path("store/wal_005")).expect("made");
    place.write("store/wal_005/00000002.history.zst", &[SEALED, b"more"].concat(), 0o600);
    let (url, file) = (place.url(), place.path("file").display().to_string());
    let object = "wal_005/00000002.history.zst";
    let environment = [("WALARCHIVE_STORAGE", url.as_str()), ("WALG_LIBSODIUM_KEY", KEY)];
    let before = std::fs::read_dir(place.path("")).expect("listed").count();
    let get = ["st", "get", object, &file];
    let (exit, said) = place.run(&get, &environment);
    assert!(exit == 1 && said.contains("is damaged"), "{exit} {said}");
    let after = std::fs::read_dir(place.path("")).expect("listed").count();
    assert_eq!(before, after, "nothing is left");
    place.write("store/wal_005/00000002.history.zst", SEALED, 0o600);
    assert_eq!(place.run(&get, &environment), (0, String::new()));
    assert!(std::fs::read(&file).expect("read").starts_with(b"1\t0/3000000"));
    let (exit, said) = place.run(&get, &environment);
    assert!(
        exit == 1 && said.contains("could not create"),
        "it is there: {exit} {said}"
    );
    let (exit, said) = place.run(&["st", "cat", "--decrypt", object], &environment[..1]);
    assert!(
        exit == 1 && said.contains("there is no key to decrypt with"),
        "{exit} {said}"
    );
}

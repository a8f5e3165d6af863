//! Where keys are taken from.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

#[test]
fn a_key_file_holds_keys_of_each_form_and_no_message_repeats_them() {
    let hex = "303132333435363738396162636465663031323334353637383941424344\
               4546";
    let base64 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlBQkNERUY=";
    let of = |content: &[u8]| {
        let mut keys = Keys::default();
        keys.add_file(content, None, "\"f\"").map(|()| keys)
    };
    let stream = sealed(b"text", KEY);
    for content in [
        hex.as_bytes(),
        base64.as_bytes(),
        base64.trim_end_matches('=').as_bytes(),
        &KEY,
        &[&KEY[..], b"\n"].concat(),
        &[&KEY[..], b"\r\n"].concat(),
        format!("# first\n\n{}\n {base64} \r\n", "ab".repeat(32)).as_bytes(),
    ] {
        let keys = of(content).expect("keys");
        assert_eq!(decrypt(&stream, &keys).expect("decrypted"), b"text");
        let keyring = Keyring::of(keys, None);
        assert!(!format!("{keyring:?}").contains("48"), "{keyring:?}");
    }
    let both = of(&[PGP_PUBLIC, PGP_SECRET].concat()).expect("keys");
    assert!(decrypt(PGP, &both).is_ok());
    for wrong in [
        &b""[..],
        b"# nothing",
        b"hunter2",
        &[b'x'; 31],
        &[b'x'; 34],
        &PGP_SECRET[..300],
    ] {
        let error = of(wrong).expect_err("refused");
        let text = format!("{error} {error:?} {}", error.hint().unwrap_or_default());
        assert!(text.contains("\"f\"") && !text.contains("hunter2"), "{text}");
    }
    let short = SodiumKey::of_wal_g(&[b'x'; 24], Transform::None, "WALG_LIBSODIUM_KEY").expect_err("refused");
    assert!(short.to_string().contains("shorter than 25 bytes"), "{short}");
    SodiumKey::of_wal_g(&[b'x'; 25], Transform::None, "a test").expect("filled up");
    assert!("rot13".parse::<Transform>().is_err());
}

fn write(directory: &tempfile::TempDir, name: &str, content: &[u8]) -> OsString {
    let path = directory.path().join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .expect("made");
    io::Write::write_all(&mut file, content).expect("written");
    path.into_os_string()
}

/// The keys that WAL-G's variables give.
fn of_wal_g(variables: &[(&str, OsString)]) -> crate::Result<Keys> {
    let mut keys = Keys::default();
    let lookup = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    };
    keys.add_wal_g(&lookup).map(|()| keys)
}

/// `strings.TrimSpace` of Go, before anything else: it knows a vertical tab and a no-break space as well.
#[test]
fn white_space_around_the_key_of_a_file_is_no_part_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let stream = sealed(b"text", KEY);
    let short = sealed(b"text", *b"0123456789abcdef0123456789\0\0\0\0\0\0");
    let raw: Vec<u8> = [&[0xff; 30][..], b"ab"].concat();
    let binary = sealed(b"text", raw.clone().try_into().expect("32 bytes"));
    for (at, (content, stream)) in [
        ([&b" \t"[..], &KEY, b" \n\n"].concat(), &stream),
        ([&KEY[..], b"\x0b\r\n"].concat(), &stream),
        (["\u{a0}".as_bytes(), &KEY, "\u{2003}".as_bytes()].concat(), &stream),
        (b"0123456789abcdef0123456789\r\n".to_vec(), &short),
        ([b"\n", &raw[..], b"\x0b\n"].concat(), &binary),
    ]
    .into_iter()
    .enumerate()
    {
        let path = write(&directory, &at.to_string(), &content);
        let keys = of_wal_g(&[("WALG_LIBSODIUM_KEY_PATH", path)]).expect("a key");
        assert_eq!(decrypt(stream, &keys).expect("decrypted"), b"text", "{at}");
    }
    // In a variable nothing is cut off.
    let padded = OsString::from_vec([b" ", &KEY[..31]].concat());
    let keys = of_wal_g(&[("WALG_LIBSODIUM_KEY", padded)]).expect("a key");
    assert_eq!(decrypt(&stream, &keys), Err(Flaw::WrongKey(Method::Libsodium)));
}

#[test]
fn a_key_and_a_passphrase_may_be_any_bytes() {
    let raw = [0xfe; 32];
    let keys = of_wal_g(&[("WALG_LIBSODIUM_KEY", OsString::from_vec(raw.to_vec()))]).expect("a key");
    assert_eq!(decrypt(&sealed(b"text", raw), &keys).expect("decrypted"), b"text");
    let locked = [
        ("WALG_PGP_KEY", OsString::from_vec(super::messages::LOCKED.to_vec())),
        ("WALG_PGP_KEY_PASSPHRASE", OsString::from_vec(vec![0xff, 0xfe])),
    ];
    let error = of_wal_g(&locked).expect_err("refused");
    assert!(error.to_string().contains("the passphrase does not unlock"), "{error}");
}

#[test]
fn a_named_pipe_is_no_key_file_and_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("made");
    let error = of_wal_g(&[("WALG_LIBSODIUM_KEY_PATH", path.into_os_string())]).expect_err("refused");
    assert!(error.to_string().ends_with("is not a key file"), "{error}");
}

/// A verb that reads nothing encrypted must not fail because of a key that it does not need.
#[test]
fn keys_are_read_when_they_are_needed() {
    let config = EncryptionConfig {
        key_files: vec!["/nowhere/key".into()],
        ..EncryptionConfig::default()
    };
    let keyring = Keyring::new(&config);
    assert!(!keyring.is_empty());
    assert_eq!(format!("{keyring:?}"), "Keyring(not read yet)");
    let error = keyring.keys().expect_err("there is no such file");
    assert!(error.to_string().starts_with("could not open key file"), "{error}");
    assert!(Keyring::new(&EncryptionConfig::default()).is_empty());
}

#[test]
fn keys_that_are_read_again_are_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = std::path::PathBuf::from(write(&directory, "key", &KEY));
    let set = |content: &[u8]| std::fs::write(&path, content).expect("written");
    let config = EncryptionConfig {
        key_files: vec![path.clone()],
        ..EncryptionConfig::default()
    };
    assert!(!Keyring::new(&EncryptionConfig::default()).has_changed().expect("none"));
    let lines = |lines: &[&str]| (lines.join("\n") + "\n").into_bytes();
    let (first, second) = ("ab".repeat(32), "cd".repeat(32));
    let pgp = |parts: &[&[u8]]| parts.concat();
    // What is there; what is the same, written in another way; what is not; and what is no key.
    let cases = [
        (
            KEY.to_vec(),
            [&KEY[..], b"\n"].concat(),
            vec![lines(&[&first]), PGP_SECRET.to_vec()],
            b"x".to_vec(),
        ),
        (
            lines(&[&first, &second]),
            lines(&["# made today", &first, "", &second]),
            vec![
                lines(&[&first]),
                lines(&[&second, &first]),
                lines(&[&first, &second, &first]),
            ],
            Vec::new(),
        ),
        (
            PGP_SECRET.to_vec(),
            pgp(&[b"\n", PGP_SECRET, b"\n"]),
            vec![PGP_PUBLIC.to_vec(), pgp(&[PGP_SECRET, PGP_PUBLIC]), lines(&[&first])],
            PGP_SECRET[..300].to_vec(),
        ),
    ];
    for (now, same, others, none) in cases {
        set(&now);
        let keyring = Keyring::new(&config);
        assert!(keyring.has_changed().expect("compared"), "nothing was read yet");
        keyring.keys().expect("keys");
        for content in [&now, &same] {
            set(content);
            assert!(!keyring.has_changed().expect("compared"));
        }
        for content in others {
            set(&content);
            assert!(keyring.has_changed().expect("compared"));
        }
        set(&none);
        keyring.has_changed().expect_err("no key");
    }
}

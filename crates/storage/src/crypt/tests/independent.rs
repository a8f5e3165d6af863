//! Programs of others read what we write, and we read what they write: gpg, and PyNaCl, which is libsodium itself.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::messages::LOCKED;
use super::*;

/// What line ends of text would spoil.
fn awkward(bytes: usize) -> Vec<u8> {
    let lines = [
        &b"first\r\nsecond\nthird\r\r\n\n\x1a\0"[..],
        &sample(bytes),
        b"\r\n \t\r\n",
    ];
    lines.concat()
}

/// Run a program with an input; its output if it succeeds, else what it says.
fn pipe(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run scripts/setup test"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("ended");
    // Who refuses the input need not read all of it.
    let _ = writing.join().expect("no panic");
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// gpg with keys of its own.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new(keys: &[&[u8]]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let gpg = Gpg(home);
        for key in keys {
            gpg.run(&["--import"], key).expect("imported");
        }
        gpg
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.0.path());
        command.args(["--batch", "--yes", "--quiet", "--no-tty", "--trust-model", "always"]);
        command.args(["--pinentry-mode", "loopback", "--passphrase", "correct horse"]);
        pipe(command.args(arguments), input)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent that it has started.
        let _ = Command::new("gpgconf")
            .env("GNUPGHOME", self.0.path())
            .args(["--kill", "all"])
            .status();
    }
}

fn keys_of(texts: &[&[u8]]) -> OpenPgpKeys {
    let parse = |text: &&[u8]| OpenPgpKeys::parse(text, Some(b"correct horse"), "a test").expect("keys");
    let mut keys = OpenPgpKeys::default();
    for found in texts.iter().map(parse) {
        keys.extend(found);
    }
    keys
}

fn sealer_for(openpgp: OpenPgpKeys) -> Sealer {
    let keys = Keys {
        openpgp,
        ..Keys::default()
    };
    Keyring::of(keys, Some(Method::OpenPgp)).sealer().expect("a sealer")
}

fn seal(sealer: &Sealer, plain: &[u8]) -> Vec<u8> {
    sealer.seal_small(plain).expect("sealed")
}

#[test]
fn gpg_reads_what_we_write_to_one_and_to_two() {
    let (first, second) = (Gpg::new(&[PGP_SECRET]), Gpg::new(&[LOCKED]));
    let public = second.run(&["--export", "--armor"], b"").expect("exported");
    // Of one file, as a user would put them there.
    let both = sealer_for(keys_of(&[&[PGP_PUBLIC, &public].concat()]));
    let one = sealer_for(keys_of(&[PGP_PUBLIC]));
    for bytes in [0, 1, 100, 8192, 65_536 - 60, 65_536, 200_000, 3 << 20] {
        let plain = awkward(bytes);
        let object = seal(&both, &plain);
        for (who, gpg) in [("the first", &first), ("the second", &second)] {
            let read = gpg
                .run(&["--decrypt"], &object)
                .unwrap_or_else(|error| panic!("{who}: {error}"));
            assert!(read == plain, "{who}, {bytes} bytes");
        }
        let object = seal(&one, &plain);
        assert!(
            first.run(&["--decrypt"], &object).expect("decrypted") == plain,
            "{bytes} bytes"
        );
        second.run(&["--decrypt"], &object).expect_err("it is not for that one");
        // Nothing at all, too.
        let object = seal(&one, b"");
        assert_eq!(first.run(&["--decrypt"], &object).expect("decrypted"), b"");
    }
    let packets = first
        .run(&["--list-packets", "--verbose"], &seal(&one, b"text"))
        .expect("listed");
    let packets = String::from_utf8_lossy(&packets).into_owned();
    assert!(
        packets.contains("mdc_method: 2") && packets.contains("mode b (62)"),
        "{packets}"
    );
    assert!(!packets.contains(":compressed packet:"), "{packets}");
    let mut damaged = seal(&one, &awkward(100_000));
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    first.run(&["--decrypt"], &damaged).expect_err("the sum does not agree");
}

#[test]
fn we_read_what_gpg_writes_to_two() {
    let gpg = Gpg::new(&[PGP_PUBLIC, LOCKED]);
    let listed = gpg.run(&["--list-keys", "--with-colons"], b"").expect("listed");
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let ids: Vec<_> = listed
        .lines()
        .filter(|line| line.starts_with("pub:"))
        .filter_map(|line| line.split(':').nth(4))
        .collect();
    assert_eq!(ids.len(), 2, "{listed}");
    let recipients = ["--encrypt", "--recipient", ids[0], "--recipient", ids[1]];
    for bytes in [0, 10_000, 3 << 20] {
        let plain = awkward(bytes);
        let object = gpg.run(&recipients, &plain).expect("encrypted");
        for secret in [PGP_SECRET, LOCKED] {
            let keys = Keys {
                openpgp: keys_of(&[secret]),
                ..Keys::default()
            };
            assert!(decrypt(&object, &keys).expect("decrypted") == plain, "{bytes} bytes");
        }
    }
}

/// Each kind of key that gpg makes, with its subkeys; those that must not be used are refused.
#[test]
fn keys_are_used_as_gpg_would_use_them() {
    let generate = |gpg: &Gpg, arguments: &[&str]| {
        let base = ["--passphrase", "", "--quick-generate-key", "a@example.org"];
        gpg.run(&[&base[..], arguments].concat(), b"").expect("a key");
        let listed = gpg.run(&["--list-keys", "--with-colons"], b"").expect("listed");
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let line = listed
            .lines()
            .find(|line| line.starts_with("fpr:"))
            .expect("a fingerprint");
        line.split(':').nth(9).expect("a fingerprint").to_owned()
    };
    let refused = |gpg: &Gpg, says: &str| {
        let public = gpg.run(&["--export"], b"").expect("exported");
        let keys = Keys {
            openpgp: keys_of(&[&public]),
            ..Keys::default()
        };
        let error = Keyring::of(keys, Some(Method::OpenPgp)).sealer().expect_err(says);
        assert!(error.to_string().ends_with(says), "{error}");
    };
    for arguments in [["rsa2048", "default", "never"], ["future-default", "default", "never"]] {
        let gpg = Gpg::new(&[]);
        let fingerprint = generate(&gpg, &arguments);
        if arguments[0] == "rsa2048" {
            refused(&gpg, "it has no key for encryption");
            gpg.run(
                &["--passphrase", "", "--quick-add-key", &fingerprint, "rsa2048", "encr"],
                b"",
            )
            .expect("added");
        }
        // The newest is used, as by gpg.
        gpg.run(
            &[
                "--passphrase",
                "",
                "--quick-add-key",
                &fingerprint,
                "cv25519",
                "encr",
                "1y",
            ],
            b"",
        )
        .expect("added");
        let public = gpg.run(&["--export"], b"").expect("exported");
        let plain = awkward(1000);
        let object = seal(&sealer_for(keys_of(&[&public])), &plain);
        assert!(
            gpg.run(&["--decrypt"], &object).expect("decrypted") == plain,
            "{arguments:?}"
        );
    }
    let expired = Gpg::new(&[]);
    let early = ["--faked-system-time", "20200101T000000"];
    let base = [
        "--passphrase",
        "",
        "--quick-generate-key",
        "a@example.org",
        "rsa2048",
        "default",
        "1y",
    ];
    expired.run(&[&early[..], &base].concat(), b"").expect("a key");
    refused(&expired, "it has expired");
    let revoked = Gpg::new(&[]);
    let fingerprint = generate(&revoked, &["future-default", "default", "never"]);
    let path: PathBuf = revoked.0.path().join(format!("openpgp-revocs.d/{fingerprint}.rev"));
    let certificate = std::fs::read_to_string(path).expect("gpg writes one with each key");
    revoked
        .run(&["--import"], certificate.replace(":-----", "-----").as_bytes())
        .expect("revoked");
    refused(&revoked, "it is revoked");
}

/// `decrypt` or `encrypt`, by chunks as WAL-G has them.
const PYNACL: &str = "
import sys
from nacl import bindings as b
key, data, chunk = bytes.fromhex(sys.argv[2]), sys.stdin.buffer.read(), 8192
state = b.crypto_secretstream_xchacha20poly1305_state()
out, rest = [], data
if sys.argv[1] == 'decrypt':
    b.crypto_secretstream_xchacha20poly1305_init_pull(state, data[:24], key)
    rest, tag = data[24:], None
    while rest:
        assert tag != b.crypto_secretstream_xchacha20poly1305_TAG_FINAL, 'bytes after the last chunk'
        plain, tag = b.crypto_secretstream_xchacha20poly1305_pull(state, rest[:chunk + 17])
        assert len(plain) == chunk or tag == b.crypto_secretstream_xchacha20poly1305_TAG_FINAL, 'a short chunk'
        out.append(plain)
        rest = rest[chunk + 17:]
    assert tag == b.crypto_secretstream_xchacha20poly1305_TAG_FINAL, 'no last chunk'
else:
    out.append(b.crypto_secretstream_xchacha20poly1305_init_push(state, key))
    while True:
        now, rest = rest[:chunk], rest[chunk:]
        tag = b.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE if rest else b.crypto_secretstream_xchacha20poly1305_TAG_FINAL
        out.append(b.crypto_secretstream_xchacha20poly1305_push(state, now, b'', tag))
        if not rest:
            break
sys.stdout.buffer.write(b''.join(out))
";

fn pynacl(verb: &str, input: &[u8]) -> Result<Vec<u8>, String> {
    let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    pipe(Command::new("/usr/bin/python3").args(["-c", PYNACL, verb, &key]), input)
}

#[test]
fn libsodium_reads_what_we_write_and_we_read_what_it_writes() {
    let keyring = Keyring::of(ring(&[KEY], &[], false), Some(Method::Libsodium));
    let sealer = keyring.sealer().expect("a sealer");
    for bytes in [0, 1, 8150, 8191, 8192, 8193, 16_384, 100_000, 3 << 20] {
        let plain = sample(bytes);
        let object = seal(&sealer, &plain);
        let read =
            pynacl("decrypt", &object).unwrap_or_else(|error| panic!("{bytes} bytes: {error}: scripts/setup test"));
        assert!(read == plain, "{bytes} bytes");
        let object = pynacl("encrypt", &plain).expect("encrypted");
        assert_eq!(keyring.open_small(&object).expect("decrypted"), plain, "{bytes} bytes");
    }
    let mut damaged = seal(&sealer, &sample(100_000));
    damaged[50_000] ^= 1;
    pynacl("decrypt", &damaged).expect_err("damaged");
}

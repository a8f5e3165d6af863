//! Programs of others that decrypt what walarchive has encrypted: libsodium by way of PyNaCl, and gpg.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::TestDir;

/// Takes the key from its environment and the stream from a file, and checks that the last chunk is the one that is marked so.
const BY_PYNACL: &str = r#"
import os, sys
from nacl import bindings as b
key = bytes.fromhex(os.environ["KEY"])
sealed = open(sys.argv[1], "rb").read()
state = b.crypto_secretstream_xchacha20poly1305_state()
header, rest = sealed[:24], sealed[24:]
b.crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
size = 8192 + b.crypto_secretstream_xchacha20poly1305_ABYTES
chunks = [rest[at:at + size] for at in range(0, len(rest), size)]
for number, chunk in enumerate(chunks, 1):
    plain, tag = b.crypto_secretstream_xchacha20poly1305_pull(state, chunk, None)
    is_final = tag == b.crypto_secretstream_xchacha20poly1305_TAG_FINAL
    assert is_final == (number == len(chunks)), (number, len(chunks), tag)
    sys.stdout.buffer.write(plain)
assert chunks
"#;

/// The plain text of a file that is a secretstream. Panics if libsodium does not take all of it.
#[track_caller]
pub fn by_pynacl(file: &Path, key: [u8; 32]) -> Vec<u8> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut python = Command::new("/usr/bin/python3");
    output(python.args(["-c", BY_PYNACL]).arg(file).env("KEY", hex))
}

/// A key of gpg's, in a key ring of its own.
pub struct GpgKey {
    home: PathBuf,
}

impl GpgKey {
    /// A new one, without a passphrase, that can be encrypted to. The test's directory gets a key ring of this name.
    #[track_caller]
    pub fn new(dir: &TestDir, name: &str) -> GpgKey {
        let key = GpgKey { home: dir.join(name) };
        let made = DirBuilder::new().mode(0o700).create(&key.home);
        made.unwrap_or_else(|error| panic!("could not create {}: {error}", key.home.display()));
        let made = [
            "--passphrase",
            "",
            "--quick-gen-key",
            name,
            "future-default",
            "default",
            "never",
        ];
        output(key.gpg().args(made));
        key
    }

    /// As `gpg --armor --export` writes it.
    #[track_caller]
    pub fn public(&self) -> Vec<u8> {
        output(self.gpg().args(["--armor", "--export"]))
    }

    /// As `gpg --armor --export-secret-keys` writes it.
    #[track_caller]
    pub fn secret(&self) -> Vec<u8> {
        output(self.gpg().args(["--armor", "--export-secret-keys"]))
    }

    /// The plain text of a file that is a message to this key. Panics if gpg does not take all of it.
    #[track_caller]
    pub fn decrypt(&self, file: &Path) -> Vec<u8> {
        output(self.gpg().arg("--decrypt").arg(file))
    }

    /// Its environment, for a shell.
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", &self.home).args(["--batch", "--quiet"]);
        gpg
    }
}

impl Drop for GpgKey {
    fn drop(&mut self) {
        // gpg leaves its agent running.
        let mut end = Command::new("gpgconf");
        let ended = end.env("GNUPGHOME", &self.home).args(["--kill", "all"]).status();
        if let Err(error) = ended {
            eprintln!("could not end the agent of gpg: {error}");
        }
    }
}

#[track_caller]
fn output(command: &mut Command) -> Vec<u8> {
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.unwrap_or_else(|error| panic!("could not run {:?}: {error}", command.get_program()));
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

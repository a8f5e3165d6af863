//! The identity of the server, and ours.

use std::path::Path;
use std::process::Command;

use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{SftpServer, SshAgent, TestDir, keygen};

use super::config;

fn with(server: &SftpServer, options: &[(&str, &Path)]) -> StorageConfig {
    let mut config = config(server, "p");
    for (key, value) in options {
        config.options.insert(key, value.to_str().unwrap()).unwrap();
    }
    config
}

async fn list(config: &StorageConfig) -> Result<(), Error> {
    Store::open(config)?.list("").await.map(|_| ())
}

fn show(error: &Error) -> String {
    let text = format!(
        "{error}\nDETAIL: {}\nHINT: {}",
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    );
    println!("{text}");
    text
}

fn known_hosts(dir: &TestDir, text: &str) -> std::path::PathBuf {
    let path = dir.path().join("my_known_hosts");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_not_trusted_and_the_message_tells_what_to_do() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let empty = known_hosts(&dir, "# nobody\n");
    let config = with(&server, &[("sftp_known_hosts", &empty)]);
    let store = Store::open(&config).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error:?}");
    let text = show(&error);
    let listed = Command::new("/usr/bin/ssh-keygen")
        .args(["-l", "-f"])
        .arg(dir.path().join("sshd/host_ed25519.pub"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let fingerprint = listed.split(' ').nth(1).unwrap();
    assert!(
        fingerprint.starts_with("SHA256:") && text.contains(fingerprint),
        "{listed}"
    );
    assert!(text.contains("ssh-ed25519") && text.contains(&format!("ssh-keyscan -p {}", server.port())));
    // After following the hint no new store is needed.
    let scanned = Command::new("/usr/bin/ssh-keyscan")
        .args(["-p", &server.port().to_string(), "127.0.0.1"])
        .output()
        .unwrap();
    std::fs::write(&empty, scanned.stdout).unwrap();
    store.list("").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_revoked_host_key_is_an_alarm() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let other = dir.subdir("other").join("key");
    keygen(&other, "ed25519", "");
    let other = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    let name = format!("[127.0.0.1]:{}", server.port());
    let hosts = known_hosts(&dir, &format!("{name} {other}"));
    let config = with(&server, &[("sftp_known_hosts", &hosts)]);
    let error = list(&config).await.unwrap_err();
    let text = show(&error);
    assert!(
        matches!(error, Error::Setting { .. }) && text.contains("has changed"),
        "{text}"
    );
    assert!(text.contains("intercepting") && text.contains("ssh-keygen"), "{text}");
    let key = server.host_key("ed25519");
    known_hosts(&dir, &format!("{name} {key}\n@revoked * {key}\n"));
    let text = show(&list(&config).await.unwrap_err());
    assert!(text.contains("was revoked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_names_and_every_type_of_host_key_are_found() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    for kind in ["ecdsa", "ed25519"] {
        let hosts = known_hosts(
            &dir,
            &format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key(kind)),
        );
        let hashed = Command::new("/usr/bin/ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(&hosts)
            .output()
            .unwrap();
        assert!(hashed.status.success());
        let text = std::fs::read_to_string(&hosts).unwrap();
        assert!(text.starts_with("|1|") && !text.contains("127.0.0.1"), "{text}");
        list(&with(&server, &[("sftp_known_hosts", &hosts)])).await.unwrap();
    }
    let error = list(&with(&server, &[("sftp_known_hosts", Path::new("/nonexistent"))]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_type_with_and_without_passphrase() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let keys = dir.subdir("keys");
    for (kind, passphrase) in [("ed25519", "hunter2"), ("ecdsa", ""), ("rsa", "")] {
        let key = keys.join(kind);
        keygen(&key, kind, passphrase);
        server.authorize(&key.with_extension("pub"));
        let mut config = with(&server, &[("sftp_private_key_path", &key)]);
        if !passphrase.is_empty() {
            let error = list(&config).await.unwrap_err();
            assert!(show(&error).contains("is encrypted"), "{error:?}");
            config.credentials_file = Some(credentials(&dir, "sftp_private_key_passphrase = wrong\n"));
            let error = list(&config).await.unwrap_err();
            assert!(show(&error).contains("could not be decrypted"), "{error:?}");
            config.credentials_file = Some(credentials(&dir, "sftp_private_key_passphrase = hunter2\n"));
        }
        list(&config)
            .await
            .unwrap_or_else(|error| panic!("{kind}: {}", show(&error)));
    }
}

fn credentials(dir: &TestDir, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.path().join("credentials");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused_on_every_operation() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let key = dir.subdir("keys").join("wrong");
    keygen(&key, "ed25519", "");
    let config = with(&server, &[("sftp_private_key_path", &key)]);
    let error = list(&config).await.unwrap_err();
    let text = show(&error);
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(
        text.contains(key.to_str().unwrap()) && text.contains("SHA256:") && text.contains("publickey"),
        "{text}"
    );
    let store = Store::open(&config).unwrap();
    let error = store.create("x", "x".into()).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(show(&Store::open(&config).unwrap_err()).contains("can be read by others"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_proves_who_we_are() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let rsa = dir.subdir("keys").join("rsa");
    keygen(&rsa, "rsa", "");
    server.authorize(&rsa.with_extension("pub"));
    for key in [server.key(), rsa] {
        let agent_dir = TestDir::new();
        let agent = SshAgent::start(&agent_dir, &key);
        let mut config = config(&server, "p");
        config.options = Default::default();
        let hosts = server.known_hosts();
        for (name, path) in [
            ("sftp_known_hosts", hosts.as_path()),
            ("sftp_agent_socket", agent.socket()),
        ] {
            config.options.insert(name, path.to_str().unwrap()).unwrap();
        }
        list(&config).await.unwrap_or_else(|error| panic!("{}", show(&error)));
        drop(agent);
        let error = list(&config).await.unwrap_err();
        let text = show(&error);
        assert!(
            matches!(error, Error::NoCredentials { .. } | Error::Unauthorized { .. }),
            "{error:?}"
        );
        assert!(text.contains("the agent at"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_replaced_is_taken_without_opening_the_store_again() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let key = dir.subdir("keys").join("key");
    keygen(&key, "ed25519", "");
    let config = with(&server, &[("sftp_private_key_path", &key)]);
    let store = Store::open(&config).unwrap();
    let error = store.list("").await.unwrap_err();
    let text = show(&error);
    let hint = error.hint().unwrap_or_default();
    assert!(
        hint.contains(&format!("the key file \"{}\"", key.display())),
        "the hint names the key: {text}"
    );
    // Half of the right one, then all of it.
    let right = std::fs::read_to_string(server.key()).unwrap();
    std::fs::write(&key, &right[..right.len() / 2]).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    std::fs::write(&key, &right).unwrap();
    store.list("").await.unwrap_or_else(|error| panic!("{}", show(&error)));
    // A file that is broken later does not matter after it was read.
    std::fs::write(&key, "nonsense").unwrap();
    server.signal_connections(walarchive_testkit::Signal::SIGKILL);
    store.list("").await.unwrap_or_else(|error| panic!("{}", show(&error)));
}

//! Passwords, which sshd takes from the system only: so here the SSH server is one of russh, in front of Debian's sftp-server.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::net::TcpListener;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::TestDir;

const PASSWORD: &str = "hunter2";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Password,
    Questions,
}

struct Server {
    asks: Asks,
    channels: Arc<Mutex<HashMap<ChannelId, Channel<Msg>>>>,
}

fn rejected(asks: Asks) -> Auth {
    let method = match asks {
        Asks::Password => MethodKind::Password,
        Asks::Questions => MethodKind::KeyboardInteractive,
    };
    Auth::Reject {
        proceed_with_methods: Some(MethodSet::from(&[method][..])),
        partial_success: false,
    }
}

impl server::Handler for Server {
    type Error = russh::Error;

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let right = self.asks == Asks::Password && user == "me" && password == PASSWORD;
        Ok(if right { Auth::Accept } else { rejected(self.asks) })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<server::Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        Ok(match response.and_then(|mut answers| answers.next()) {
            Some(answer) if answer.as_ref() == PASSWORD.as_bytes() => Auth::Accept,
            Some(_) => rejected(self.asks),
            None => Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            },
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.lock().unwrap().insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        assert_eq!(name, "sftp");
        let found = self.channels.lock().unwrap().remove(&channel).unwrap();
        let mut program = std::process::Command::new("/usr/lib/openssh/sftp-server");
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (read, write) = tokio::io::split(found.into_stream());
        let handle = tokio::runtime::Handle::current();
        let back = handle.clone();
        std::thread::spawn(move || {
            // A channel tells its end to the runtime.
            let _guard = handle.enter();
            let mut read = read;
            let mut from = tokio_util::io::SyncIoBridge::new_with_handle(&mut read, handle.clone());
            let _ = std::io::copy(&mut from, &mut input);
            drop(input);
            let _ = child.wait();
        });
        std::thread::spawn(move || {
            let _guard = back.enter();
            let mut write = write;
            let mut to = tokio_util::io::SyncIoBridge::new_with_handle(&mut write, back.clone());
            let _ = std::io::copy(&mut output, &mut to);
        });
        session.channel_success(channel)
    }
}

/// Returns its port and its public key.
async fn serve(asks: Asks) -> (u16, String) {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
    let public = key.public_key().to_openssh().unwrap();
    let config = Arc::new(server::Config {
        keys: vec![key],
        auth_rejection_time: Duration::from_millis(10),
        ..server::Config::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = Server {
                asks,
                channels: Arc::default(),
            };
            tokio::spawn(server::run_stream(config.clone(), stream, server).await.unwrap());
        }
    });
    (port, public)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_us_in_asked_for_either_way() {
    use std::os::unix::fs::PermissionsExt;
    for asks in [Asks::Password, Asks::Questions] {
        let dir = TestDir::new();
        let (port, key) = serve(asks).await;
        let hosts = dir.path().join("known_hosts");
        std::fs::write(&hosts, format!("[127.0.0.1]:{port} {key}\n")).unwrap();
        let credentials = dir.path().join("credentials");
        let files = dir.subdir("files");
        let config = |password: &str| {
            std::fs::write(&credentials, format!("sftp_password = {password}\n")).unwrap();
            std::fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).unwrap();
            StorageConfig {
                options: format!("sftp_known_hosts={}", hosts.display()).parse().unwrap(),
                credentials_file: Some(credentials.clone()),
                ..StorageConfig::new(format!("sftp://me@127.0.0.1:{port}{}", files.display()))
            }
        };
        let store = Store::open(&config(PASSWORD)).unwrap();
        store.put("a/b", "content".into()).await.unwrap();
        assert_eq!(std::fs::read_to_string(files.join("a/b")).unwrap(), "content");
        let store = Store::open(&config("secret-but-wrong")).unwrap();
        let error = store.list("").await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        let text = format!("{error} {error:?} {:?} {store:?}", error.detail());
        assert!(
            text.contains("the password") && !text.contains("secret-but-wrong"),
            "{text}"
        );
        println!("{error}\nDETAIL: {}", error.detail().unwrap());
    }
}

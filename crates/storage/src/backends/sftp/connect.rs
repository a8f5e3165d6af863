//! From nothing to a session that answers: TCP, the host's key, our credentials, the SFTP subsystem.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelMsg, Preferred, cipher};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::auth;
use super::config::Settings;
use super::failure::{Failure, lost};
use super::known_hosts::HostKeys;
use super::session::{Features, Session, WINDOW};
use crate::http;

/// Everything until the first request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One of the addresses that a name has.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that is silent for so long is asked whether it is there, and given up after three questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Also ends a connection whose peer takes no more bytes, where no question would get through.
const INACTIVITY: Duration = Duration::from_secs(90);

/// The SSH library's questions and messages.
pub(super) struct Client {
    hosts: HostKeys,
    // Dropped with the connection's task, however that ends.
    _closed: DropGuard,
}

impl client::Handler for Client {
    type Error = Failure;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        self.hosts.check(&key.public_key()).map(|()| true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> Result<(), Failure> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                tracing::debug!(reason = info.message, "the SFTP server closed the connection");
            }
            DisconnectReason::Error(failure) => tracing::debug!(%failure, "the connection to the SFTP server ended"),
        }
        Ok(())
    }
}

pub(super) async fn connect(settings: &Arc<Settings>) -> Result<Session, Failure> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open(settings)).await {
        Ok(session) => session,
        Err(_) => Err(lost(format!(
            "The SFTP server {}:{} accepts connections but did not complete the handshake within {} s.",
            settings.host,
            settings.port,
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

async fn open(settings: &Arc<Settings>) -> Result<Session, Failure> {
    let stream = dial(&settings.host, settings.port).await?;
    // Read each time: the hint of the last failure may have been followed since.
    let read = {
        let settings = settings.clone();
        move || HostKeys::read(&settings.known_hosts, &settings.host, settings.port)
    };
    let hosts = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| lost(error.to_string()))??;
    let config = client::Config {
        preferred: Preferred {
            key: hosts.algorithms(),
            // The fastest first, where the processor has AES; all are sound.
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_192_CTR,
                cipher::AES_128_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        window_size: 2 * WINDOW as u32,
        keepalive_interval: Some(KEEPALIVE),
        inactivity_timeout: Some(INACTIVITY),
        ..client::Config::default()
    };
    let closed = CancellationToken::new();
    let client = Client {
        hosts,
        _closed: closed.clone().drop_guard(),
    };
    let mut handle: Handle<Client> = client::connect_stream(Arc::new(config), stream, client).await?;
    auth::authenticate(&mut handle, settings).await?;
    let mut channel = handle.channel_open_session().await?;
    channel.request_subsystem(true, "sftp").await?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) => {
                return Err(Failure::Server(format!(
                    "The server lets \"{}\" in, but has no SFTP for that user (sshd_config: Subsystem sftp internal-sftp).",
                    settings.user
                )));
            }
            Some(_) => {}
            None => return Err(lost("The server closed the connection.")),
        }
    }
    let config = russh_sftp::client::Config {
        // The deadlines are the session's. This is only never to be reached.
        request_timeout_secs: 24 * 3600,
        ..russh_sftp::client::Config::default()
    };
    let mut raw = russh_sftp::client::RawSftpSession::new_with_config(channel.into_stream(), config);
    let version = raw.init().await.map_err(|error| {
        // It cannot be told from a connection that broke just now.
        lost(format!(
            "The server lets \"{}\" in, but gives no SFTP: {error}.",
            settings.user
        ))
    })?;
    let features = Features::ask(&mut raw, &version.extensions).await;
    Ok(Session::new(raw, handle, closed, features, settings))
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| lost(format!("The host \"{host}\" could not be found: {error}.")))?;
    let mut failure = lost(format!("The host \"{host}\" has no address."));
    for address in addresses {
        match tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                http::keep_little_unsent(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => failure = lost(format!("Connecting to {address} failed: {error}.")),
            Err(_) => {
                failure = lost(format!(
                    "Connecting to {address} took more than {} s.",
                    ADDRESS_TIMEOUT.as_secs()
                ));
            }
        }
    }
    Err(failure)
}

//! The way to the server: a Unix socket or TCP.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::unistd::{Uid, User};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::error::Refusal;
use crate::hosts::{Host, Place};

/// Anything that bytes go through both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// A peer that is gone without a word is found out within about two minutes, also where nothing is sent for hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// Connect. `peer` is the user whose server it must be, of a Unix socket.
pub(crate) async fn open(host: &Host, peer: Option<&str>) -> Result<Box<dyn Stream>, Refusal> {
    if let Some(socket) = host.socket() {
        let stream = UnixStream::connect(&socket).await?;
        if let Some(peer) = peer {
            check_peer(&stream, peer)?;
        }
        return Ok(Box::new(stream));
    }
    let Place::Network { name, address } = &host.place else {
        return Err(Refusal::Unreachable("it has no place".to_owned()));
    };
    let addresses: Vec<SocketAddr> = match (address, name) {
        (Some(address), _) => vec![SocketAddr::new(*address, host.port)],
        (None, name) => lookup_host((name.as_deref().unwrap_or("localhost"), host.port))
            .await?
            .collect(),
    };
    let mut last = Refusal::Unreachable("its name has no address".to_owned());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                return Ok(Box::new(stream));
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn keep_alive(stream: &impl AsFd) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn check_peer(stream: &UnixStream, wanted: &str) -> Result<(), Refusal> {
    let uid = stream.peer_cred()?.uid();
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    match name.as_deref() == Some(wanted) {
        true => Ok(()),
        false => Err(Refusal::Unreachable(format!(
            "the server runs as user {}, and PGREQUIREPEER is \"{wanted}\"",
            name.map_or_else(|| uid.to_string(), |name| format!("\"{name}\""))
        ))),
    }
}

//! One connection of a protocol that the proxy does not read.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::Shared;
use super::connection::Pace;
use super::fault::Fault;

/// The bytes that are read at a time.
const CHUNK: usize = 16 << 10;

/// Until one of the two sides ends.
pub(super) fn serve(shared: &Shared, client: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream))?;
    server.set_nodelay(true)?;
    let end = || {
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    };
    let (sender, answers) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = listen(shared, &server, sender);
        });
        scope.spawn(|| {
            let _ = answer(shared, client, answers);
            end();
        });
        let _ = send(shared, client, &server);
        end();
    });
    Ok(())
}

/// From the client to the server.
fn send(shared: &Shared, mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
    let (mut pace, mut chunk) = (Pace::default(), vec![0; CHUNK]);
    loop {
        let read = client.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        shared.carried.fetch_add(read as u64, Ordering::Relaxed);
        pace.write(shared, &mut server, &chunk[..read], false)?;
    }
}

/// Take the server's answers, and note when each came.
fn listen(shared: &Shared, mut server: &TcpStream, to: Sender<(Instant, Vec<u8>)>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = server.read(&mut chunk)?;
        if read == 0 || shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        if to.send((Instant::now(), chunk[..read].to_vec())).is_err() {
            return Ok(());
        }
    }
}

/// To the client, as much later as it is away.
fn answer(shared: &Shared, mut client: &TcpStream, from: Receiver<(Instant, Vec<u8>)>) -> io::Result<()> {
    let mut pace = Pace::down();
    while let Ok((at, bytes)) = from.recv() {
        let latency = shared.find(|fault| match fault {
            Fault::Latency(latency) => Some(*latency),
            _ => None,
        });
        let due = at + latency.unwrap_or_default();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        pace.write(shared, &mut client, &bytes, true)?;
    }
    Ok(())
}

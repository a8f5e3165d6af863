//! One connection of a client, and the one to the server that belongs to it.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fault::{Fault, Verdict};
use super::http::{Framing, Head, copy_body};
use super::link::PIECE;
use super::{Seen, Shared, lock};

/// Slow links move that often, and waiting threads look that often whether they should still wait.
const TICK: Duration = Duration::from_millis(50);

pub(super) fn serve(shared: &Shared, client: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::with_capacity(64 << 10, client);
    let mut upstream: Option<BufReader<TcpStream>> = None;
    let (mut up, mut down) = (Pace::default(), Pace::down());
    while let Some(mut request) = Head::read(&mut from_client)? {
        let (method, target) = (request.word(0).to_owned(), request.word(1).to_owned());
        let number = record(shared, &request);
        let verdict = shared.judge(&format!("{method} {target}"), request.header("x-amz-security-token"));
        let framing = request.request_framing();
        match verdict {
            Verdict::Silence => {
                copy_body(framing, &mut from_client, &mut |_| Ok(()))?;
                return wait_for_an_end(shared, client);
            }
            Verdict::Answer(status) => {
                copy_body(framing, &mut from_client, &mut |_| Ok(()))?;
                (&*client).write_all(&status.response(&method))?;
                continue;
            }
            Verdict::Forward | Verdict::Forget => {}
        }
        if upstream.as_ref().is_some_and(|server| readable(server.get_ref())) {
            // It says no more to a request that was answered: it is closed.
            upstream = None;
        }
        if upstream.is_none() {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream))?;
            server.set_nodelay(true)?;
            upstream = Some(BufReader::with_capacity(64 << 10, server));
        }
        let Some(server) = &mut upstream else { return Ok(()) };
        strip(shared, &mut request);
        let mut to_server = server.get_ref().try_clone()?;
        up.write(shared, &mut to_server, &request.bytes(), false)?;
        let breaks = breaks(shared, number, framing != Framing::Length(0));
        if breaks == Breaks::Midway && framing == Framing::Length(0) {
            shared.broken.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut carried = 0;
        // A server that refuses a request may answer before it has read all of it, and read no more.
        let mut early = false;
        copy_body(framing, &mut from_client, &mut |bytes| {
            carried += bytes.len() as u64;
            if breaks == Breaks::Midway && matches!(framing, Framing::Length(length) if carried > length / 2) {
                shared.broken.fetch_add(1, Ordering::Relaxed);
                // With unread data before it, this is a reset.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            shared.carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            note(shared, number, |seen| seen.carried = carried);
            early = early || readable(&to_server);
            if early {
                return Ok(());
            }
            match up.write(shared, &mut to_server, bytes, false) {
                Err(error) if is_closed(&error) => early = true,
                result => return result,
            }
            Ok(())
        })?;

        let Some(mut response) = Head::read(server)? else {
            return Ok(());
        };
        let status = response.word(1).parse().ok();
        note(shared, number, |seen| seen.status = status);
        if breaks == Breaks::AfterAnswer {
            shared.broken.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(verdict, Verdict::Forget) || breaks == Breaks::AfterAnswer {
            return Ok(());
        }
        let latency = shared.find(|fault| match fault {
            Fault::Latency(latency) => Some(*latency),
            _ => None,
        });
        std::thread::sleep(latency.unwrap_or_default());
        early |= response.closes();
        strip(shared, &mut response);
        let framing = response.response_framing(&method);
        down.write_head(shared, client, &response.bytes())?;
        copy_body(framing, server, &mut |bytes| {
            down.write(shared, &mut &*client, bytes, true)
        })?;
        note(shared, number, |seen| seen.answered = Some(Instant::now()));
        if early {
            upstream = None;
        }
        if framing == Framing::UntilClosed {
            return Ok(());
        }
    }
    Ok(())
}

/// When the connection breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    Never,
    Midway,
    /// Before the answer of the server is passed on.
    AfterAnswer,
}

/// Is this request one whose connection breaks?
fn breaks(shared: &Shared, number: usize, has_body: bool) -> Breaks {
    let sender = match has_body {
        true => Some(shared.senders.fetch_add(1, Ordering::Relaxed) + 1),
        false => None,
    };
    let breaks = shared.find(|fault| match fault {
        Fault::ResetEvery(nth) if sender.is_some_and(|sender| sender.is_multiple_of(*nth)) => Some(Breaks::Midway),
        Fault::BreakEvery(nth) if (number + 1).is_multiple_of(2 * nth) => Some(Breaks::AfterAnswer),
        Fault::BreakEvery(nth) if (number + 1).is_multiple_of(*nth) => Some(Breaks::Midway),
        _ => None,
    });
    breaks.unwrap_or(Breaks::Never)
}

/// Returns the number of the request.
fn record(shared: &Shared, request: &Head) -> usize {
    let headers = request.headers().filter(|(name, _)| name != "authorization");
    let headers = headers.map(|(name, value)| (name, value.to_owned())).collect();
    let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
    lock(&shared.seen).push(Seen {
        method: request.word(0).to_owned(),
        target: request.word(1).to_owned(),
        at: Instant::now(),
        carried: 0,
        status: None,
        answered: None,
        number,
        headers,
    });
    number
}

/// Write down how the request goes on, if the test has not forgotten it.
fn note(shared: &Shared, number: usize, change: impl FnOnce(&mut Seen)) {
    let mut seen = lock(&shared.seen);
    if let Some(seen) = seen.iter_mut().rev().find(|seen| seen.number == number) {
        change(seen);
    }
}

fn strip(shared: &Shared, head: &mut Head) {
    for fault in &*lock(&shared.faults) {
        if let Fault::StripHeader(name) = fault {
            head.strip(name);
        }
    }
}

/// Did the other side close the connection, as opposed to a fault of ours?
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Has something come, or was the connection closed?
fn readable(stream: &TcpStream) -> bool {
    let nothing = |error: io::Error| error.kind() != io::ErrorKind::WouldBlock;
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let readable = peeked.map_or_else(nothing, |_| true);
    stream.set_nonblocking(false).is_err() || readable
}

/// Until the client closes the connection, the fault is healed or the proxy ends.
fn wait_for_an_end(shared: &Shared, mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(TICK))?;
    while shared
        .find(|fault| matches!(fault, Fault::Silent).then_some(()))
        .is_some()
    {
        match client.read(&mut [0; 4096]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Pace {
    /// Bytes, since the faults were set.
    moved: u64,
    set: usize,
    /// To the client.
    down: bool,
}

impl Pace {
    pub(super) fn down() -> Self {
        Pace {
            down: true,
            ..Pace::default()
        }
    }

    /// The head of a response.
    fn write_head(&mut self, shared: &Shared, mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        let slow = shared
            .find(|fault| matches!(fault, Fault::Trickle).then_some(()))
            .is_some();
        self.write(shared, &mut client, bytes, slow)
    }

    pub(super) fn write(
        &mut self,
        shared: &Shared,
        to: &mut impl Write,
        mut bytes: &[u8],
        trickles: bool,
    ) -> io::Result<()> {
        let set = shared.set.load(Ordering::Relaxed);
        if self.set != set {
            (self.moved, self.set) = (0, set);
        }
        while !bytes.is_empty() {
            if shared.stopped.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let (most, pause) = shared
                .find(|fault| match fault {
                    Fault::Trickle | Fault::TrickleBody if trickles => Some((1, Duration::from_secs(1))),
                    Fault::Slow(rate) => Some((rate / (1000 / TICK.as_millis() as u64), TICK)),
                    Fault::Cut(limit) | Fault::Stall(limit) => Some((limit.saturating_sub(self.moved), Duration::ZERO)),
                    _ => None,
                })
                .unwrap_or((u64::MAX, Duration::ZERO));
            if most == 0 {
                if shared
                    .find(|fault| matches!(fault, Fault::Stall(_)).then_some(()))
                    .is_some()
                {
                    std::thread::sleep(TICK);
                    continue;
                }
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let link = shared.find(|fault| match fault {
                Fault::Link(rate) => Some(*rate),
                _ => None,
            });
            let most = if link.is_some() { most.min(PIECE) } else { most };
            let now = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            if let Some(rate) = link {
                let at = shared.links[usize::from(self.down)].pass(now as u64, rate);
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
            }
            to.write_all(&bytes[..now])?;
            self.moved += now as u64;
            if self.down {
                shared.delivered.fetch_add(now as u64, Ordering::Relaxed);
            }
            bytes = &bytes[now..];
            std::thread::sleep(pause);
        }
        Ok(())
    }
}

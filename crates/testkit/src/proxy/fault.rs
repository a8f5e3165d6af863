use std::time::Duration;

use super::{Shared, lock};

/// A fault of a [`FaultProxy`](super::FaultProxy).
#[derive(Debug, Clone)]
pub enum Fault {
    /// Connections are accepted, requests are read, nothing is answered.
    Silent,
    /// One byte of each response a second, from its first one on.
    Trickle,
    /// One byte of each response's body a second; the head comes at once.
    TrickleBody,
    /// Each connection is dropped after that many bytes in either direction, counted from now.
    Cut(u64),
    /// Of each connection nothing more moves after that many bytes in either direction, counted from now; it stays
    /// open.
    Stall(u64),
    /// Some requests are answered with an error, and the server does not see them.
    Status(StatusFault),
    /// Nobody listens. Connections that are open are closed.
    Refuse,
    /// That many bytes a second in either direction of each connection.
    Slow(u64),
    /// A link of that many bytes a second in either direction, which all connections share.
    Link(u64),
    /// Each answer comes that much later.
    Latency(Duration),
    /// The connection of every nth request that has a body breaks in the middle of it.
    ResetEvery(usize),
    /// The connection of every nth request breaks, whatever it is: in turn in the middle of its body, and when the server has
    /// carried it out and its answer is not passed on yet.
    BreakEvery(usize),
    /// The server carries requests out, but the connection breaks before the answer comes back.
    LoseAnswers {
        /// How many times.
        times: usize,
        /// Those only whose `METHOD target` holds this.
        only: String,
    },
    /// Requests with another session token than this one are answered as S3 does when a token has expired, and the server does not
    /// see them.
    Session(String),
    /// A header that is removed from requests and from responses; its name in lower case. Without `if-none-match` the server
    /// overwrites where it should not, if it does not check signatures.
    StripHeader(&'static str),
}

impl Fault {
    /// All requests are answered with this status, until told otherwise.
    pub fn status(code: u16) -> StatusFault {
        StatusFault {
            code,
            every: 1,
            left: usize::MAX,
            retry_after: None,
            only: String::new(),
            error: "Fault",
            counted: 0,
        }
    }
}

/// Which requests are answered with an error, and how.
#[derive(Debug, Clone)]
pub struct StatusFault {
    code: u16,
    every: usize,
    left: usize,
    retry_after: Option<String>,
    only: String,
    error: &'static str,
    counted: usize,
}

impl StatusFault {
    /// Every nth of them only.
    pub fn every(mut self, nth: usize) -> Self {
        self.every = nth;
        self
    }

    /// That many times, then no more.
    pub fn times(mut self, times: usize) -> Self {
        self.left = times;
        self
    }

    /// With this header, which is seconds or a date.
    pub fn retry_after(mut self, value: impl Into<String>) -> Self {
        self.retry_after = Some(value.into());
        self
    }

    /// Those only whose `METHOD target` holds this.
    pub fn only(mut self, part: &str) -> Self {
        part.clone_into(&mut self.only);
        self
    }

    fn hits(&mut self, request: &str) -> bool {
        if self.left == 0 || !request.contains(&self.only) {
            return false;
        }
        self.counted += 1;
        let hit = self.counted.is_multiple_of(self.every);
        self.left -= usize::from(hit);
        hit
    }

    /// The whole response, as S3 servers write it; to HEAD without a body.
    pub(super) fn response(&self, method: &str) -> Vec<u8> {
        let body = format!(
            "<Error><Code>{}</Code><Message>fault {}</Message></Error>",
            self.error, self.code
        );
        let retry_after = self.retry_after.as_ref();
        let retry_after = retry_after.map_or(String::new(), |value| format!("Retry-After: {value}\r\n"));
        let head = format!(
            "HTTP/1.1 {} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n{retry_after}\r\n",
            self.code,
            body.len()
        );
        if method == "HEAD" { head } else { head + &body }.into_bytes()
    }
}

impl From<StatusFault> for Fault {
    fn from(status: StatusFault) -> Fault {
        Fault::Status(status)
    }
}

/// The treatment of a request.
pub(super) enum Verdict {
    Forward,
    Answer(StatusFault),
    Forget,
    Silence,
}

impl Fault {
    fn judge(&mut self, request: &str, token: Option<&str>) -> Option<Verdict> {
        match self {
            Fault::Session(good) => (token != Some(good)).then(|| {
                Verdict::Answer(StatusFault {
                    error: "ExpiredToken",
                    ..Fault::status(400)
                })
            }),
            Fault::Silent => Some(Verdict::Silence),
            Fault::Status(status) => status.hits(request).then(|| Verdict::Answer(status.clone())),
            Fault::LoseAnswers { times, only } if *times > 0 && request.contains(only.as_str()) => {
                *times -= 1;
                Some(Verdict::Forget)
            }
            _ => None,
        }
    }
}

impl Shared {
    /// By `METHOD target` of a request and its session token.
    pub(super) fn judge(&self, request: &str, token: Option<&str>) -> Verdict {
        let judge = |fault: &mut Fault| fault.judge(request, token);
        let verdict = lock(&self.faults).iter_mut().find_map(judge);
        verdict.unwrap_or(Verdict::Forward)
    }

    /// The first of the present faults that a function knows something of.
    pub(super) fn find<T>(&self, choose: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        lock(&self.faults).iter().find_map(choose)
    }
}

//! As much of HTTP/1.1 as it takes to know where a message ends.

use std::io::{self, BufRead};

/// More than any head has, in bytes.
const HEAD_LIMIT: usize = 1 << 20;

/// The first line and the headers of a message, as they came.
pub(super) struct Head {
    lines: Vec<String>,
}

/// The end of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

impl Head {
    /// None if the connection ends instead.
    pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Head>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            bytes += line.len();
            if bytes > HEAD_LIMIT {
                return Err(io::Error::other("the head of a message does not end"));
            }
            if line.trim_end().is_empty() {
                return Ok((!lines.is_empty()).then_some(Head { lines }));
            }
            lines.push(line);
        }
    }

    /// A word of the first line.
    pub(super) fn word(&self, index: usize) -> &str {
        self.lines[0].split_whitespace().nth(index).unwrap_or_default()
    }

    /// Names in lower case.
    pub(super) fn headers(&self) -> impl Iterator<Item = (String, &str)> {
        let pairs = self.lines[1..].iter().filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
    }

    pub(super) fn strip(&mut self, name: &str) {
        let mut first = true;
        self.lines.retain(|line| {
            let keep = first || !line.split(':').next().unwrap_or_default().eq_ignore_ascii_case(name);
            first = false;
            keep
        });
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.lines.concat().into_bytes();
        bytes.extend(b"\r\n");
        bytes
    }

    /// Is this the last message on its connection?
    pub(super) fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The name in lower case.
    pub(super) fn header(&self, wanted: &str) -> Option<&str> {
        self.headers().find(|(name, _)| name == wanted).map(|(_, value)| value)
    }

    fn framing(&self) -> Option<Framing> {
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Some(Framing::Chunked);
        }
        self.header("content-length")?.parse().ok().map(Framing::Length)
    }

    /// Of the body that follows this request.
    pub(super) fn request_framing(&self) -> Framing {
        self.framing().unwrap_or(Framing::Length(0))
    }

    /// Of the body that follows this response.
    pub(super) fn response_framing(&self, method: &str) -> Framing {
        match self.word(1) {
            _ if method == "HEAD" => Framing::Length(0),
            "204" | "304" => Framing::Length(0),
            _ => self.framing().unwrap_or(Framing::UntilClosed),
        }
    }
}

/// Copies a body as it comes.
pub(super) fn copy_body(
    framing: Framing,
    from: &mut impl BufRead,
    to: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    match framing {
        Framing::Length(bytes) => copy(from, bytes, to),
        Framing::UntilClosed => loop {
            let bytes = from.fill_buf()?.to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            from.consume(bytes.len());
            to(&bytes)?;
        },
        Framing::Chunked => loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let size = line.split([';', '\r', '\n']).next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            to(line.as_bytes())?;
            // The chunk and its line end; of the last one only the line end, since trailers are not in use here.
            copy(from, size + 2, to)?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

fn copy(from: &mut impl BufRead, mut left: u64, to: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    while left > 0 {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))].to_vec();
        from.consume(bytes.len());
        left -= bytes.len() as u64;
        to(&bytes)?;
    }
    Ok(())
}

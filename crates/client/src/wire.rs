//! Messages over a stream.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;

/// The longest message that is taken, in bytes. A server's messages here are far shorter, and nobody knows who answers.
const LONGEST: usize = 64 << 20;

/// What is read at a time, in bytes.
const READ: usize = 64 << 10;

/// The tag of a CopyBothResponse, which the library does not know.
const COPY_BOTH: u8 = b'W';

/// The server's message.
pub(crate) enum Incoming {
    /// A message that the library knows.
    Message(Message),
    /// The replication stream begins.
    CopyBoth,
}

/// A stream with its buffers.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    input: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Wire {
            stream,
            input: BytesMut::new(),
        }
    }

    /// The next message. The future may be dropped: nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            if let Some(incoming) = self.parse()? {
                return Ok(incoming);
            }
            self.input.reserve(READ);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ));
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Incoming>> {
        let Some(header) = Header::parse(&self.input)? else {
            return Ok(None);
        };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {length} bytes came, which no PostgreSQL server sends"),
            ));
        }
        if self.input.len() <= length {
            return Ok(None);
        }
        if header.tag() == COPY_BOTH {
            self.input.advance(length + 1);
            return Ok(Some(Incoming::CopyBoth));
        }
        Ok(Message::parse(&mut self.input)?.map(Incoming::Message))
    }

    /// Send what `write` puts into the buffer.
    pub(crate) async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        let mut output = BytesMut::new();
        write(&mut output)?;
        self.stream.write_all(&output).await?;
        self.stream.flush().await
    }
}

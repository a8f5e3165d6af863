//! The end of a Brotli stream. The encoder of the library writes it even when it is dropped, and keeps the errors of that to
//! itself: then a stream that was given up would look like a whole one, and one whose end was not written, too.

use std::io::{self, ErrorKind, Write};

use brotli::CompressorWriter;

/// Bytes that are handed over at once.
const BUFFER: usize = 64 << 10;

/// The window, as a power of two: 4 MB, as the brotli program has it.
const WINDOW_BITS: u32 = 22;

/// An encoder that ends its stream in [`Ended::finish`], and only there.
pub struct Ended<W: Write>(Option<CompressorWriter<Watched<W>>>);

impl<W: Write> Ended<W> {
    pub(super) fn new(sink: W, level: u32) -> Self {
        let sink = Watched {
            sink: Some(sink),
            failure: None,
        };
        Ended(Some(CompressorWriter::new(sink, BUFFER, level, WINDOW_BITS)))
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        let Some(mut encoder) = self.0.take() else {
            return Err(gone());
        };
        // Tells an error of the encoder; the next step says nothing of it.
        encoder.flush()?;
        let watched = encoder.into_inner();
        match watched.failure {
            Some(failure) => Err(failure),
            None => watched.sink.ok_or_else(gone),
        }
    }
}

impl<W: Write> Drop for Ended<W> {
    fn drop(&mut self) {
        // The encoder writes its end now, and that goes nowhere.
        if let Some(encoder) = &mut self.0 {
            encoder.get_mut().sink = None;
        }
    }
}

impl<W: Write> Write for Ended<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or_else(gone)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().ok_or_else(gone)?.flush()
    }
}

fn gone() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "the stream has ended")
}

/// The sink, and its first failure.
struct Watched<W: Write> {
    /// None if nothing more is to be written.
    sink: Option<W>,
    failure: Option<io::Error>,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.as_mut().ok_or_else(gone)?.write(bytes);
        written.inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.failure
                    .get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.as_mut().ok_or_else(gone)?.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Read;
    use std::rc::Rc;

    use super::*;

    /// Takes so many bytes.
    struct Limited(Rc<RefCell<Vec<u8>>>, usize);

    impl Write for Limited {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.0.borrow_mut();
            if taken.len() + bytes.len() > self.1 {
                return Err(io::Error::new(ErrorKind::StorageFull, "full"));
            }
            taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        brotli::Decompressor::new(bytes, BUFFER)
            .read_to_end(&mut out)
            .map(|_| out)
    }

    #[test]
    fn a_stream_that_was_given_up_does_not_look_whole() {
        let taken = Rc::default();
        let mut encoder = Ended::new(Limited(Rc::clone(&taken), usize::MAX), 1);
        encoder.write_all(b"some bytes").expect("written");
        drop(encoder);
        assert!(decode(&taken.borrow()).is_err(), "{taken:?}");
        let mut encoder = Ended::new(Limited(Rc::default(), usize::MAX), 1);
        encoder.write_all(b"some bytes").expect("written");
        let sink = encoder.finish().expect("finished");
        assert_eq!(decode(&sink.0.borrow()).expect("decoded"), b"some bytes");
    }

    #[test]
    fn an_end_that_cannot_be_written_is_an_error() {
        for limit in 0..200 {
            let mut encoder = Ended::new(Limited(Rc::default(), limit), 5);
            let whole = encoder.write_all(&[7; 100]).and_then(|()| encoder.finish());
            if let Ok(sink) = whole {
                assert_eq!(decode(&sink.0.borrow()).expect("decoded"), [7; 100], "{limit}");
                assert!(limit > 5, "nothing is that small");
            }
        }
    }
}

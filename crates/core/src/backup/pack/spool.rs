//! Lines of text that wait in little memory until the objects are written which they belong to: a cluster may have millions
//! of files, and what is said of each is known when it is packed, but wanted when the last one is.

use std::io::{self, BufRead, BufReader, Write};

use crate::codec::{Compression, Encoder, Format};

/// Takes about a MB while it is open, and the compressed lines when it is closed.
#[derive(Default)]
pub(crate) struct Spool(Option<Encoder<Vec<u8>>>);

/// Lines that were spooled, compressed.
#[derive(Default)]
pub(crate) struct Lines(Vec<u8>);

impl Spool {
    /// Add a line, which holds no line feed.
    pub(crate) fn push(&mut self, line: &str) -> io::Result<()> {
        debug_assert!(!line.contains('\n'), "{line:?} is more than a line");
        let encoder = match &mut self.0 {
            Some(encoder) => encoder,
            none => none.insert(Compression::Zstd(1).encoder(Vec::new())?),
        };
        encoder.write_all(line.as_bytes())?;
        encoder.write_all(b"\n")
    }

    /// There will be no more.
    pub(crate) fn close(self) -> io::Result<Lines> {
        let mut lines = self.0.map_or(Ok(Vec::new()), Encoder::finish)?;
        lines.shrink_to_fit();
        Ok(Lines(lines))
    }
}

impl Lines {
    /// Those of [`Lines::into_bytes`].
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Self {
        Lines(bytes)
    }

    /// Compressed.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Go through them in their first order.
    pub(crate) fn each(&self, mut take: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut source = BufReader::new(Format::Zstd.decoder(self.0.as_slice())?);
        let mut line = String::new();
        while source.read_line(&mut line)? > 0 {
            take(line.trim_end_matches('\n'))?;
            line.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_are_small_meanwhile() {
        let lines: Vec<String> = (0..100_000).map(|number| format!("line {number}\té\\n")).collect();
        let mut spool = Spool::default();
        for line in &lines {
            spool.push(line).expect("compressed");
        }
        let closed = spool.close().expect("closed");
        assert!(closed.0.len() < 400_000, "{}", closed.0.len());
        for _ in 0..2 {
            let mut found = Vec::new();
            closed
                .each(|line| {
                    found.push(line.to_owned());
                    Ok(())
                })
                .expect("read");
            assert!(found == lines);
        }
        let none = Spool::default().close().expect("closed");
        none.each(|line| panic!("{line}")).expect("read");
    }
}

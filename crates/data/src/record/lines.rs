//! A file read line by line, with a limit on how long a line may be.

use std::io::{self, BufRead};

/// Lines of a reader as bytes, numbered from 1, one at a time in one buffer.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    limit: usize,
}

/// One line, or how it failed.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// The bytes of a line without its end.
    Bytes(&'a [u8]),
    /// The line is longer than the limit; it was not read.
    TooLong,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub(crate) fn new(reader: R, limit: usize) -> Self {
        Self { reader, line: Vec::new(), number: 0, limit }
    }

    /// The number of the line read last, from 1; 0 before the first.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank; nothing at the end of the file.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            let limit = self.limit as u64 + 1;
            let read = io::Read::take(&mut self.reader, limit).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            }
            if self.line.len() > self.limit {
                return Ok(Some(Line::TooLong));
            }
            // Editors on some systems begin a file with a byte order mark.
            let mark = self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf");
            let start = if mark { 3 } else { 0 };
            if !self.line[start..].trim_ascii().is_empty() {
                return Ok(Some(Line::Bytes(&self.line[start..])));
            }
        }
    }
}

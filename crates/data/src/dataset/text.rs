//! Plain text in pieces of bounded size, cut where a tokenizer would cut anyway.
//!
//! Pieces, because a tokenizer needs a hundred times the memory of the text it is given at once. A
//! piece ends between a letter and a line break, or else a letter and a space: no pattern that
//! splits text for byte pairs joins the two, so the pieces tokenize as the whole does. A tokenizer
//! that puts a space in front of every text gets its pieces cut before spaces only, and without
//! those. Only text without such a place in four times the usual size is cut between any two
//! characters.

use std::io::{self, BufRead, Read};

use crate::error::RecordError;

/// The usual size of a piece, in bytes.
const PIECE: usize = 32 << 10;

/// Pieces of a text.
pub(super) struct Chunks<R> {
    reader: R,
    /// Read and not handed out; before it, `done` bytes that were.
    buffer: Vec<u8>,
    done: usize,
    line: u64,
    piece: usize,
    /// The tokenizer puts a space in front of what it is given.
    space_first: bool,
    at_end: bool,
}

/// A piece, nothing at the end, or what is wrong at which line.
type Piece<'a> = Result<Option<&'a str>, (u64, RecordError)>;

impl<R: BufRead> Chunks<R> {
    /// Pieces for a tokenizer, which perhaps puts a space in front of each.
    pub(super) fn new(reader: R, space_first: bool) -> Self {
        Self::of_size(reader, space_first, PIECE)
    }

    fn of_size(reader: R, space_first: bool, piece: usize) -> Self {
        Self { reader, buffer: Vec::new(), done: 0, line: 1, piece, space_first, at_end: false }
    }

    /// The line the next piece begins in, counted from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn next_chunk(&mut self) -> io::Result<Piece<'_>> {
        let first = self.done == 0;
        self.buffer.drain(..self.done);
        self.done = 0;
        let mut size = self.piece;
        let cut = loop {
            self.fill(size)?;
            let place = seam(&self.buffer, self.space_first);
            match place {
                _ if self.at_end => break self.buffer.len(),
                Some(place) => break place,
                None if size >= 4 * self.piece => break character_end(&self.buffer),
                None => size *= 2,
            }
        };
        if cut == 0 {
            return Ok(Ok(None));
        }
        self.done = cut;
        let (line, bytes) = (self.line, &self.buffer[..cut]);
        self.line += breaks(bytes);
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) if first => Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text))),
            Ok(text) if self.space_first => Ok(Some(text.strip_prefix(' ').unwrap_or(text))),
            Ok(text) => Ok(Some(text)),
            Err(error) => {
                let good = &bytes[..error.valid_up_to()];
                let at = good.iter().rev().take_while(|&&byte| byte != b'\n').count();
                Err((line + breaks(good), RecordError::Utf8 { at }))
            }
        })
    }

    fn fill(&mut self, size: usize) -> io::Result<()> {
        let missing = size.saturating_sub(self.buffer.len());
        let read = self.reader.by_ref().take(missing as u64).read_to_end(&mut self.buffer)?;
        self.at_end |= read < missing;
        Ok(())
    }
}

fn breaks(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The last place between an ASCII letter and a line break, or else a space; or only a space.
fn seam(bytes: &[u8], only_spaces: bool) -> Option<usize> {
    let last = |gap: u8| {
        let pairs = bytes.array_windows().rposition(|&[a, b]| a.is_ascii_alphabetic() && b == gap);
        pairs.map(|before| before + 1)
    };
    let break_first = if only_spaces { None } else { last(b'\n') };
    break_first.or_else(|| last(b' '))
}

/// The end of the last whole character; bytes that are none count as characters.
fn character_end(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(3).position(|&byte| byte >= 0xc0);
    let begun = tail.map(|back| bytes.len() - 1 - back);
    match begun {
        Some(at) if std::str::from_utf8(&bytes[at..]).is_err() && at > 0 => at,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(bytes: &[u8], piece: usize) -> Result<Vec<String>, (u64, RecordError)> {
        pieces_of(Chunks::of_size(bytes, false, piece))
    }

    fn pieces_of(mut chunks: Chunks<&[u8]>) -> Result<Vec<String>, (u64, RecordError)> {
        let mut pieces = Vec::new();
        while let Some(piece) = chunks.next_chunk().unwrap()? {
            pieces.push(piece.to_owned());
        }
        Ok(pieces)
    }

    #[test]
    fn cuts_between_a_letter_and_a_line_break() {
        let text = "one two.\n\nthree\nfour five six";
        assert_eq!(pieces(text.as_bytes(), 20).unwrap(), ["one two.\n\nthree", "\nfour five six"]);
        assert_eq!(pieces(b"one two three", 10).unwrap(), ["one two", " three"]);
        assert_eq!(pieces(b"", 20).unwrap(), [""; 0]);
        assert_eq!(pieces("\u{feff}x".as_bytes(), 20).unwrap(), ["x"]);
    }

    #[test]
    fn a_tokenizer_that_puts_a_space_first_gets_pieces_without_it() {
        let spaced = |text: &str| pieces_of(Chunks::of_size(text.as_bytes(), true, 10)).unwrap();
        assert_eq!(spaced("one\ntwo three  four"), ["one\ntwo", "three", " four"]);
        assert_eq!(spaced(" one two three"), [" one two", "three"]);
    }

    #[test]
    fn names_line_and_byte_of_what_is_not_utf8() {
        let error = pieces(b"good\nline two\nab\xffcd\n", 1 << 20).unwrap_err();
        assert_eq!(error, (3, RecordError::Utf8 { at: 2 }));
        let error = pieces(b"good\nline two\nab\xffcd\n", 6).unwrap_err();
        assert_eq!(error, (3, RecordError::Utf8 { at: 2 }));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_whole(text in "[a-c\n é🙂.]{0,200}", piece in 4_usize..40) {
            let whole = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let pieces = pieces(text.as_bytes(), piece).unwrap();
            prop_assert_eq!(pieces.concat(), whole);
            prop_assert!(pieces.iter().all(|p| !p.is_empty() && p.len() <= 4 * piece * 2));
        }

        #[test]
        fn any_bytes_give_text_or_a_place(bytes: Vec<u8>, piece in 4_usize..40) {
            prop_assert_eq!(pieces(&bytes, piece).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}

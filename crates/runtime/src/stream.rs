//! Text that grows token by token: pieces that are certain, and nothing of a stop string.

use lowtide_data::{Tokenizer, TokenizerError};

/// Tokens that are held back at most. A character has four bytes at most, so that more of them are
/// no beginning of one.
const HELD_MAX: usize = 32;

/// Turns ids into pieces of text as soon as what follows cannot change them.
///
/// A character may take several tokens, and a token may mean another text behind its neighbours, so
/// the last few tokens are decoded together and what is new is cut off the end. A piece that ends
/// inside a character, or in what may become a stop string, is held back.
pub(crate) struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    stops: &'t [String],
    /// Tokens whose text may still change, and before them those it is decoded with.
    ids: Vec<u32>,
    /// How many of `ids` have given their text.
    done: usize,
    /// Text that may begin a stop string.
    held: String,
    stopped: bool,
}

impl<'t> TextStream<'t> {
    /// A stream without text. Empty stop strings stop nothing.
    pub(crate) fn new(tokenizer: &'t Tokenizer, stops: &'t [String]) -> Self {
        Self { tokenizer, stops, ids: Vec::new(), done: 0, held: String::new(), stopped: false }
    }

    /// Whether a stop string was found; nothing comes after it.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// What became certain with a further token, perhaps nothing.
    pub(crate) fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let piece = self.piece(false)?;
        Ok(self.release(&piece, false))
    }

    /// What is left when no token follows.
    pub(crate) fn finish(&mut self) -> Result<String, TokenizerError> {
        let piece = self.piece(true)?;
        Ok(self.release(&piece, true))
    }

    fn piece(&mut self, last: bool) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode_plain(&self.ids[..self.done])?;
        let whole = self.tokenizer.decode_plain(&self.ids)?;
        let broken = whole.ends_with(char::REPLACEMENT_CHARACTER);
        let full = self.ids.len() - self.done >= HELD_MAX;
        if broken && !full && !last {
            return Ok(String::new());
        }
        let piece = whole.get(before.len()..).unwrap_or_default().to_owned();
        if broken || piece.is_empty() {
            // What is no text is no neighbour of what follows.
            if full {
                self.ids.truncate(self.done);
            }
            return Ok(piece);
        }
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(piece)
    }

    fn release(&mut self, piece: &str, last: bool) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let begun = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).rev();
            ends.into_iter().find(|&at| self.held.ends_with(&stop[..at])).unwrap_or(0)
        };
        let kept = if last { 0 } else { stops().map(begun).max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests;

//! An example as text with its loss mask visible, to be looked at before a run.

use std::ops::Range;

use crate::sample::{NO_LOSS, Sample};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// How labelled text is told from the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleStyle {
    /// `⟦labelled⟧`, for files, logs and tests.
    #[default]
    Brackets,
    /// Labelled text green, the rest dim, for a terminal.
    Ansi,
}

impl SampleStyle {
    /// What goes around labelled text, and around other text.
    fn ends(self) -> ([&'static str; 2], [&'static str; 2]) {
        match self {
            Self::Brackets => (["⟦", "⟧"], ["", ""]),
            Self::Ansi => (["\x1b[32m", "\x1b[0m"], ["\x1b[2m", "\x1b[0m"]),
        }
    }
}

/// An example as text, special tokens included, its labelled parts marked. Without a tokenizer it
/// is shown as ids.
///
/// # Errors
/// When the tokenizer cannot decode the ids.
pub fn render_sample(
    tokenizer: Option<&Tokenizer>,
    sample: Sample<'_>,
    style: SampleStyle,
) -> Result<String, TokenizerError> {
    let (labelled_ends, other_ends) = style.ends();
    let mut text = String::new();
    let (ids, labels) = (sample.ids, sample.labels);
    let mut start = 0;
    while let Some(first) = labels.get(start) {
        let labelled = *first != NO_LOSS;
        let same = |label: &&i32| (**label != NO_LOSS) == labelled;
        let end = start + labels[start..].iter().take_while(same).count();
        let [open, close] = if labelled { labelled_ends } else { other_ends };
        let words = match tokenizer {
            Some(tokenizer) => words_of(tokenizer, ids, start..end)?,
            None => ids[start..end].iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        };
        let gap = if tokenizer.is_none() && !text.is_empty() { " " } else { "" };
        text.extend([gap, open, &words, close]);
        start = end;
    }
    Ok(text)
}

/// The text of some tokens in their place: decoded by themselves, they would lose the space before
/// them where a tokenizer takes the one off that it put in front of the whole.
fn words_of(
    tokenizer: &Tokenizer,
    ids: &[u32],
    place: Range<usize>,
) -> Result<String, TokenizerError> {
    let before = tokenizer.decode(&ids[..place.start])?;
    let through = tokenizer.decode(&ids[..place.end])?;
    match through.strip_prefix(&before) {
        Some(words) => Ok(words.to_owned()),
        // A character is cut in two there.
        None => tokenizer.decode(&ids[place]),
    }
}

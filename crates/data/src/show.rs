//! An example as text with its loss mask visible, to be looked at before a run.

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
    let (mut ids, mut labels) = (sample.ids, sample.labels);
    while let Some(first) = labels.first() {
        let labelled = *first != NO_LOSS;
        let same = |&label: &i32| (label != NO_LOSS) == labelled;
        let run = labels.iter().copied().take_while(same).count();
        let [open, close] = if labelled { labelled_ends } else { other_ends };
        let words = match tokenizer {
            Some(tokenizer) => tokenizer.decode(&ids[..run])?,
            None => ids[..run].iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        };
        let gap = if tokenizer.is_none() && !text.is_empty() { " " } else { "" };
        text.extend([gap, open, &words, close]);
        (ids, labels) = (&ids[run..], &labels[run..]);
    }
    Ok(text)
}

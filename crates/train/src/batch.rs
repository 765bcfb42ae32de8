//! Micro-batches: examples laid one after another into one list of rows.

use lowtide_backend::Span;
use lowtide_data::{DataError, Dataset, NO_LOSS, SampleBuf};
use lowtide_tape::{Batch, Limits};

/// Room for the largest micro-batch, reused for every one.
#[derive(Debug)]
pub struct BatchBuffers {
    ids: Vec<u32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
    labelled: Vec<u32>,
    targets: Vec<u32>,
    sample: SampleBuf,
}

impl BatchBuffers {
    /// Room for batches within `limits`, of examples of up to `longest` tokens.
    #[must_use]
    pub fn new(limits: Limits, longest: usize) -> Self {
        Self {
            ids: Vec::with_capacity(limits.tokens),
            positions: Vec::with_capacity(limits.tokens),
            spans: Vec::with_capacity(limits.sequences),
            labelled: Vec::with_capacity(limits.labelled),
            targets: Vec::with_capacity(limits.labelled),
            sample: SampleBuf::with_capacity(longest),
        }
    }

    /// Bytes that [`BatchBuffers::new`] will hold.
    #[must_use]
    pub fn bytes(limits: Limits, longest: usize) -> u64 {
        let words = 2 * limits.tokens + 2 * limits.labelled + 2 * longest;
        (words * size_of::<u32>() + limits.sequences * size_of::<Span>()) as u64
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> u64 {
        let lists = [&self.ids, &self.positions, &self.labelled, &self.targets];
        let words: usize = lists.iter().map(|list| list.capacity()).sum();
        let spans = self.spans.capacity() * size_of::<Span>();
        (words * size_of::<u32>() + spans + self.sample.heap_bytes()) as u64
    }

    /// Lays the sequences of `indices` into a batch, each example a span of its own; `counter` is
    /// the batch's number in the run.
    ///
    /// # Errors
    /// When the data's temporary file cannot be read.
    pub fn fill(
        &mut self,
        data: &Dataset,
        indices: impl Iterator<Item = usize>,
        counter: u64,
    ) -> Result<Batch<'_>, DataError> {
        self.ids.clear();
        self.positions.clear();
        self.spans.clear();
        self.labelled.clear();
        self.targets.clear();
        for index in indices {
            let sequence = data.sequence(index)?;
            for example in sequence.first..sequence.first + sequence.examples {
                self.push(data, example)?;
            }
        }
        Ok(Batch {
            ids: &self.ids,
            positions: &self.positions,
            spans: &self.spans,
            labelled: &self.labelled,
            targets: &self.targets,
            words: None,
            counter,
        })
    }
    /// Lays one example behind the others.
    fn push(&mut self, data: &Dataset, example: usize) -> Result<(), DataError> {
        let sample = data.read(example, &mut self.sample)?;
        let start = self.ids.len();
        self.ids.extend(sample.ids);
        self.positions.extend((0..sample.ids.len()).map(|position| position as u32));
        let end = self.ids.len();
        let first = self.labelled.len();
        // Row t predicts token t + 1, so a label belongs to the row before its token.
        for (t, label) in sample.labels.iter().enumerate().skip(1) {
            if *label != NO_LOSS {
                self.labelled.push((start + t - 1) as u32);
                self.targets.push(*label as u32);
            }
        }
        let prompt_end = self.labelled.get(first).map_or(end, |row| *row as usize + 1);
        self.spans.push(Span { start, prompt_end, end });
        Ok(())
    }
}

//! Which bytes of a base are read together.

use lowtide_formats::Stretch;
use lowtide_tape::Part;

use crate::OpenBase;

/// The embedding, which is the head as well where it is tied.
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Where the weights of each block and of the head lie in the files of a base.
///
/// The rows of the embedding are read one by one where tokens need them: it is no part that is read
/// as a whole. But systems read more than is asked for, so it is let go like one.
#[derive(Clone, Debug)]
pub struct WeightParts {
    /// Of each block, of the head, and last of the embedding.
    stretches: Vec<Vec<Stretch>>,
    /// The embedding is the head.
    tied: bool,
}

impl WeightParts {
    /// Looks them up.
    #[must_use]
    pub fn of(base: &OpenBase) -> Self {
        let (file, config) = (base.file(), base.config());
        let block = |layer: usize| {
            let prefix = format!("model.layers.{layer}.");
            file.stretches(|name| name.starts_with(&prefix))
        };
        let tied = config.tie_word_embeddings;
        let mut stretches: Vec<_> = (0..config.num_hidden_layers).map(block).collect();
        for table in [if tied { EMBEDDING } else { HEAD }, EMBEDDING] {
            stretches.push(file.stretches(|name| name == table));
        }
        Self { stretches, tied }
    }

    /// Bytes of all parts, an embedding of its own not among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (0..self.len()).map(|part| self.bytes_of(part)).sum()
    }

    /// Bytes of the largest block.
    #[must_use]
    pub fn largest_block(&self) -> u64 {
        (0..self.head()).map(|part| self.bytes_of(part)).max().unwrap_or(0)
    }

    /// Where a part lies, in the order of files and bytes.
    #[must_use]
    pub fn stretches(&self, part: Part) -> &[Stretch] {
        &self.stretches[self.index(part)]
    }

    /// The number of a part, blocks first and from the bottom up.
    pub(crate) fn index(&self, part: Part) -> usize {
        match part {
            Part::Segment(segment) => segment,
            Part::Head => self.head(),
        }
    }

    /// Blocks and head.
    pub(crate) fn len(&self) -> usize {
        self.embedding()
    }

    /// The number under which the embedding is let go.
    pub(crate) fn embedding(&self) -> usize {
        self.stretches.len() - 1
    }

    /// Whether the embedding is the head.
    pub(crate) fn tied(&self) -> bool {
        self.tied
    }

    pub(crate) fn bytes_of(&self, index: usize) -> u64 {
        self.stretches[index].iter().map(|stretch| stretch.len() as u64).sum()
    }

    /// Asks the system for some bytes of a part, counted from its beginning.
    pub(crate) fn will_need(&self, index: usize, from: u64, to: u64) {
        let mut start = 0;
        for stretch in &self.stretches[index] {
            let len = stretch.len() as u64;
            let within = |at: u64| at.clamp(start, start + len) - start;
            let (from, to) = (within(from), within(to));
            if from < to {
                // Both are within a slice of memory.
                stretch.will_need(from as usize..to as usize);
            }
            start += len;
        }
    }

    /// Lets go of a part.
    pub(crate) fn let_go(&self, index: usize) {
        self.stretches[index].iter().for_each(Stretch::let_go);
    }

    fn head(&self) -> usize {
        self.embedding() - 1
    }
}

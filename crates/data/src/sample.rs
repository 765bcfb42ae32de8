//! One tokenized example and the reusable buffer it is read into.

/// The label of a token that carries no loss; the value PyTorch's cross entropy ignores.
pub const NO_LOSS: i32 = -100;

/// A tokenized example, borrowed from a [`SampleBuf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// Token ids, `[tokens]`.
    pub ids: &'a [u32],
    /// Labels, `[tokens]`: the id itself, or [`NO_LOSS`]. Not shifted; the first is [`NO_LOSS`].
    pub labels: &'a [i32],
    /// Number of tokens before the first response; 0 where there is no prompt.
    pub prompt_len: usize,
}

impl Sample<'_> {
    /// Number of tokens that carry loss.
    #[must_use]
    pub fn labelled(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LOSS).count()
    }
}

/// Room for one [`Sample`], reused from read to read so that a warm loop allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct SampleBuf {
    /// Ids, then labels in the same bits.
    words: Vec<u32>,
    prompt_len: usize,
}

impl SampleBuf {
    /// An empty buffer; it grows to the longest example read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A buffer that takes examples of up to `tokens` tokens without growing.
    #[must_use]
    pub fn with_capacity(tokens: usize) -> Self {
        Self { words: Vec::with_capacity(2 * tokens), prompt_len: 0 }
    }

    /// Bytes held on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u32>()
    }

    /// What was read last.
    #[must_use]
    pub fn sample(&self) -> Sample<'_> {
        let (ids, labels) = self.words.split_at(self.words.len() / 2);
        Sample { ids, labels: bytemuck::cast_slice(labels), prompt_len: self.prompt_len }
    }

    /// The bytes to fill for an example of `tokens` tokens: its ids, then its labels.
    pub(crate) fn bytes_mut(&mut self, tokens: usize, prompt_len: usize) -> &mut [u8] {
        self.words.resize(2 * tokens, 0);
        self.prompt_len = prompt_len;
        bytemuck::cast_slice_mut(&mut self.words)
    }
}

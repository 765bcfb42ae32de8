//! How much work an operation is: roughly, to compare plans before any of them runs.

/// Work in multiply-adds, or in those that take as long as what else is done: both directions of
/// one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of forward.
    pub forward: u64,
    /// Of backward, without what it computes again.
    pub backward: u64,
}

/// Multiply-adds that take as long as reading and writing an element and little else.
const ELEMENT: u64 = 12;

/// Rows over which a product with a packed matrix takes as long as decoding that matrix.
const DECODING: u64 = 16;

impl Work {
    /// Reading or writing so many elements in each direction.
    #[must_use]
    pub fn elementwise(elements: usize) -> Self {
        let forward = ELEMENT * elements as u64;
        Self { forward, backward: 2 * forward }
    }

    /// A product of `rows` rows with a packed matrix, and with its transpose. The matrix is decoded
    /// once a call.
    #[must_use]
    pub fn packed(rows: usize, in_features: usize, out_features: usize) -> Self {
        let forward = (rows as u64 + DECODING) * in_features as u64 * out_features as u64;
        Self { forward, backward: forward }
    }

    /// Attention of `rows` rows, the last of `keys`, in heads of so many columns in all. Causal:
    /// half of the scores of those rows with each other do not exist.
    #[must_use]
    pub fn attention(rows: usize, keys: usize, window: Option<usize>, cols: usize) -> Self {
        let reach = (keys - rows / 2).min(window.unwrap_or(usize::MAX));
        let scores = rows as u64 * reach as u64 * cols as u64;
        Self { forward: 2 * scores, backward: 5 * scores }
    }
}

impl core::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let forward = self.forward + other.forward;
        Self { forward, backward: self.backward + other.backward }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tiles_decode_more_often() {
        let whole = Work::packed(512, 64, 32).forward;
        let tiled = 8 * Work::packed(64, 64, 32).forward;
        assert_eq!(whole, (512 + DECODING) * 64 * 32);
        assert_eq!(tiled - whole, 7 * DECODING * 64 * 32);
    }

    #[test]
    fn attention_of_tiles_adds_up_to_that_of_all() {
        let all = Work::attention(512, 512, None, 8);
        let tiles = (1..=8).map(|n| Work::attention(64, 64 * n, None, 8));
        assert_eq!(tiles.fold(Work::default(), |a, b| a + b), all);
        assert_eq!(Work::attention(64, 512, Some(16), 8).forward, 2 * 64 * 16 * 8);
    }
}

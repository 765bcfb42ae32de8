//! The row order in which GGUF files of the Llama family keep q and k.
//!
//! HF rotates value `i` of a head with value `i + head_dim / 2`. Llama files in GGUF rotate
//! neighbours, `2i` with `2i + 1`; so that the result is the same, their converter interleaves the
//! two halves of every head of `q_proj` and `k_proj` (weights and biases). An adapter trained on
//! such a base has its output rows in the file's order, and is brought to HF order on save.

/// Where HF row `row` lies in the GGUF file: row `(head, half, i)` goes to `(head, i, half)`.
///
/// # Panics
/// If `row` is not one of `heads * head_dim`, or `head_dim` is odd.
pub fn hf_row_to_gguf_row(row: usize, heads: usize, head_dim: usize) -> usize {
    let (head, within) = split(row, heads, head_dim);
    let half_dim = head_dim / 2;
    head * head_dim + within % half_dim * 2 + within / half_dim
}

/// Where row `row` of the GGUF file lies in the HF folder; the inverse of [`hf_row_to_gguf_row`].
///
/// # Panics
/// If `row` is not one of `heads * head_dim`, or `head_dim` is odd.
pub fn gguf_row_to_hf_row(row: usize, heads: usize, head_dim: usize) -> usize {
    let (head, within) = split(row, heads, head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// Brings rows from HF order to the file's: what loading an adapter onto a permuted base takes.
///
/// `source` and `target` are `[heads * head_dim, row_len]`.
///
/// # Panics
/// If the lengths do not match the shape.
pub fn permute<T: Copy>(source: &[T], target: &mut [T], heads: usize, head_dim: usize) {
    move_rows(source, target, heads, head_dim, |row| gguf_row_to_hf_row(row, heads, head_dim));
}

/// Brings rows from the file's order to HF order: what saving an adapter of a permuted base takes.
///
/// `source` and `target` are `[heads * head_dim, row_len]`.
///
/// # Panics
/// If the lengths do not match the shape.
pub fn unpermute<T: Copy>(source: &[T], target: &mut [T], heads: usize, head_dim: usize) {
    move_rows(source, target, heads, head_dim, |row| hf_row_to_gguf_row(row, heads, head_dim));
}

/// Fills every row of `target` with the row of `source` that `from` names.
fn move_rows<T: Copy>(
    source: &[T],
    target: &mut [T],
    heads: usize,
    head_dim: usize,
    from: impl Fn(usize) -> usize,
) {
    assert!(source.len() == target.len(), "{} values into {}", source.len(), target.len());
    let rows = heads * head_dim;
    assert!(
        rows != 0 && source.len().is_multiple_of(rows),
        "{} values are not {rows} rows of one length",
        source.len()
    );
    let row_len = source.len() / rows;
    if row_len == 0 {
        return;
    }
    for (row, target) in target.chunks_exact_mut(row_len).enumerate() {
        target.copy_from_slice(&source[from(row) * row_len..][..row_len]);
    }
}

fn split(row: usize, heads: usize, head_dim: usize) -> (usize, usize) {
    assert!(head_dim.is_multiple_of(2), "a head of {head_dim} values has no halves");
    assert!(row < heads * head_dim, "row {row} of {heads} heads of {head_dim}");
    (row / head_dim, row % head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_interleaved_within_each_head() {
        let order: Vec<_> = (0..12).map(|row| hf_row_to_gguf_row(row, 2, 6)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn unpermute_undoes_permute() {
        let hf: Vec<u32> = (0..3 * 8 * 5).collect();
        let (mut gguf, mut back) = (vec![0; hf.len()], vec![0; hf.len()]);
        permute(&hf, &mut gguf, 3, 8);
        // Head 0 of the file: rows 0, 4, 1, 5, ... of HF.
        assert_eq!(gguf[..15], [0, 1, 2, 3, 4, 20, 21, 22, 23, 24, 5, 6, 7, 8, 9]);
        unpermute(&gguf, &mut back, 3, 8);
        assert_eq!(back, hf);
    }

    #[test]
    fn the_two_maps_are_inverse() {
        for (heads, head_dim) in [(1, 2), (3, 64), (5, 6)] {
            for row in 0..heads * head_dim {
                let there = hf_row_to_gguf_row(row, heads, head_dim);
                assert_eq!(gguf_row_to_hf_row(there, heads, head_dim), row);
            }
        }
    }
}

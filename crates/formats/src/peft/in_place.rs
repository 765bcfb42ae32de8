//! Numbers made what their codes stand for, where they are.

use lowtide_quant::LineCodes;

use crate::rows;
use crate::safe::PermutedRows;

/// Makes `values` `[rows, columns]` what they are after coding, as
/// [`Coded::rounded`](super::Coded::rounded) gives them, one group of a line after another; nothing
/// is allocated. `permuted` is set where the rows are in the order of [`rows`].
///
/// # Panics
/// If the shape does not match the values.
pub fn round_to_codes(
    codes: LineCodes,
    values: &mut [f32],
    shape: [usize; 2],
    permuted: Option<PermutedRows>,
) {
    let [rows, columns] = shape;
    assert!(rows * columns == values.len(), "{} values for {shape:?}", values.len());
    let (lines, line) = (rows.min(columns), rows.max(columns));
    let along_rows = LineCodes::along_rows(shape);
    // Lines are cut into groups in Hugging Face's order.
    let place = |index: usize, at: usize| {
        let (row, column) = if along_rows { (index, at) } else { (at, index) };
        let row = permuted.map_or(row, |PermutedRows { heads, head_dim }| {
            rows::hf_row_to_gguf_row(row, heads, head_dim)
        });
        row * columns + column
    };
    let group = codes.group().min(line).max(1);
    for index in 0..lines {
        for start in (0..line).step_by(group) {
            let group = start..line.min(start + group);
            let scale = codes.scale(group.clone().map(|at| values[place(index, at)]));
            for at in group {
                let value = &mut values[place(index, at)];
                *value = codes.round(*value, scale);
            }
        }
    }
}

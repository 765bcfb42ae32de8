//! Cutting rows where the quanta of all rows meet.

use core::ops::Range;

use crate::QUANTUM;

/// Cuts some rows at the multiples of [`QUANTUM`]. The first and the last piece may be shorter;
/// which rows share a piece does not depend on where the range begins.
///
/// ```
/// use lowtide_tensor::quanta;
/// let pieces: Vec<_> = quanta(60..200).collect();
/// assert_eq!(pieces, [60..64, 64..128, 128..192, 192..200]);
/// ```
pub fn quanta(rows: Range<usize>) -> impl DoubleEndedIterator<Item = Range<usize>> + Send {
    let first = if rows.is_empty() { rows.end } else { rows.start / QUANTUM * QUANTUM };
    let starts = (first..rows.end).step_by(QUANTUM);
    starts.map(move |at| at.max(rows.start)..rows.end.min(at + QUANTUM))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::quanta;

    #[test]
    fn pieces_cover_the_rows_and_end_at_multiples() {
        let pieces = |rows| quanta(rows).collect::<Vec<_>>();
        assert_eq!(pieces(0..0), []);
        assert_eq!(pieces(70..70), []);
        assert_eq!(pieces(63..65), [63..64, 64..65]);
        assert_eq!(pieces(64..191), [64..128, 128..191]);
        assert_eq!(quanta(5..70).rev().collect::<Vec<_>>(), [64..70, 5..64]);
    }
}

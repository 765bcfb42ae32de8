//! Who sees whom in a tile of scores.

use core::ops::Range;

/// The columns that each row of a tile sees: row `i` those from `start + i * step` up to, not
/// including, `end + i * step`, as far as the tile has them.
///
/// Causal attention has a step of one: each query sees one key more. Heads that are stacked over
/// one query see the same keys: a step of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first column that row 0 sees; it may lie before the tile.
    pub start: isize,
    /// The column after the last that row 0 sees; it may lie outside the tile.
    pub end: isize,
    /// What each further row adds to both.
    pub step: isize,
}

impl Seen {
    /// What row `row` sees of a tile of `columns` columns.
    #[inline(always)]
    #[must_use]
    pub fn of(self, row: usize, columns: usize) -> Range<usize> {
        let cut = |at: isize| (at + row as isize * self.step).clamp(0, columns as isize) as usize;
        let (start, end) = (cut(self.start), cut(self.end));
        start..end.max(start)
    }

    /// Whether all of `rows` rows see all of `columns` columns.
    #[must_use]
    pub fn is_whole(self, rows: usize, columns: usize) -> bool {
        let whole = |row: usize| self.of(row, columns) == (0..columns);
        rows == 0 || (whole(0) && whole(rows - 1))
    }
}

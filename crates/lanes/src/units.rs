//! Units of work that own a part of an output: blocks of rows or columns, split off one by one.

use lowtide_tensor::MatMut;

/// Elements below which an operation stays on the calling thread: waking another costs more.
const ELEMENTS_WORTH_SHARING: usize = 16 * 1024;

/// Rows `start..start + rows.rows()` of an output.
#[derive(Debug)]
pub struct RowBlock<'a, T = f32> {
    /// The first row's number in the output.
    pub start: usize,
    /// The rows.
    pub rows: MatMut<'a, T>,
}

/// Splits an output into blocks of `step` rows; the last may be shorter.
#[derive(Debug)]
pub struct RowBlocks<'a, T = f32> {
    rest: Option<MatMut<'a, T>>,
    start: usize,
    step: usize,
}

impl<'a, T: Copy> RowBlocks<'a, T> {
    /// Cuts `out`.
    ///
    /// # Panics
    /// When `step` is zero.
    #[must_use]
    pub fn new(out: MatMut<'a, T>, step: usize) -> Self {
        assert!(step > 0, "blocks of no rows");
        Self { rest: Some(out), start: 0, step }
    }
}

impl<'a, T: Copy> Iterator for RowBlocks<'a, T> {
    type Item = RowBlock<'a, T>;

    fn next(&mut self) -> Option<RowBlock<'a, T>> {
        let rest = self.rest.take().filter(|rest| rest.rows() > 0)?;
        let at = self.step.min(rest.rows());
        let (rows, rest) = rest.split_rows(at);
        self.rest = Some(rest);
        let start = self.start;
        self.start += at;
        Some(RowBlock { start, rows })
    }
}

/// Columns `start..start + cols.cols()` of an output.
#[derive(Debug)]
pub struct ColBlock<'a> {
    /// The first column's number in the output.
    pub start: usize,
    /// The columns.
    pub cols: MatMut<'a, f32>,
}

/// Splits an output into blocks of `step` columns; the last may be narrower.
#[derive(Debug)]
pub struct ColBlocks<'a>(RowBlocks<'a>);

impl<'a> ColBlocks<'a> {
    /// Cuts `out` into blocks of `step` columns; the last may be narrower.
    ///
    /// # Panics
    /// When `step` is zero.
    #[must_use]
    pub fn new(out: MatMut<'a, f32>, step: usize) -> Self {
        Self(RowBlocks::new(out.t(), step))
    }
}

impl<'a> Iterator for ColBlocks<'a> {
    type Item = ColBlock<'a>;

    fn next(&mut self) -> Option<ColBlock<'a>> {
        let RowBlock { start, rows } = self.0.next()?;
        Some(ColBlock { start, cols: rows.t() })
    }
}

/// The part of an output at row `row` and column `col`.
#[derive(Debug)]
pub struct Tile<'a> {
    /// The first row's number in the output.
    pub row: usize,
    /// The first column's number in the output.
    pub col: usize,
    /// The part itself.
    pub out: MatMut<'a, f32>,
}

/// Splits an output into tiles of at most `rows` by `cols`, row band after row band.
#[derive(Debug)]
pub struct Tiles<'a> {
    bands: RowBlocks<'a>,
    band: Option<(usize, ColBlocks<'a>)>,
    cols: usize,
}

impl<'a> Tiles<'a> {
    /// Cuts `out`.
    ///
    /// # Panics
    /// When `rows` or `cols` is zero.
    #[must_use]
    pub fn new(out: MatMut<'a, f32>, rows: usize, cols: usize) -> Self {
        Self { bands: RowBlocks::new(out, rows), band: None, cols }
    }
}

impl<'a> Iterator for Tiles<'a> {
    type Item = Tile<'a>;

    fn next(&mut self) -> Option<Tile<'a>> {
        loop {
            if let Some((row, band)) = &mut self.band
                && let Some(ColBlock { start, cols }) = band.next()
            {
                return Some(Tile { row: *row, col: start, out: cols });
            }
            let RowBlock { start, rows } = self.bands.next()?;
            self.band = Some((start, ColBlocks::new(rows, self.cols)));
        }
    }
}

/// Lanes and rows of a block for an element-wise operation on `[rows, cols]`: a few blocks a lane,
/// or one block for all when the whole is small.
#[must_use]
pub fn row_split(lanes: usize, rows: usize, cols: usize) -> (usize, usize) {
    if rows * cols < ELEMENTS_WORTH_SHARING || lanes <= 1 {
        return (1, rows.max(1));
    }
    (lanes, rows.div_ceil(lanes * 4).max(1))
}

/// Lanes and elements of a chunk for an element-wise operation on a slice; chunks are multiples of
/// `multiple`.
#[must_use]
pub fn slice_split(lanes: usize, len: usize, multiple: usize) -> (usize, usize) {
    if len < ELEMENTS_WORTH_SHARING || lanes <= 1 {
        return (1, len.max(1).next_multiple_of(multiple));
    }
    (lanes, len.div_ceil(lanes * 4).next_multiple_of(multiple))
}

/// Width of the blocks that `total` columns are cut into: at most `widest`, multiples of
/// `multiple`, and as many blocks as keeps all lanes busy to the end.
#[must_use]
pub fn even_width(total: usize, widest: usize, multiple: usize, lanes: usize) -> usize {
    let blocks = total.div_ceil(widest).next_multiple_of(lanes).max(1);
    total.div_ceil(blocks).next_multiple_of(multiple).max(multiple)
}

/// Width of the blocks that `total` columns are cut into: a multiple of `multiple`, at most
/// `widest` or else `multiple` itself, and the one that lets `lanes` lanes finish first; the widest
/// of those that do equally well.
#[must_use]
pub fn level_width(total: usize, widest: usize, multiple: usize, lanes: usize) -> usize {
    let finish = |width: usize| total.div_ceil(width).div_ceil(lanes.max(1)) * width;
    let most = (widest / multiple).clamp(1, total.div_ceil(multiple).max(1));
    let widths = (1..=most).rev().map(|count| count * multiple);
    widths.min_by_key(|&width| finish(width)).unwrap_or(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_an_output_once() {
        let mut data = [0.0; 7 * 5];
        for block in RowBlocks::new(MatMut::new(&mut data, 7, 5), 3) {
            let mut rows = block.rows;
            rows.fill(block.start as f32);
        }
        let firsts: Vec<f32> = data.iter().step_by(5).copied().collect();
        assert_eq!(firsts, [0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 6.0]);

        for block in ColBlocks::new(MatMut::new(&mut data, 7, 5), 2) {
            let mut cols = block.cols;
            cols.fill(block.start as f32);
        }
        assert_eq!(data[30..], [0.0, 0.0, 2.0, 2.0, 4.0]);
        assert_eq!(RowBlocks::new(MatMut::<f32>::new(&mut [], 0, 5), 3).count(), 0);

        let tiles = Tiles::new(MatMut::new(&mut data, 7, 5), 4, 3);
        let corners: Vec<_> = tiles.map(|t| (t.row, t.col, t.out.rows(), t.out.cols())).collect();
        assert_eq!(corners, [(0, 0, 4, 3), (0, 3, 4, 2), (4, 0, 3, 3), (4, 3, 3, 2)]);
    }

    #[test]
    fn widths_divide_the_work_evenly() {
        assert_eq!(even_width(1536, 128, 16, 2), 128);
        assert_eq!(even_width(576, 128, 16, 2), 96);
        assert_eq!(even_width(192, 128, 16, 2), 96);
        assert_eq!(even_width(576, 128, 32, 1), 128);
        assert_eq!(even_width(1, 128, 16, 4), 16);
        assert_eq!(even_width(0, 128, 16, 4), 16);
    }

    #[test]
    fn level_widths_let_all_lanes_finish_together() {
        assert_eq!(level_width(576, 192, 96, 2), 96);
        assert_eq!(level_width(576, 192, 96, 1), 192);
        assert_eq!(level_width(1536, 192, 96, 2), 192);
        assert_eq!(level_width(192, 192, 48, 2), 96);
        assert_eq!(level_width(100, 192, 256, 2), 256);
        assert_eq!(level_width(0, 192, 48, 4), 48);
    }
}

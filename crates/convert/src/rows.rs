//! Streaming the rows of a tensor from one type into another.

use std::io;

use lowtide_memory::{ByCategory, Category, Ledger, ReserveError, Slab};
use rayon::prelude::*;

use crate::Changes;
use crate::changes::Kept;
use crate::plan::{Job, Order};

/// Most bytes of tiles, whatever the budget: more would make nothing faster.
const TILES_MAX: usize = 16 << 20;

/// Room for a tile of rows, reserved once for all tensors.
pub(crate) struct Tiles {
    /// Decoded rows, and the same rows as they read back. Where they are changed, also the rows as
    /// they were, and these as they read back.
    values: Slab,
    packed: Slab,
    sums: Slab,
}

/// What rounding did to a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) squares: f64,
    pub(crate) errors: f64,
    /// What became of the changes.
    pub(crate) kept: Kept,
    /// Whether the changes only moved minima of blocks.
    pub(crate) minima_only: bool,
}

/// Sums over a row: squares of the values, of their errors and of the changes, and the product of
/// the changes with what is read back of them.
type RowSums = [f64; 4];

/// A row that holds a value that cannot be written.
#[derive(Debug)]
pub(crate) struct BadRow(pub(crate) usize);

/// Bytes of the buffers that one row takes.
fn row_bytes(job: &Job<'_>) -> (usize, usize, usize) {
    (job.copies() * job.cols() * size_of::<f32>(), job.row_bytes(), size_of::<RowSums>())
}

/// Bytes of all buffers, for the largest tile that `allowed` bytes hold, of every tensor.
fn sizes(jobs: &[Job<'_>], allowed: usize) -> [usize; 3] {
    let mut sizes = [0; 3];
    for job in jobs {
        let (values, packed, sums) = row_bytes(job);
        let rows = tile_rows(job, allowed);
        for (size, row) in sizes.iter_mut().zip([values, packed, sums]) {
            *size = (*size).max(row * rows);
        }
    }
    sizes
}

fn tile_rows(job: &Job<'_>, allowed: usize) -> usize {
    let (values, packed, sums) = row_bytes(job);
    (allowed / (values + packed + sums)).clamp(1, job.rows().max(1))
}

impl Tiles {
    /// The least that the tensors need: room for one row of each.
    pub(crate) fn bytes_min(jobs: &[Job<'_>]) -> usize {
        sizes(jobs, 0).iter().sum()
    }

    /// Reserves what the tensors need within `allowed` bytes.
    pub(crate) fn reserve(
        jobs: &[Job<'_>],
        allowed: usize,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        // Each buffer is as large as the worst tensor makes it, and these may be three tensors: the
        // tile shrinks until their sum fits.
        let mut tile = allowed.min(TILES_MAX);
        while tile > 0 && sizes(jobs, tile).iter().sum::<usize>() > allowed.min(TILES_MAX) {
            tile /= 2;
        }
        let [values, packed, sums] = sizes(jobs, tile);
        let mut reserve =
            |category, bytes: usize| Slab::reserve(ledger, ByCategory::of(category, bytes as u64));
        Ok(Self {
            values: reserve(Category::Workspace, values)?,
            packed: reserve(Category::Workspace, packed)?,
            sums: reserve(Category::Scratch, sums)?,
        })
    }

    /// Gives the room back.
    pub(crate) fn release(self, ledger: &mut Ledger) {
        [self.values, self.packed, self.sums].into_iter().for_each(|slab| slab.release(ledger));
    }

    /// Converts one tensor, and hands its bytes out in order.
    pub(crate) fn run(
        &mut self,
        job: &Job<'_>,
        changes: &mut dyn Changes,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        tell: &mut dyn FnMut(u64),
    ) -> io::Result<Result<Sums, BadRow>> {
        let (cols, rows, packed_row) = (job.cols(), job.rows(), job.row_bytes());
        let room = [
            self.values.get::<f32>().len() / (job.copies() * cols),
            self.packed.get::<u8>().len() / packed_row,
            self.sums.get::<RowSums>().len(),
        ];
        let tile = room.into_iter().min().unwrap_or(0).min(rows);
        assert!(tile > 0, "no room for a row of {cols} values: it was not in the plan");
        if job.is_copy() {
            return copy(job, self.values.get_mut(), tile, write, tell);
        }
        let blocks = blocks_of_group(job, changes);
        let mut total = Sums { minima_only: blocks.is_some(), ..Sums::default() };
        for first in (0..rows).step_by(tile) {
            let count = tile.min(rows - first);
            let packed = &mut self.packed.get_mut::<u8>()[..count * packed_row];
            let sums = &mut self.sums.get_mut::<RowSums>()[..count];
            let mut tile = Tile::of(self.values.get_mut(), count * cols);
            tile.decode(job, first);
            match blocks {
                Some(blocks) => tile.shift(job, first, blocks, changes, packed, sums),
                None => {
                    if job.changed {
                        tile.change(job, first, changes);
                    }
                    tile.encode(job, packed, sums);
                }
            }
            for (i, [squares, errors, update, held]) in sums.iter().enumerate() {
                if !errors.is_finite() {
                    return Ok(Err(BadRow(first + i)));
                }
                total.squares += squares;
                total.errors += errors;
                total.kept.add(*errors, *update, *held);
            }
            write(packed)?;
            tell((count * cols) as u64);
        }
        Ok(Ok(total))
    }
}

/// How many blocks share one number of a change that is taken up by the minima of the type that a
/// tensor keeps; nothing where that cannot be.
fn blocks_of_group(job: &Job<'_>, changes: &dyn Changes) -> Option<usize> {
    if !job.changed || job.is_vector() || !job.keeps_type() {
        return None;
    }
    let (group, block) = (changes.group(&job.hf_name)?, job.format.block_len());
    let whole = group.is_multiple_of(block) && job.cols().is_multiple_of(group);
    (whole && job.format.has_own_minima()).then(|| group / block)
}

/// A tile of rows on its way through.
struct Tile<'a> {
    /// Rows as they are written.
    values: &'a mut [f32],
    /// The same as they read back.
    read: &'a mut [f32],
    /// Where rows are changed: room for them as they were, and as those would read back.
    before: &'a mut [f32],
}

impl<'a> Tile<'a> {
    fn of(room: &'a mut [f32], len: usize) -> Self {
        let (values, rest) = room.split_at_mut(len);
        let (read, before) = rest.split_at_mut(len);
        Self { values, read, before }
    }

    fn decode(&mut self, job: &Job<'_>, first: usize) {
        let rows = self.values.par_chunks_exact_mut(job.cols()).enumerate();
        rows.for_each(|(i, values)| {
            decode(job, first + i, values);
            if job.offset != 0.0 {
                values.iter_mut().for_each(|value| *value += job.offset);
            }
        });
    }

    /// The first row that holds a value that is not finite.
    fn bad_row(&self, cols: usize) -> Option<usize> {
        let bad = |row: &[f32]| row.iter().any(|value| !value.is_finite());
        self.values.par_chunks_exact(cols).position_first(bad)
    }

    /// Keeps the rows as they are, then has them changed, in the order of the source.
    fn change(&mut self, job: &Job<'_>, first: usize, changes: &mut dyn Changes) {
        self.before[..self.values.len()].copy_from_slice(self.values);
        // A vector is rows of one value.
        let width = if job.is_vector() { 1 } else { job.cols() };
        let rows = self.values.len() / width;
        if let Order::Same = job.order {
            return changes.change(&job.hf_name, first..first + rows, self.values);
        }
        for (i, values) in self.values.chunks_exact_mut(width).enumerate() {
            let row = job.order.source_row(first + i);
            changes.change(&job.hf_name, row..row + 1, values);
        }
    }

    /// Moves the minima of the rows' blocks, `blocks` of them together, and reads the rows back to
    /// see what was lost.
    fn shift(
        &mut self,
        job: &Job<'_>,
        first: usize,
        blocks: usize,
        changes: &mut dyn Changes,
        packed: &mut [u8],
        sums: &mut [RowSums],
    ) {
        let (cols, packed_row) = (job.cols(), job.row_bytes());
        let group = blocks * job.format.block_len();
        let (shifts, rest) = self.before.split_at_mut(cols / group);
        let spread = &mut rest[..cols / job.format.block_len()];
        let rows = self.values.chunks_exact_mut(cols).zip(self.read.chunks_exact_mut(cols));
        let rows = rows.zip(packed.chunks_exact_mut(packed_row)).zip(sums);
        for (i, (((values, read), packed), sums)) in rows.enumerate() {
            let row = job.order.source_row(first + i);
            changes.shifts(&job.hf_name, row..row + 1, shifts);
            for (spread, shift) in spread.chunks_mut(blocks).zip(&*shifts) {
                spread.fill(*shift);
            }
            packed.copy_from_slice(&job.source.bytes[row * packed_row..][..packed_row]);
            job.format.shift_minima(packed, spread);
            job.format.decode(packed, read);
            *sums = [0.0; 4];
            for (at, (value, read)) in values.iter().zip(&*read).enumerate() {
                let (value, update) = (f64::from(*value), f64::from(shifts[at / group]));
                let (meant, read) = (value + update, f64::from(*read));
                sums[0] += meant * meant;
                sums[1] += (read - meant) * (read - meant);
                sums[2] += update * update;
                sums[3] += update * (read - value);
            }
        }
    }

    /// Encodes the rows and reads them back to see what was lost.
    fn encode(&mut self, job: &Job<'_>, packed: &mut [u8], sums: &mut [RowSums]) {
        let (cols, packed_row) = (job.cols(), job.row_bytes());
        let rows = self.values.par_chunks_exact(cols).zip(self.read.par_chunks_exact_mut(cols));
        let rows = rows.zip(packed.par_chunks_exact_mut(packed_row)).zip(sums.par_iter_mut());
        if !job.changed {
            return rows.for_each(|(((values, read), packed), sums)| {
                *sums = encode(job, values, packed, read);
            });
        }
        let (before, alone) = self.before.split_at_mut(self.values.len());
        let alone = alone.par_chunks_exact_mut(cols);
        let rows = rows.zip(before.par_chunks_exact(cols)).zip(alone);
        rows.for_each(|(((((values, read), packed), sums), before), alone)| {
            // What the base would read as without the change; then the bytes that are written.
            if job.keeps_type() {
                alone.copy_from_slice(before);
            } else {
                encode(job, before, packed, alone);
            }
            *sums = encode(job, values, packed, read);
            for (((value, read), before), alone) in
                values.iter().zip(&*read).zip(before).zip(&*alone)
            {
                let update = f64::from(*value) - f64::from(*before);
                sums[2] += update * update;
                sums[3] += update * (f64::from(*read) - f64::from(*alone));
            }
        });
    }
}

/// Encodes one row and reads it back; sums of the squares of the values and of their errors.
fn encode(job: &Job<'_>, values: &[f32], packed: &mut [u8], read: &mut [f32]) -> RowSums {
    job.format.encode(values, packed);
    job.format.decode(packed, read);
    let mut sums = [0.0; 4];
    for (value, read) in values.iter().zip(read) {
        let (value, read) = (f64::from(*value), f64::from(*read));
        sums[0] += value * value;
        sums[1] += (read - value) * (read - value);
    }
    sums
}

/// A row of the source, in the order of the output.
pub(crate) fn decode(job: &Job<'_>, row: usize, values: &mut [f32]) {
    let source = &job.source;
    match source.qmat() {
        Ok(matrix) => matrix.decode_row(job.order.source_row(row), values),
        // A vector: one row, whose values are the rows that an order moves.
        Err(_) => {
            let plain = source.to_f32_vec();
            for (i, value) in values.iter_mut().enumerate() {
                *value = plain[job.order.source_row(i)];
            }
        }
    }
}

/// Copies a tensor whose type stays as it is, `tile` rows at a time. Its values are looked at on
/// the way: what would be refused in another type is refused in its own.
fn copy(
    job: &Job<'_>,
    room: &mut [f32],
    tile: usize,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    tell: &mut dyn FnMut(u64),
) -> io::Result<Result<Sums, BadRow>> {
    let (cols, rows, bytes) = (job.cols(), job.rows(), job.row_bytes());
    let stored = |row: usize, count: usize| &job.source.bytes[row * bytes..][..count * bytes];
    for first in (0..rows).step_by(tile) {
        let count = tile.min(rows - first);
        let mut tile = Tile::of(room, count * cols);
        tile.decode(job, first);
        if let Some(row) = tile.bad_row(cols) {
            return Ok(Err(BadRow(first + row)));
        }
        match job.order {
            Order::Same => write(stored(first, count))?,
            order => (first..first + count)
                .try_for_each(|row| write(stored(order.source_row(row), 1)))?,
        }
        tell((count * cols) as u64);
    }
    Ok(Ok(Sums::default()))
}

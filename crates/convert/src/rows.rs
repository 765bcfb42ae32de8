//! Streaming the rows of a tensor from one type into another.

use std::io;

use lowtide_memory::{ByCategory, Category, Ledger, ReserveError, Slab};
use rayon::prelude::*;

use crate::plan::{Job, Order};

/// Most bytes of tiles, whatever the budget: more would make nothing faster.
const TILES_MAX: usize = 16 << 20;

/// Room for a tile of rows, reserved once for all tensors.
pub(crate) struct Tiles {
    /// Decoded rows, and the same rows as they read back: two halves of each row.
    values: Slab,
    packed: Slab,
    sums: Slab,
}

/// What rounding did to a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) squares: f64,
    pub(crate) errors: f64,
}

/// A row that holds a value that cannot be written.
#[derive(Debug)]
pub(crate) struct BadRow(pub(crate) usize);

/// Bytes of the buffers that one row takes.
fn row_bytes(job: &Job<'_>) -> (usize, usize, usize) {
    (2 * job.cols() * size_of::<f32>(), job.row_bytes(), size_of::<[f64; 2]>())
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
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        tell: &mut dyn FnMut(u64),
    ) -> io::Result<Result<Sums, BadRow>> {
        let (cols, rows, packed_row) = (job.cols(), job.rows(), job.row_bytes());
        if job.is_copy() {
            return copy(job, write, tell).map(|()| Ok(Sums::default()));
        }
        let room = [
            self.values.get::<f32>().len() / (2 * cols),
            self.packed.get::<u8>().len() / packed_row,
            self.sums.get::<[f64; 2]>().len(),
        ];
        let tile = room.into_iter().min().unwrap_or(0).min(rows);
        assert!(tile > 0, "no room for a row of {cols} values: it was not in the plan");
        let mut total = Sums::default();
        for first in (0..rows).step_by(tile) {
            let count = tile.min(rows - first);
            let values = &mut self.values.get_mut::<f32>()[..count * 2 * cols];
            let packed = &mut self.packed.get_mut::<u8>()[..count * packed_row];
            let sums = &mut self.sums.get_mut::<[f64; 2]>()[..count];
            values
                .par_chunks_exact_mut(2 * cols)
                .zip(packed.par_chunks_exact_mut(packed_row))
                .zip(sums.par_iter_mut())
                .enumerate()
                .for_each(|(i, ((values, packed), sums))| {
                    *sums = convert_row(job, first + i, values, packed);
                });
            for (i, [squares, errors]) in sums.iter().enumerate() {
                if !errors.is_finite() {
                    return Ok(Err(BadRow(first + i)));
                }
                total.squares += squares;
                total.errors += errors;
            }
            write(packed)?;
            tell((count * cols) as u64);
        }
        Ok(Ok(total))
    }
}

/// One row: decoded, changed, encoded, and read back to see what was lost.
fn convert_row(job: &Job<'_>, row: usize, values: &mut [f32], packed: &mut [u8]) -> [f64; 2] {
    let (values, read) = values.split_at_mut(values.len() / 2);
    decode(job, row, values);
    if job.offset != 0.0 {
        values.iter_mut().for_each(|value| *value += job.offset);
    }
    job.format.encode(values, packed);
    job.format.decode(packed, read);
    let mut sums = [0.0; 2];
    for (value, read) in values.iter().zip(read) {
        let (value, read) = (f64::from(*value), f64::from(*read));
        sums[0] += value * value;
        sums[1] += (read - value) * (read - value);
    }
    sums
}

fn decode(job: &Job<'_>, row: usize, values: &mut [f32]) {
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

/// Copies a tensor whose type stays as it is, a row at a time where rows move.
fn copy(
    job: &Job<'_>,
    write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    tell: &mut dyn FnMut(u64),
) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    if matches!(job.order, Order::Same) {
        job.source.bytes.chunks(PIECE).try_for_each(&mut *write)?;
    } else {
        let bytes = job.row_bytes();
        for row in 0..job.rows() {
            write(&job.source.bytes[job.order.source_row(row) * bytes..][..bytes])?;
        }
    }
    tell(job.source.len() as u64);
    Ok(())
}

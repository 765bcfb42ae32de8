//! The turns on one matrix, and the room they take.

use std::io;

use lowtide_formats::Hyperparameters;
use lowtide_memory::{ByCategory, Category, Ledger, ReserveError, Slab};
use rayon::prelude::*;

use super::factor::{self, Space};
use super::{LoftqSettings, MatrixReport, module_of, ratio, write_adapter};
use crate::plan::Job;
use crate::rows::{BadRow, Sums, decode};

/// Rows of a matrix that are dense at a time.
const TILE_ROWS: usize = 64;

/// Pairs that are fitted while a base is packed.
pub(crate) struct Fit<'a> {
    settings: &'a LoftqSettings,
    /// Modules done so far, with rows and columns of their matrices.
    pairs: Vec<(String, [usize; 2])>,
    pub(super) reports: Vec<MatrixReport>,
    room: Option<Room>,
}

/// Slabs for the largest matrix, and for all pairs.
struct Room {
    /// Pairs that are done, one after another: `A [rank, cols]`, `B [rows, rank]`.
    done: Slab,
    filled: usize,
    /// The matrix packed, as it is tried and as it was best.
    packed: Slab,
    best: Slab,
    /// The pair as it is tried.
    pair: Slab,
    /// A tile of rows, then `left`, `right` and `next` of [`Space`].
    floats: Slab,
    small: Slab,
    /// Squares of a row's values and of what packing changed.
    sums: Slab,
}

/// Sizes of the parts of [`Room`], in elements.
#[derive(Clone, Copy, Default)]
struct Sizes {
    done: usize,
    packed: usize,
    pair: usize,
    floats: usize,
    small: usize,
    sums: usize,
}

impl Sizes {
    fn of(job: &Job<'_>, rank: usize) -> Self {
        let (rows, cols) = (job.rows(), job.cols());
        let k = factor::width(rank, rows, cols);
        let pair = rank * (rows + cols);
        Self {
            done: pair,
            packed: job.bytes(),
            pair,
            floats: TILE_ROWS.min(rows) * cols + k * (rows + 2 * cols),
            small: 2 * k * k,
            sums: rows,
        }
    }

    /// Room for one after the other; pairs that are done stay.
    fn join(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            packed: self.packed.max(other.packed),
            pair: self.pair.max(other.pair),
            floats: self.floats.max(other.floats),
            small: self.small.max(other.small),
            sums: self.sums.max(other.sums),
        }
    }
}

impl<'a> Fit<'a> {
    pub(crate) fn new(settings: &'a LoftqSettings) -> Self {
        Self { settings, pairs: Vec::new(), reports: Vec::new(), room: None }
    }

    /// Whether a tensor is fitted.
    pub(crate) fn takes(&self, job: &Job<'_>) -> bool {
        module_of(job, &self.settings.target_modules).is_some()
    }

    fn sizes(&self, jobs: &[Job<'_>]) -> Sizes {
        let fitted = jobs.iter().filter(|job| self.takes(job));
        fitted.fold(Sizes::default(), |all, job| all.join(Sizes::of(job, self.settings.rank)))
    }

    /// Bytes that fitting holds.
    pub(crate) fn bytes(&self, jobs: &[Job<'_>]) -> u64 {
        let Sizes { done, packed, pair, floats, small, sums } = self.sizes(jobs);
        let floats = (done + pair + floats) * size_of::<f32>();
        let doubles = (small + 2 * sums) * size_of::<f64>();
        (2 * packed + floats + doubles) as u64
    }

    pub(crate) fn reserve(
        &mut self,
        jobs: &[Job<'_>],
        ledger: &mut Ledger,
    ) -> Result<(), ReserveError> {
        let sizes = self.sizes(jobs);
        let mut reserve = |category, len: usize, size: usize| {
            Slab::reserve(ledger, ByCategory::of(category, (len * size) as u64))
        };
        let (floats, doubles) = (size_of::<f32>(), size_of::<f64>());
        self.room = Some(Room {
            done: reserve(Category::Adapter, sizes.done, floats)?,
            filled: 0,
            packed: reserve(Category::Workspace, sizes.packed, 1)?,
            best: reserve(Category::Workspace, sizes.packed, 1)?,
            pair: reserve(Category::Adapter, sizes.pair, floats)?,
            floats: reserve(Category::Workspace, sizes.floats, floats)?,
            small: reserve(Category::Scratch, sizes.small, doubles)?,
            sums: reserve(Category::Scratch, 2 * sizes.sums, doubles)?,
        });
        Ok(())
    }

    pub(crate) fn release(&mut self, ledger: &mut Ledger) {
        let Some(room) = self.room.take() else { return };
        let Room { done, packed, best, pair, floats, small, sums, .. } = room;
        let slabs = [done, packed, best, pair, floats, small, sums];
        slabs.into_iter().for_each(|slab| slab.release(ledger));
    }

    /// Packs one matrix and keeps its pair.
    pub(crate) fn run(
        &mut self,
        job: &Job<'_>,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        tell: &mut dyn FnMut(u64),
    ) -> io::Result<Result<Sums, BadRow>> {
        let room = self.room.as_mut().expect("room that was reserved");
        let module = module_of(job, &self.settings.target_modules).expect("a matrix it takes");
        let seed = self.settings.seed.wrapping_add(self.pairs.len() as u64);
        let turns = Turns::new(job, self.settings.rank, room, seed);
        let found = match turns.take(self.settings.steps) {
            Ok(found) => found,
            Err(bad) => return Ok(Err(bad)),
        };
        write(&room.best.get::<u8>()[..job.bytes()])?;
        room.filled += self.settings.rank * (job.rows() + job.cols());
        self.pairs.push((module.to_owned(), [job.rows(), job.cols()]));
        let relative = |errors: f64| {
            if found.squares > 0.0 { (errors / found.squares).sqrt() } else { 0.0 }
        };
        self.reports.push(MatrixReport {
            tensor: job.name.clone(),
            module: module.to_owned(),
            kind: job.format.name(),
            error_alone: relative(found.alone),
            error: relative(found.both),
            error_ratio: ratio((found.alone, found.both)),
            step: found.step,
            squares: (found.alone, found.both),
        });
        tell(job.source.len() as u64);
        Ok(Ok(Sums { squares: found.squares, errors: found.packed, ..Sums::default() }))
    }

    /// Writes the pairs as a PEFT folder.
    pub(crate) fn write(&self, hyper: &Hyperparameters) -> Result<(), lowtide_formats::Error> {
        let room = self.room.as_ref().expect("room that was reserved");
        let values = &room.done.get::<f32>()[..room.filled];
        write_adapter(self.settings, hyper, &self.pairs, values)
    }
}

/// The best of all turns. Sums of squares.
struct Found {
    /// Of the matrix.
    squares: f64,
    /// Of what packing alone changed.
    alone: f64,
    /// Of what packing changed in the best turn.
    packed: f64,
    /// Of what packing and the pair together leave.
    both: f64,
    step: usize,
}

/// One matrix with its room.
struct Turns<'t, 'a> {
    job: &'t Job<'a>,
    rank: usize,
    packed: &'t mut [u8],
    best: &'t mut [u8],
    a: &'t mut [f32],
    b: &'t mut [f32],
    /// Where the best pair goes.
    into: &'t mut [f32],
    space: Space<'t>,
    sums: &'t mut [[f64; 2]],
}

impl<'t, 'a> Turns<'t, 'a> {
    fn new(job: &'t Job<'a>, rank: usize, room: &'t mut Room, seed: u64) -> Self {
        let (rows, cols) = (job.rows(), job.cols());
        let k = factor::width(rank, rows, cols);
        let pair = &mut room.pair.get_mut::<f32>()[..rank * (rows + cols)];
        pair.fill(0.0);
        let (a, b) = pair.split_at_mut(rank * cols);
        let (tile, rest) = room.floats.get_mut::<f32>().split_at_mut(TILE_ROWS.min(rows) * cols);
        let (left, rest) = rest.split_at_mut(rows * k);
        let (right, rest) = rest.split_at_mut(cols * k);
        factor::start(right, seed);
        let small = &mut room.small.get_mut::<f64>()[..2 * k * k];
        let space = Space { tile, left, right, next: &mut rest[..cols * k], small };
        let into = &mut room.done.get_mut::<f32>()[room.filled..][..rank * (rows + cols)];
        Self {
            job,
            rank,
            packed: &mut room.packed.get_mut::<u8>()[..job.bytes()],
            best: &mut room.best.get_mut::<u8>()[..job.bytes()],
            a,
            b,
            into,
            space,
            sums: &mut room.sums.get_mut::<[f64; 2]>()[..rows],
        }
    }

    fn take(mut self, steps: usize) -> Result<Found, BadRow> {
        let mut found: Option<Found> = None;
        let (mut squares, mut alone) = (0.0, 0.0);
        for step in 1..=steps.max(1) {
            let packed = self.pack()?;
            if step == 1 {
                (squares, alone) = packed;
            }
            self.factor();
            let both = self.left();
            if found.as_ref().is_none_or(|best| both < best.both) {
                self.best.copy_from_slice(self.packed);
                let (a, b) = self.into.split_at_mut(self.a.len());
                a.copy_from_slice(self.a);
                b.copy_from_slice(self.b);
                found = Some(Found { squares, alone, packed: packed.1, both, step });
            }
        }
        Ok(found.expect("at least one turn"))
    }

    /// `Q = quant(W − B A)`; sums of the squares of `W` and of `W − B A − Q`.
    fn pack(&mut self) -> Result<(f64, f64), BadRow> {
        let Self { job, rank, packed, a, b, space, sums, .. } = self;
        let (cols, rank, packed_row) = (job.cols(), *rank, job.row_bytes());
        let (a, b) = (&**a, &**b);
        let most = space.tile.len() / cols;
        for first in (0..job.rows()).step_by(most) {
            let count = most.min(job.rows() - first);
            let tile = space.tile[..count * cols].par_chunks_exact_mut(cols);
            let packed =
                packed[first * packed_row..][..count * packed_row].par_chunks_exact_mut(packed_row);
            let sums = sums[first..first + count].par_iter_mut();
            tile.zip(packed).zip(sums).enumerate().for_each(|(i, ((values, packed), sums))| {
                decode(job, first + i, values);
                let squares = values.iter().map(|v| f64::from(*v).powi(2)).sum();
                subtract(values, &b[(first + i) * rank..][..rank], a);
                job.format.encode(values, packed);
                // What is read back takes the place of a second buffer.
                let errors = error(job, values, packed);
                *sums = [squares, errors];
            });
        }
        total(self.sums)
    }

    /// `B A = SVD_r(W − Q)`, the root of each singular value on either side.
    fn factor(&mut self) {
        let Self { job, rank, packed, a, b, space, .. } = self;
        let (rows, cols, rank) = (job.rows(), job.cols(), *rank);
        let k = space.right.len() / cols;
        let packed = &**packed;
        factor::leading(rows, cols, space, &|row, into| residual(job, packed, row, into));
        let sigma = |i: usize| -> f64 {
            let column = space.left.chunks_exact(k).map(|row| f64::from(row[i]).powi(2));
            column.sum::<f64>().sqrt()
        };
        for i in 0..rank {
            let root = sigma(i).sqrt();
            let over = if root > 0.0 { 1.0 / root } else { 0.0 };
            for (row, left) in b.chunks_exact_mut(rank).zip(space.left.chunks_exact(k)) {
                row[i] = (f64::from(left[i]) * over) as f32;
            }
            let row = &mut a[i * cols..][..cols];
            for (value, right) in row.iter_mut().zip(space.right.chunks_exact(k)) {
                *value = (f64::from(right[i]) * root) as f32;
            }
        }
    }

    /// The square of `‖W − Q − B A‖`.
    fn left(&mut self) -> f64 {
        let Self { job, rank, packed, a, b, space, sums, .. } = self;
        let (cols, rank) = (job.cols(), *rank);
        let (a, b, packed) = (&**a, &**b, &**packed);
        let most = space.tile.len() / cols;
        for first in (0..job.rows()).step_by(most) {
            let count = most.min(job.rows() - first);
            let tile = space.tile[..count * cols].par_chunks_exact_mut(cols);
            let sums = sums[first..first + count].par_iter_mut();
            tile.zip(sums).enumerate().for_each(|(i, (values, sums))| {
                residual(job, packed, first + i, values);
                subtract(values, &b[(first + i) * rank..][..rank], a);
                *sums = [0.0, values.iter().map(|v| f64::from(*v).powi(2)).sum()];
            });
        }
        self.sums.iter().map(|[_, errors]| errors).sum()
    }
}

/// `values −= b A` for one row `b` of `B`.
fn subtract(values: &mut [f32], b: &[f32], a: &[f32]) {
    for (factor, a) in b.iter().zip(a.chunks_exact(values.len())) {
        for (value, a) in values.iter_mut().zip(a) {
            *value -= factor * a;
        }
    }
}

/// A piece of a row: whole blocks of every format.
const PIECE: usize = 256;

/// Walks over a packed row a piece at a time, beside its values.
fn pieces(job: &Job<'_>, packed: &[u8], len: usize, mut see: impl FnMut(usize, &[f32])) {
    let mut read = [0.0; PIECE];
    let blocks = PIECE / job.format.block_len();
    let bytes = blocks * job.format.block_bytes();
    for (i, packed) in packed.chunks(bytes).enumerate() {
        let at = i * PIECE;
        let read = &mut read[..PIECE.min(len - at)];
        job.format.decode(packed, read);
        see(at, read);
    }
}

/// The square of what packing changed in a row.
fn error(job: &Job<'_>, values: &[f32], packed: &[u8]) -> f64 {
    let mut sum = 0.0;
    pieces(job, packed, values.len(), |at, read| {
        let pairs = values[at..].iter().zip(read);
        sum += pairs.map(|(v, r)| (f64::from(*r) - f64::from(*v)).powi(2)).sum::<f64>();
    });
    sum
}

/// A row of `W − Q`.
fn residual(job: &Job<'_>, packed: &[u8], row: usize, into: &mut [f32]) {
    decode(job, row, into);
    let bytes = job.row_bytes();
    let len = into.len();
    pieces(job, &packed[row * bytes..][..bytes], len, |at, read| {
        into[at..].iter_mut().zip(read).for_each(|(value, read)| *value -= read);
    });
}

/// Sums over all rows, or the first that holds a value that cannot be written.
fn total(sums: &[[f64; 2]]) -> Result<(f64, f64), BadRow> {
    let mut all = (0.0, 0.0);
    for (row, [squares, errors]) in sums.iter().enumerate() {
        if !errors.is_finite() {
            return Err(BadRow(row));
        }
        all = (all.0 + squares, all.1 + errors);
    }
    Ok(all)
}

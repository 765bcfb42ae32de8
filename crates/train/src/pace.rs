//! What an update costs besides memory, roughly: time and disk traffic.

use std::time::{Duration, Instant};

use lowtide_backend::{Backend, OpShape};
use lowtide_quant::{QMat, formats::Q8_0};
use lowtide_tape::{Plan, Work};
use lowtide_tensor::{Mat, MatMut};

/// The product that is timed: rows, columns of the input and of the output. Large enough to be
/// shared among threads as those of a model are, small enough to take no time that anybody notices.
const TIMED: (usize, usize, usize) = (256, 512, 1024);

/// For how long it is repeated; the shortest time counts.
const REPEATED: Duration = Duration::from_millis(30);

/// Work that a backend does in a second, in the measure of [`Plan::work`].
pub(crate) fn work_per_second(be: &dyn Backend<f32>) -> f64 {
    let (rows, in_features, out_features) = TIMED;
    let bytes = vec![1; in_features * out_features / 32 * 34];
    let w = QMat::new(&Q8_0, out_features, in_features, &bytes).expect("made for it");
    let (x, mut y) = (vec![0.5; rows * in_features], vec![0.0; rows * out_features]);
    let req = be.req(OpShape::Qmatmul { rows, out_features, in_features });
    let mut scratch = vec![0.0; req.scratch];
    let mut time = || {
        let start = Instant::now();
        let y = MatMut::new(&mut y, rows, out_features);
        be.qmatmul(Mat::new(&x, rows, in_features), w, y, &mut scratch);
        start.elapsed().as_secs_f64()
    };
    let (start, mut least) = (Instant::now(), time());
    while start.elapsed() < REPEATED {
        least = least.min(time());
    }
    Work::packed(rows, in_features, out_features).forward as f64 / least.max(1e-9)
}

/// Bytes that a step of a plan writes to and reads from disk: inputs that are kept in a file, and
/// weights where `streamed` is what may be in memory of `mapped`.
pub(crate) fn disk_bytes(plan: &Plan, mapped: u64, streamed: Option<u64>) -> u64 {
    let (count, elements) = plan.file().unwrap_or_default();
    let file = (2 * count * elements * size_of::<f32>()) as u64;
    let (runs, segments) = plan.segment_runs();
    let read = streamed.map_or(0, |room| mapped.saturating_sub(room));
    file + read * runs as u64 / segments.max(1) as u64
}

//! Criterion suites that take a list of backends, so that one page of figures compares them.
//!
//! [`ops()`] times the operations of `lowtide-bench`, the same as `lowtide bench` does: at the
//! shapes of SmolLM2-135M and Qwen2.5-0.5B, with 512 rows and with one. Criterion's `elem/s` are
//! floating-point operations: two for each multiply-add of the plain algorithm, whatever a backend
//! really does. Operations that are counted by their bytes have `B/s`.
//!
//! Criterion times one contender after the other and keeps a history; `lowtide bench` lets them
//! take turns and knows what the machine can do at best.
//!
//! Run it with `cargo bench -p lowtide-benches`, a part of it with a pattern behind: `-- qmatmul`.
#![forbid(unsafe_code)]

use criterion::{BenchmarkId, Criterion, Throughput};
use lowtide_bench::Contender;
use lowtide_bench::kernels::{Call, Extent, all};

/// Times every operation on every contender.
pub fn ops(criterion: &mut Criterion, contenders: &[Contender<'_>]) {
    for kernel in all(Extent::Full) {
        let work = kernel.work();
        let throughput = match work.flops {
            0 => Throughput::Bytes(work.bytes),
            flops => Throughput::Elements(flops),
        };
        let mut group = criterion.benchmark_group(kernel.name());
        group.sample_size(10).throughput(throughput);
        // Operands are made when a pattern lets the first contender through.
        let mut made: Option<Call> = None;
        for contender in contenders {
            let id = BenchmarkId::from_parameter(contender.label);
            group.bench_function(id, |bencher| {
                let call = made.get_or_insert_with(|| kernel.prepare());
                bencher.iter_custom(|calls| contender.timed(calls, call));
            });
        }
        group.finish();
    }
}

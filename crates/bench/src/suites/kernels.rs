//! Single operations.

use crate::kernels::{Extent, Kernel, all};
use crate::stand::Task;
use crate::{BenchError, Row, Stand};

/// That an operation has `filter` in its name.
///
/// # Errors
/// [`BenchError::NoKernel`] when none has.
pub fn check_filter(extent: Extent, filter: Option<&str>) -> Result<(), BenchError> {
    named(extent, filter).map(drop)
}

/// Times every operation that has `filter` in its name.
///
/// # Errors
/// [`BenchError::NoKernel`] when none has.
pub fn kernels(
    stand: &Stand<'_>,
    extent: Extent,
    filter: Option<&str>,
) -> Result<Vec<Row>, BenchError> {
    let kernels = named(extent, filter)?;
    let mut rows = Vec::with_capacity(kernels.len());
    for kernel in &kernels {
        let mut call = kernel.prepare();
        let (name, work) = (kernel.name(), kernel.work());
        let task = Task { suite: "kernels", name, work, tokens: None, planned: &[] };
        rows.push(stand.time(&task, &mut |contender, calls| {
            let contender = &stand.contenders[contender];
            contender.within(|| (0..calls).for_each(|_| call(contender.backend)));
        }));
    }
    Ok(rows)
}

fn named(extent: Extent, filter: Option<&str>) -> Result<Vec<Kernel>, BenchError> {
    let mut kernels = all(extent);
    if let Some(filter) = filter {
        kernels.retain(|kernel| kernel.name().contains(filter));
        if kernels.is_empty() {
            return Err(BenchError::NoKernel { filter: filter.to_owned() });
        }
    }
    Ok(kernels)
}

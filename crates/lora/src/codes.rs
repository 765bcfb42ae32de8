//! Tensors of an adapter in [`LineCodes`]: which are coded, and what they become.
//!
//! A tensor that starts at a constant scales something that is there already, as DoRA's magnitudes
//! do. It stays in f32: a rounded scale would move the base's own output.
//!
//! Lines that run over the outputs of a layer are cut into groups in Hugging Face's order of the
//! outputs, also where the base keeps them in another. So an adapter is one function, whatever kind
//! of file its base lies in, and its saved groups are those it was trained with.

use lowtide_adapter::{Init, ParamSpec};
use lowtide_quant::LineCodes;
use lowtide_tensor::Float;

/// Whether a trained tensor is coded or stays in f32.
#[must_use]
pub fn is_coded(spec: &ParamSpec) -> bool {
    !matches!(spec.init, Init::Constant(_))
}

/// Bytes of the numbers of a trained tensor, scales included.
#[must_use]
pub fn bytes(codes: LineCodes, spec: &ParamSpec) -> usize {
    if !is_coded(spec) {
        return 4 * spec.len();
    }
    codes.bytes(spec.shape)
}

/// What the numbers `p` of a trained tensor are after coding. `order` has, for each output in
/// Hugging Face's order, the row it is here, where they differ.
///
/// # Panics
/// When a length is not the tensor's.
pub fn round<F: Float>(
    codes: LineCodes,
    spec: &ParamSpec,
    order: Option<&[u32]>,
    p: &[F],
    out: &mut [F],
) {
    assert!(p.len() == spec.len() && out.len() == spec.len(), "{} elements", spec.len());
    if !is_coded(spec) {
        return out.copy_from_slice(p);
    }
    let [rows, columns] = spec.shape;
    let (lines, line) = (rows.min(columns), rows.max(columns));
    let order = order.filter(|_| spec.output_axis == Some(0));
    let along_rows = LineCodes::along_rows(spec.shape);
    let place = |index: usize, at: usize| match order {
        _ if along_rows => index * columns + at,
        Some(order) => order[at] as usize * columns + index,
        None => at * columns + index,
    };
    for index in 0..lines {
        for start in (0..line).step_by(codes.group().min(line)) {
            let group = start..line.min(start.saturating_add(codes.group()));
            let scale = codes.scale(group.clone().map(|at| p[place(index, at)].to_f32()));
            for at in group {
                let at = place(index, at);
                out[at] = F::from_f32(codes.round(p[at].to_f32(), scale));
            }
        }
    }
}

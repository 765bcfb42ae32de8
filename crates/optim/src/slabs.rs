//! Cutting slabs into tensors.

/// Parameters, gradients and state of one tensor.
pub(crate) struct Part<'a> {
    pub(crate) p: &'a mut [f32],
    pub(crate) g: &'a [f32],
    pub(crate) state: &'a mut [f32],
}

/// Hands every tensor to `update`; `words` gives the length of the state of one tensor.
///
/// # Panics
/// When a slab is not exactly as long as its tensors together.
pub(crate) fn for_each_tensor(
    tensors: &[usize],
    mut p: &mut [f32],
    mut g: &[f32],
    mut state: &mut [f32],
    words: impl Fn(usize) -> usize,
    mut update: impl FnMut(Part<'_>),
) {
    let (len, state_len) = (tensors.iter().sum(), tensors.iter().map(|&n| words(n)).sum());
    check("parameter", p.len(), len);
    check("gradient", g.len(), len);
    check("state", state.len(), state_len);
    for &n in tensors {
        let (p_tensor, p_rest) = p.split_at_mut(n);
        let (g_tensor, g_rest) = g.split_at(n);
        let (s_tensor, s_rest) = state.split_at_mut(words(n));
        update(Part { p: p_tensor, g: g_tensor, state: s_tensor });
        (p, g, state) = (p_rest, g_rest, s_rest);
    }
}

fn check(slab: &str, got: usize, want: usize) {
    assert!(got == want, "a {slab} slab of {got} words for tensors that take {want}");
}

//! The suite for optimizers.

use lowtide_backend::Scalar;
use lowtide_optim::{Optimizer, StepHyper};

use crate::close::assert_bits;
use crate::draw::Draw;
use crate::guarded::Guarded;

/// Lengths around the sizes at which packed states change shape, in two segments.
const TENSORS: [usize; 9] = [1, 300, 256, 2, 257, 5, 512, 255, 1000];

/// Tensors of the first segment.
const SEGMENT: usize = 4;

/// Updates of a run: enough for every state to be read after it was written.
const UPDATES: u64 = 4;

/// Runs an optimizer through everything it owes to the engine.
///
/// - *States*: `state_words` is additive over tensors; a slab of exactly that length, whatever it
///   held before `init`, is enough, and nothing around it or around the parameters is written.
/// - *Segments*: updating two groups of tensors one after the other, each with its part of the
///   state, gives the bits of updating all at once, in parameters and state; a single tensor as
///   well.
/// - *Bits*: the same twice.
/// - *Gradient scale*: a factor that is a power of two gives the bits of gradients that were
///   multiplied by it.
/// - *Direction*: the first update moves against the gradient, and a learning rate of zero moves
///   nothing, so that decay is scaled by it too.
/// - *Forgetting*: entries whose state is forgotten stay zero while they and their gradients are;
///   forgetting none changes nothing.
///
/// ```
/// use lowtide_optim::AdamW;
/// lowtide_conformance::optimizer::optimizer(&AdamW { weight_decay: 0.01, ..AdamW::default() });
/// ```
///
/// # Panics
/// At the first thing that does not hold; the message names the optimizer and the element.
pub fn optimizer(optimizer: &dyn Optimizer) {
    let name = optimizer.name();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    assert!(plain, "an optimizer is called {name:?}");
    check_words(optimizer);
    check_segments(optimizer);
    check_scale(optimizer);
    check_direction(optimizer);
    check_forgetting(optimizer);
}

/// For an optimizer without decay: gradients of zero leave the parameters as they are, from the
/// first update on.
///
/// ```
/// lowtide_conformance::optimizer::optimizer_at_rest(&lowtide_optim::AdamW8::default());
/// ```
///
/// # Panics
/// When a parameter moves.
pub fn optimizer_at_rest(optimizer: &dyn Optimizer) {
    let mut run = Run::new(optimizer, &TENSORS);
    let before = run.p.clone();
    let zeros = vec![0.0; before.len()];
    for step in 1..=UPDATES {
        run.update(&zeros, hyper(0.1, step));
    }
    assert_bits(&format!("{}: parameters at rest", optimizer.name()), &run.p, &before);
}

fn check_words(optimizer: &dyn Optimizer) {
    let name = optimizer.name();
    assert!(optimizer.state_words(&[]) == 0, "{name}: a state without tensors");
    let each: Vec<usize> = TENSORS.iter().map(|&n| optimizer.state_words(&[n])).collect();
    for end in 1..=TENSORS.len() {
        let (sum, whole) = (each[..end].iter().sum(), optimizer.state_words(&TENSORS[..end]));
        let tensors = &TENSORS[..end];
        assert!(
            whole == sum,
            "{name}: {whole} state words for tensors of {tensors:?}, {sum} one by one"
        );
    }
}

fn check_segments(optimizer: &dyn Optimizer) {
    let whole = run_in_parts(optimizer, &[&TENSORS]);
    let (first, second) = TENSORS.split_at(SEGMENT);
    let singles: Vec<&[usize]> = TENSORS.chunks(1).collect();
    let ways: [(&str, &[&[usize]]); 3] = [
        ("again", &[&TENSORS]),
        ("in two segments", &[first, second]),
        ("one tensor at a time", &singles),
    ];
    for (way, parts) in ways {
        let run = run_in_parts(optimizer, parts);
        let what = |thing| format!("{}: {thing}, updated {way}", optimizer.name());
        assert_bits(&what("parameters"), &run.p, &whole.p);
        assert!(bits(&run.state) == bits(&whole.state), "{} to another state", what("tensors"));
    }
}

fn check_scale(optimizer: &dyn Optimizer) {
    let (mut scaled, mut multiplied) =
        (Run::new(optimizer, &TENSORS), Run::new(optimizer, &TENSORS));
    for step in 1..=UPDATES {
        let g = gradient(step);
        let quarter: Vec<f32> = g.iter().map(|g| g * 0.25).collect();
        scaled.update(&g, StepHyper { grad_scale: 0.25, ..hyper(0.01, step) });
        multiplied.update(&quarter, hyper(0.01, step));
    }
    let what = format!("{}: parameters after updates with a scaled gradient", optimizer.name());
    assert_bits(&what, &scaled.p, &multiplied.p);
}

fn check_direction(optimizer: &dyn Optimizer) {
    let name = optimizer.name();
    let mut run = Run::new(optimizer, &TENSORS);
    let before = run.p.clone();
    let g = gradient(1);
    run.update(&g, hyper(0.0, 1));
    assert_bits(&format!("{name}: parameters at learning rate 0"), &run.p, &before);

    let mut run = Run::new(optimizer, &TENSORS);
    run.update(&g, hyper(0.01, 1));
    let moved = run.p.iter().zip(&before).map(|(after, before)| f64::from(after - before));
    let along: f64 = moved.zip(&g).map(|(moved, &g)| moved * f64::from(g)).sum();
    assert!(along < 0.0, "{name}: the first update moves {along} along the gradient");
}

fn check_forgetting(optimizer: &dyn Optimizer) {
    let name = optimizer.name();
    let third = |i: usize| i.is_multiple_of(3);
    for &n in &TENSORS {
        let tensors = [n];
        let mut run = Run::at(optimizer, &tensors, Draw::new(6).vec(n, 0.5));
        let gradient = |step| gradient(step)[..n].to_vec();
        (1..=UPDATES).for_each(|step| run.update(&gradient(step), hyper(0.01, step)));
        let before = run.state.clone();
        run.forget(&|_| false);
        assert!(bits(&run.state) == bits(&before), "{name}: forgetting none changes the state");
        run.forget(&third);
        let zero = |i: usize, value: &mut f32| *value = if third(i) { 0.0 } else { *value };
        run.p.iter_mut().enumerate().for_each(|(i, p)| zero(i, p));
        for step in UPDATES + 1..=2 * UPDATES {
            let mut g = gradient(step);
            g.iter_mut().enumerate().for_each(|(i, g)| zero(i, g));
            run.update(&g, hyper(0.01, step));
        }
        for (i, p) in run.p.iter().enumerate().filter(|(i, _)| third(*i)) {
            assert!(*p == 0.0, "{name}: element {i} of {n} is {p} after it was forgotten at 0");
        }
    }
}

/// States may hold any bit pattern, so they are compared as such.
fn bits(words: &[f32]) -> Vec<u32> {
    words.iter().map(|word| word.to_bits()).collect()
}

fn hyper(lr: f64, step: u64) -> StepHyper {
    StepHyper { lr, step, grad_scale: 1.0 }
}

/// Gradients of an update, of very different sizes as gradients are.
fn gradient(step: u64) -> Vec<f32> {
    let mut draw = Draw::new(100 + step);
    let len = TENSORS.iter().sum();
    (0..len).map(|i| draw.value::<f32>([1.0, 1e-2, 1e-4][i % 3])).collect()
}

/// Parameters and state of some tensors.
struct Run<'a> {
    optimizer: &'a dyn Optimizer,
    tensors: &'a [usize],
    p: Vec<f32>,
    state: Vec<f32>,
}

impl<'a> Run<'a> {
    fn new(optimizer: &'a dyn Optimizer, tensors: &'a [usize]) -> Self {
        let p = Draw::new(6).vec(tensors.iter().sum(), 0.5);
        Self::at(optimizer, tensors, p)
    }

    fn at(optimizer: &'a dyn Optimizer, tensors: &'a [usize], p: Vec<f32>) -> Self {
        let mut state = Guarded::filled(1, optimizer.state_words(tensors), f32::NAN);
        optimizer.init(tensors, state.slice());
        let state = state.take(&format!("{}: the initial state", optimizer.name()));
        Self { optimizer, tensors, p, state }
    }

    fn update(&mut self, g: &[f32], hyper: StepHyper) {
        let mut p = Guarded::copy(&self.p, 1, self.p.len());
        let mut state = Guarded::copy(&self.state, 1, self.state.len());
        self.optimizer.update(&Scalar, self.tensors, p.slice(), g, state.slice(), &hyper);
        let name = self.optimizer.name();
        self.p = p.take(&format!("{name}: parameters"));
        self.state = state.take(&format!("{name}: the state"));
    }

    /// For a run with one tensor.
    fn forget(&mut self, which: &dyn Fn(usize) -> bool) {
        let mut state = Guarded::copy(&self.state, 1, self.state.len());
        self.optimizer.forget(self.p.len(), state.slice(), which);
        self.state = state.take(&format!("{}: the forgotten state", self.optimizer.name()));
    }
}

/// A run in which each group of tensors is updated by a call of its own; the result holds all
/// parameters and the states one after another.
fn run_in_parts<'a>(optimizer: &'a dyn Optimizer, parts: &[&'a [usize]]) -> Run<'a> {
    let all = Run::new(optimizer, &TENSORS);
    let mut offset = 0;
    let mut runs: Vec<(usize, Run<'_>)> = Vec::new();
    for &tensors in parts {
        let len: usize = tensors.iter().sum();
        let p = all.p[offset..offset + len].to_vec();
        runs.push((offset, Run::at(optimizer, tensors, p)));
        offset += len;
    }
    for step in 1..=UPDATES {
        let g = gradient(step);
        for (offset, run) in &mut runs {
            let len = run.p.len();
            run.update(&g[*offset..*offset + len], hyper(0.01, step));
        }
    }
    let p = runs.iter().flat_map(|(_, run)| run.p.iter().copied()).collect();
    let state = runs.iter().flat_map(|(_, run)| run.state.iter().copied()).collect();
    Run { p, state, ..all }
}

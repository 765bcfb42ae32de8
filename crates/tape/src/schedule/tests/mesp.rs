//! What the schedule of a Llama block holds, by name, against what a hand-written block would.
//!
//! MeSP (memory-efficient structured backpropagation) writes a block's backward by hand: it shares
//! one normalised input among q, k and v, makes the low-rank products again, replaces gate and up
//! by their gradients in place and frees each value after its last reader. The facts that
//! operations declare must give the same.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use lowtide_adapter::{Adapter, Config};
use lowtide_backend::{Activation, AttentionShape, Pairing, Scalar};
use lowtide_lora::Lora;
use lowtide_quant::{QMat, formats::F32};

use super::super::pack::aligned;
use super::super::{Action, Keep, Place, Schedule};
use crate::ops::{AdaptedLinear, Add, Attention, Glu, RmsNorm, Rope};
use crate::selection::{Pick, picks};
use crate::{Graph, Limits, Segment};

/// Widths of a block.
#[derive(Clone, Copy, Debug)]
struct Block {
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Names of the values in the order of recording; the input is `x`.
const VALUES: [&str; 19] = [
    "x", "n1", "rstd1", "q", "k", "v", "q_rot", "k_rot", "o", "lse", "o_proj", "h", "n2", "rstd2",
    "gate", "up", "act", "down", "y",
];

impl Block {
    /// A block with LoRA on all seven linears. Weights are never read, so they may be zero.
    fn segment(self, zeros: &[u8]) -> Segment<'_, f32> {
        let Self { hidden, ffn, heads, kv_heads, head_dim } = self;
        let (q_dim, kv_dim) = (heads * head_dim, kv_heads * head_dim);
        let linear = |rows: usize, cols: usize| {
            let lora = Lora::new(cols, rows, &Config::default()).unwrap();
            let adapter: Box<dyn Adapter<f32>> = Box::new(lora);
            let weight = QMat::new(&F32, rows, cols, &zeros[..4 * rows * cols]).unwrap();
            AdaptedLinear::new(weight, None, Some(adapter), 0)
        };
        let norm = || RmsNorm { weight: vec![1.0; hidden].into(), eps: 1e-5 };
        let inv_freq = vec![1.0; head_dim / 2].into();
        let rope = Rope { head_dim, inv_freq, pairing: Pairing::Halves };
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 1.0, window: None };
        let (mut graph, x) = Graph::new(hidden);
        let n1 = graph.push(norm(), &[x]);
        let q = graph.push(linear(q_dim, hidden), &[n1]);
        let k = graph.push(linear(kv_dim, hidden), &[n1]);
        let v = graph.push(linear(kv_dim, hidden), &[n1]);
        let q = graph.push(rope.clone(), &[q]);
        let k = graph.push(rope, &[k]);
        let o = graph.push(Attention { shape }, &[q, k, v]);
        let o = graph.push(linear(hidden, q_dim), &[o]);
        let h = graph.push(Add, &[x, o]);
        let n2 = graph.push(norm(), &[h]);
        let gate = graph.push(linear(ffn, hidden), &[n2]);
        let up = graph.push(linear(ffn, hidden), &[n2]);
        let act = graph.push(Glu { act: Activation::Silu }, &[gate, up]);
        let down = graph.push(linear(hidden, ffn), &[act]);
        graph.push(Add, &[h, down]);
        Segment::new(graph)
    }

    fn zeros(self) -> Vec<u8> {
        vec![0; 4 * self.hidden * self.ffn.max(self.heads * self.head_dim)]
    }
}

/// Names of all that a buffer of the backward schedule holds in turn: values, gradients (`d…`) and
/// scratch.
fn names(segment: &Segment<'_, f32>, schedule: &Schedule) -> Vec<Vec<String>> {
    let mut names = vec![Vec::new(); schedule.buffers.len()];
    let mut hold = |buffer: usize, name: String| {
        if !names[buffer].contains(&name) {
            names[buffer].push(name);
        }
    };
    for step in &schedule.steps {
        let (Action::Forward(o) | Action::Vjp(o)) = step else { continue };
        let node = &segment.graph.nodes[o.node];
        let ((x, y), back) = ((&o.x, &o.y), matches!(step, Action::Vjp(_)));
        let read = x.iter().zip(&node.inputs).chain(y.iter().zip(&node.outputs));
        for (slot, value) in read.filter_map(|(slot, v)| slot.map(|slot| (slot, v))) {
            hold(slot.buffer, VALUES[value.0].to_string());
        }
        let gradients = o.dx.iter().zip(&node.inputs).chain([(&o.dy, &node.outputs[0])]);
        for (slot, value) in gradients.filter_map(|(slot, v)| slot.map(|slot| (slot, v))) {
            assert!(back);
            hold(slot.buffer, ["d", VALUES[value.0]].concat());
        }
        o.scratch.into_iter().for_each(|buffer| hold(buffer, "scratch".to_string()));
    }
    names
}

/// What an operation's step is called, and what is alive in the arena then, oldest first; nothing
/// for steps between operations.
fn alive(
    segment: &Segment<'_, f32>,
    schedule: &Schedule,
    step: usize,
) -> Option<(&'static str, Vec<String>)> {
    let (Action::Forward(o) | Action::Vjp(o)) = &schedule.steps[step] else { return None };
    let name = VALUES[segment.graph.nodes[o.node].outputs[0].0];
    let buffers = schedule.buffers.iter().zip(names(segment, schedule));
    let live = buffers.filter(|(b, names)| {
        let in_arena = matches!(b.place, Place::Arena(_)) && names[0] != "scratch";
        in_arena && b.birth <= step && step <= b.death
    });
    Some((name, live.map(|(_, names)| names.join("→")).collect()))
}

const LIMITS: Limits = Limits { tokens: 256, sequences: 1, labelled: 256 };

/// Widths of published models: SmolLM2-135M, Qwen2.5-0.5B, Llama-3.2-1B, Qwen3-0.6B.
const BLOCKS: [Block; 4] = [
    Block { hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, head_dim: 64 },
    Block { hidden: 896, ffn: 4864, heads: 14, kv_heads: 2, head_dim: 64 },
    Block { hidden: 2048, ffn: 8192, heads: 32, kv_heads: 8, head_dim: 64 },
    Block { hidden: 1024, ffn: 3072, heads: 16, kv_heads: 8, head_dim: 128 },
];

/// What is alive besides scratch in each backward step of a block that kept its input only. An
/// arrow joins what lies in one place in turn. The gradient that travels down lies outside the
/// arena: it comes as `dy`, is `dh` once `n2` is done, and leaves as `dx`.
///
/// - `n1` serves q, k and v, `n2` gate and up; the low-rank products are made again from them.
/// - q and k are rotated in place; what they were before is not kept.
/// - Gate and up exist once and become their own gradients.
/// - Each value goes with the last operation that reads it.
const BACKWARD: [(&str, &str); 12] = [
    ("down", "n1 rstd1 q→q_rot k→k_rot v o lse o_proj→h n2 rstd2 gate→dgate up→dup act dact"),
    ("act", "n1 rstd1 q→q_rot k→k_rot v o lse o_proj→h n2 rstd2 gate→dgate up→dup dact"),
    ("up", "n1 rstd1 q→q_rot k→k_rot v o lse o_proj→h n2 rstd2 gate→dgate up→dup dn2"),
    ("gate", "n1 rstd1 q→q_rot k→k_rot v o lse o_proj→h n2 rstd2 gate→dgate dn2"),
    ("n2", "n1 rstd1 q→q_rot k→k_rot v o lse o_proj→h rstd2 dn2"),
    ("o_proj", "n1 rstd1 q→q_rot k→k_rot v o lse do"),
    ("o", "n1 rstd1 q→q_rot k→k_rot v o lse do dq_rot→dq dk_rot→dk dv"),
    ("q_rot", "n1 rstd1 dq_rot→dq dk_rot→dk dv"),
    ("q", "n1 rstd1 dq_rot→dq dk_rot→dk dv dn1"),
    ("k_rot", "n1 rstd1 dk_rot→dk dv dn1"),
    ("v", "n1 rstd1 dk_rot→dk dv dn1"),
    ("k", "n1 rstd1 dk_rot→dk dn1"),
];

#[test]
fn backward_of_a_block_holds_what_a_hand_written_one_would() {
    for block in BLOCKS {
        let zeros = block.zeros();
        let segment = block.segment(&zeros);
        let needs = segment.needs(true);
        let back = segment.plan_backward(&needs, None, &Scalar, LIMITS, LIMITS.tokens);

        let made = |step: &Action| match step {
            Action::Forward(o) => Some(VALUES[segment.graph.nodes[o.node].outputs[0].0]),
            _ => None,
        };
        // `down` and `y` are not made again. `o_proj` is, because `h` was not kept.
        let again: Vec<&str> = back.steps.iter().filter_map(made).collect();
        let want =
            ["n1", "q", "k", "v", "q_rot", "k_rot", "o", "o_proj", "h", "n2", "gate", "up", "act"];
        assert_eq!(again, want);

        let steps = (again.len()..back.steps.len()).filter_map(|i| alive(&segment, &back, i));
        let steps: Vec<(&str, String)> = steps.map(|(at, all)| (at, all.join(" "))).collect();
        let want = BACKWARD.into_iter().chain([("n1", "rstd1 dn1")]);
        assert_eq!(steps, want.map(|(at, all)| (at, all.to_string())).collect::<Vec<_>>());

        // The gradient's buffer is never copied, and placing the others loses nothing.
        let moved = |step: &Action| matches!(step, Action::Copy { .. } | Action::Add { .. });
        assert!(!back.steps.iter().any(moved));
        assert_eq!(back.arena as u64, back.live_at_peak.held());
    }
}

#[test]
fn the_fullest_step_of_a_block_is_the_backward_of_down() {
    for block in BLOCKS {
        let zeros = block.zeros();
        let segment = block.segment(&zeros);
        let back =
            segment.plan_backward(&segment.needs(true), None, &Scalar, LIMITS, LIMITS.tokens);
        let Block { hidden, ffn, heads, kv_heads, head_dim } = block;
        let cols = 4 * ffn // gate, up, act and its gradient
            + 3 * hidden // n1, h, n2
            + 2 * heads * head_dim // q, o
            + 2 * kv_heads * head_dim // k, v
            + heads // lse
            + 2; // rstd1, rstd2
        let values = LIMITS.tokens * cols;
        let scratch = back.live_at_peak[lowtide_memory::Category::Scratch];
        assert_eq!(back.live_at_peak.held(), values as u64 + scratch);
    }
}

/// What a block keeps under the store policy.
const KEPT: [&str; 13] =
    ["n1", "rstd1", "v", "q_rot", "k_rot", "o", "lse", "h", "n2", "rstd2", "gate", "up", "act"];

#[test]
fn storing_keeps_what_backward_reads_and_nothing_else() {
    for block in BLOCKS {
        let zeros = block.zeros();
        let segment = block.segment(&zeros);
        let needs = segment.needs(true);
        let keep = Keep::everything(&needs);
        let there = segment.plan_forward(Some(&keep), &Scalar, LIMITS, LIMITS.tokens);
        let back =
            segment.plan_backward(&needs, Some((&keep, &there)), &Scalar, LIMITS, LIMITS.tokens);
        assert!(back.steps.iter().all(|step| !matches!(step, Action::Forward(_))));

        let kept: Vec<usize> = (1..VALUES.len()).filter(|&v| needs.read[v]).collect();
        assert_eq!(kept.iter().map(|&v| VALUES[v]).collect::<Vec<_>>(), KEPT);
        let size = kept.iter().map(|&v| aligned(LIMITS.tokens * segment.graph.cols[v])).sum();
        assert_eq!((there.kept, back.kept), (size, size));
        for schedule in [&there, &back] {
            assert_eq!(schedule.arena as u64, schedule.live_at_peak.held());
        }
    }
}

#[test]
fn selecting_keeps_what_took_most_work_for_its_room_first() {
    for block in BLOCKS {
        let zeros = block.zeros();
        let segment = block.segment(&zeros);
        let needs = segment.needs(true);
        let picks = picks(&segment.graph, &needs, LIMITS);
        let mut kept: Vec<usize> = picks.iter().flat_map(|pick| pick.values.clone()).collect();
        let last = [["act"].as_slice(), &["n1", "rstd1"], &["n2", "rstd2"]].concat();
        assert_eq!(kept[kept.len() - 5..].iter().map(|&v| VALUES[v]).collect::<Vec<_>>(), last);
        kept.sort_unstable();
        assert_eq!(kept.iter().map(|&v| VALUES[v]).collect::<Vec<_>>(), KEPT);

        let worth = |pick: &Pick| pick.saved as f64 / pick.elements as f64;
        assert!(picks.windows(2).all(|two| worth(&two[0]) >= worth(&two[1])), "{picks:?}");
        let again = segment.plan_backward(&needs, None, &Scalar, LIMITS, LIMITS.tokens);
        let keep = Keep::everything(&needs);
        let there = segment.plan_forward(Some(&keep), &Scalar, LIMITS, LIMITS.tokens);
        let kept =
            segment.plan_backward(&needs, Some((&keep, &there)), &Scalar, LIMITS, LIMITS.tokens);
        let saved: u64 = picks.iter().map(|pick| pick.saved).sum();
        assert_eq!(again.work - kept.work, saved);
    }
}

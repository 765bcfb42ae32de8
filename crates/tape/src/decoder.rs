//! Running a program forward over one growing sequence: what was read stays read.
//!
//! Operations that look back keep a state for the sequence, lent to them at every call; attention
//! keeps keys and values. Rows come in calls of any length up to the plan's, and the logits of the
//! last row of each are the bits that an [`Executor`](crate::Executor) gives over the whole
//! sequence at once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use lowtide_adapter::Phase;
use lowtide_backend::{Backend, Span};
use lowtide_memory::{ByCategory, Category, Ledger, ReserveError};
use lowtide_tensor::{Float, Mat, MatMut};

use crate::operands::Memory;
use crate::reserved::{Fixed, Reserved};
use crate::schedule::{Schedule, aligned};
use crate::state::States;
use crate::{Cx, DecodeLimits, Program};

/// What a decoder will hold, before anything is reserved.
#[derive(Clone, Debug)]
pub struct DecodePlan {
    limits: DecodeLimits,
    forward: Vec<Arc<Schedule>>,
    /// Of each segment, where the state of each of its operations lies in the cache.
    states: Vec<Vec<Range<usize>>>,
    /// Elements of one `[rows, hidden]` value.
    boundary: usize,
    /// Elements of the arena: two boundary values, then the working set of whatever runs.
    arena: usize,
    vocab: usize,
    bytes: ByCategory,
    library_bytes: u64,
}

impl DecodePlan {
    /// Plans decoding within `limits`.
    ///
    /// # Panics
    /// When the limits allow no row, more rows than the context has or more tokens than positions
    /// can count, when an operation needs whole sequences, or when the program's parts disagree
    /// about the width of what flows between them.
    #[must_use]
    pub fn new<F: Float>(
        program: &Program<'_, F>,
        be: &dyn Backend<F>,
        limits: DecodeLimits,
    ) -> Self {
        let DecodeLimits { context, rows } = limits;
        assert!(u32::try_from(context).is_ok(), "a context of {context} tokens");
        assert!((1..=context).contains(&rows), "{rows} rows a call in a context of {context}");
        program.check_widths();
        let mut forward: Vec<Arc<Schedule>> = Vec::with_capacity(program.segments.len());
        let mut states = Vec::with_capacity(program.segments.len());
        let mut cache = 0;
        for segment in &program.segments {
            let schedule = segment.plan_decoding(be, limits);
            forward.push(match forward.last() {
                Some(last) if **last == schedule => Arc::clone(last),
                _ => Arc::new(schedule),
            });
            states.push(segment.states(limits, &mut cache));
        }
        let boundary = aligned(rows * program.hidden());
        let (head, head_library) = program.head.logits_elements(be, 1);
        let two = ByCategory::of(Category::Workspace, 2 * boundary as u64);
        let mut fullest = two + head;
        for schedule in &forward {
            let live = two + schedule.live_at_peak;
            if live.held() > fullest.held() {
                fullest = live;
            }
        }
        let arena = forward.iter().map(|s| 2 * boundary + s.arena).max().unwrap_or(0);
        let arena = arena.max(2 * boundary + usize::try_from(head.held()).expect("elements fit"));
        let vocab = program.head.weight.rows();
        // What is reserved but not alive at the fullest moment is the arena's packing loss.
        let elements = fullest
            .with(Category::Workspace, arena as u64 - fullest.held())
            .with(Category::Head, vocab as u64)
            .with(Category::KvCache, cache as u64)
            .with(Category::Adapter, program.fixed() as u64);
        let mut bytes = ByCategory::new();
        for (category, n) in elements.iter() {
            bytes[category] = n * size_of::<F>() as u64;
        }
        let library = forward.iter().map(|s| s.library_bytes).max().unwrap_or(0);
        let library_bytes = library.max(head_library) as u64;
        Self { limits, forward, states, boundary, arena, vocab, bytes, library_bytes }
    }

    /// Bytes the decoder will reserve, by category as alive at the fullest moment.
    #[must_use]
    pub fn bytes(&self) -> ByCategory {
        self.bytes
    }

    /// Bytes a library inside the backend allocates during one operation: held by nobody in
    /// between, charged as scratch all the same.
    #[must_use]
    pub fn library_bytes(&self) -> u64 {
        self.library_bytes
    }

    /// The longest sequence, and the most rows of a call.
    #[must_use]
    pub fn limits(&self) -> DecodeLimits {
        self.limits
    }
}

/// A program with the memory to read and continue one sequence.
pub struct Decoder<'p, 'w, F: Float> {
    program: &'p Program<'w, F>,
    be: &'p dyn Backend<F>,
    plan: DecodePlan,
    ranges: Vec<Range<usize>>,
    /// The arena, which is boundaries and working set, then the logits; and apart from it the
    /// cache.
    reserved: Reserved,
    fixed: Fixed,
    /// Of each segment, of each operation: the token whose state comes first.
    firsts: Vec<Vec<usize>>,
    /// Position of each row of a call.
    positions: Vec<u32>,
    tokens: usize,
    poison: bool,
}

impl<'p, 'w, F: Float> Decoder<'p, 'w, F> {
    /// Reserves what the plan says, for a sequence that is empty.
    ///
    /// # Errors
    /// [`ReserveError`] when the ledger or the system refuses; nothing stays reserved then.
    ///
    /// # Panics
    /// When the plan is for a program of another number of segments.
    pub fn reserve(
        program: &'p Program<'w, F>,
        be: &'p dyn Backend<F>,
        plan: DecodePlan,
        ledger: &mut Ledger,
    ) -> Result<Self, ReserveError> {
        let (planned, given) = (plan.forward.len(), program.segments.len());
        assert!(planned == given, "a plan for {planned} segments, a program of {given}");
        let (mut bytes, library) = (plan.bytes(), plan.library_bytes());
        let fixed = core::mem::take(&mut bytes[Category::Adapter]);
        let fixed = Fixed::reserve(program, fixed, ledger)?;
        let reserved = match Reserved::reserve(ledger, bytes, Category::KvCache, library) {
            Ok(reserved) => reserved,
            Err(error) => {
                fixed.release(ledger);
                return Err(error);
            }
        };
        let firsts = plan.states.iter().map(|states| alloc::vec![0; states.len()]).collect();
        let positions = Vec::with_capacity(plan.limits.rows);
        let ranges = program.param_ranges();
        let (tokens, poison) = (0, false);
        Ok(Self { program, be, plan, ranges, reserved, fixed, firsts, positions, tokens, poison })
    }

    /// Gives everything back.
    pub fn release(self, ledger: &mut Ledger) {
        self.reserved.release(ledger);
        self.fixed.release(ledger);
    }

    /// What goes with the parameters and is not trained, as [`Program::fixed_ranges`] divides it,
    /// to set.
    #[must_use]
    pub fn fixed_mut(&mut self) -> &mut [F] {
        self.fixed.all_mut()
    }

    /// Takes note that other parameters than before will be given, so that what is derived from
    /// them is derived again.
    pub fn params_changed(&mut self) {
        self.fixed.changed();
    }

    /// The plan it runs.
    #[must_use]
    pub fn plan(&self) -> &DecodePlan {
        &self.plan
    }

    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Fills memory with NaN before its first writer and after its last reader, so that a test can
    /// show that nothing reads what is not there.
    pub fn set_poison(&mut self, poison: bool) {
        self.poison = poison;
        if poison {
            self.reserved.arena.get_mut::<F>().fill(F::NAN);
        }
        if poison && self.is_empty() {
            self.reserved.apart.get_mut::<F>().fill(F::NAN);
        }
    }

    /// Forgets the whole sequence. What was read under other parameters is of no use under new
    /// ones.
    pub fn clear(&mut self) {
        self.tokens = 0;
        self.firsts.iter_mut().for_each(|firsts| firsts.fill(0));
    }

    /// Forgets all but the first `tokens` tokens, and says how many are left: as many, or none
    /// where an operation that looks back a window only has let go of what they need.
    ///
    /// # Panics
    /// When fewer were read.
    pub fn truncate(&mut self, tokens: usize) -> usize {
        assert!(tokens <= self.tokens, "{tokens} tokens of {}", self.tokens);
        let segments = self.program.segments.iter().zip(&self.firsts);
        let there = segments.into_iter().all(|(s, firsts)| s.reaches(tokens, firsts));
        if there && tokens > 0 {
            self.tokens = tokens;
        } else if tokens < self.tokens {
            self.clear();
        }
        self.tokens
    }

    /// Reads further tokens.
    ///
    /// # Panics
    /// When there is no token, or more than the plan has rows, or the context is full.
    pub fn read(&mut self, params: &[F], ids: &[u32]) {
        let DecodeLimits { context, rows } = self.plan.limits;
        let (count, past) = (ids.len(), self.tokens);
        assert!((1..=rows).contains(&count), "{count} tokens in a call of at most {rows}");
        assert!(count <= context - past, "{count} tokens after {past} in a context of {context}");
        self.positions.clear();
        self.positions.extend((past..past + count).map(|position| position as u32));
        self.forward(params, ids);
        self.tokens += count;
    }

    /// Reads further tokens and gives the logits of the last, `[V]`, to be used at will.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn extend(&mut self, params: &[F], ids: &[u32]) -> &mut [F] {
        self.read(params, ids);
        let count = ids.len();
        let (program, be, boundary) = (self.program, self.be, self.plan.boundary);
        let (arena, logits) = self.reserved.arena.get_mut::<F>().split_at_mut(self.plan.arena);
        let (boundaries, work) = arena.split_at_mut(2 * boundary);
        if self.poison {
            work.fill(F::NAN);
        }
        let top = &boundaries[program.segments.len() % 2 * boundary..];
        let hidden = program.hidden();
        let x = Mat::new(&top[..count * hidden], count, hidden);
        let out = MatMut::new(logits, 1, self.plan.vocab);
        program.head.logits(be, x, &[count as u32 - 1], out, work);
        logits
    }

    /// All segments; the input of segment `i` lies in boundary `i % 2`.
    fn forward(&mut self, params: &[F], ids: &[u32]) {
        let (program, hidden, count) = (self.program, self.program.hidden(), ids.len());
        let phase = if count == 1 && self.tokens > 0 { Phase::Decode } else { Phase::Prefill };
        let spans = [Span { start: 0, prompt_end: count, end: count }];
        let cx = Cx {
            be: self.be,
            spans: &spans,
            row0: 0,
            past: self.tokens,
            positions: &self.positions,
            seed: 0,
            counter: 0,
            phase,
        };
        let stale = self.fixed.take_stale();
        let (arena, boundary) = (self.reserved.arena.get_mut::<F>(), self.plan.boundary);
        let (boundaries, work) = arena[..self.plan.arena].split_at_mut(2 * boundary);
        let (even, odd) = boundaries.split_at_mut(boundary);
        let (mut from, mut to) = (even, odd);
        let x = MatMut::new(&mut from[..count * hidden], count, hidden);
        program.embedding.rows(self.be, ids, x);
        let cache = self.reserved.apart.get_mut::<F>();
        for (i, segment) in program.segments.iter().enumerate() {
            let params = &params[self.ranges[i].clone()];
            if stale {
                self.fixed.prepare(program, i, self.be, params, work);
            }
            if self.poison {
                work.fill(F::NAN);
                to.fill(F::NAN);
            }
            let (input, output) = (&*from, &mut *to);
            let (kept, gradient) = (&mut [][..], &mut [][..]);
            let mut memory = Memory { arena: &mut *work, kept, input, output, gradient };
            let states =
                States { ranges: &self.plan.states[i], firsts: &mut self.firsts[i], cache };
            let schedule = &self.plan.forward[i];
            let values = self.fixed.with(i, params);
            segment.decode(schedule, &cx, values, states, &mut memory, self.poison);
            core::mem::swap(&mut from, &mut to);
        }
    }
}

//! From logits to a token.
//!
//! In the order of Hugging Face transformers: the repetition penalty (CTRL, Keskar et al. 2019, as
//! it is computed there: over prompt and generated tokens, positive logits divided, negative ones
//! multiplied), then the temperature, then the `top_k` likeliest, then the fewest of these whose
//! probabilities reach `top_p`, then a draw. At temperature 0 the likeliest token after the penalty
//! is taken and nothing is drawn.
//!
//! Draw `n` of a text depends on the seed and on `n` alone.

use crate::SamplingError;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f64,
    /// Share of the probability from which a token is drawn, its likeliest part; 1 is all.
    pub top_p: f64,
    /// Number of likeliest tokens from which one is drawn; 0 is all.
    pub top_k: usize,
    /// Factor against tokens that were there before; 1 is none.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    /// Temperature 0.7 over the likeliest 0.95 of the 40 likeliest tokens, no penalty, seed 0.
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, top_k: 40, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, seed: 0 };

    /// Checks that every value is within its range.
    ///
    /// # Errors
    /// [`SamplingError`], naming the first that is not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let Self { temperature, top_p, repetition_penalty, .. } = *self;
        let checks = [
            (
                "temperature",
                temperature,
                (0.0..f64::INFINITY).contains(&temperature),
                "a finite number, 0 or more",
            ),
            ("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "a number above 0, at most 1"),
            (
                "repetition-penalty",
                repetition_penalty,
                (1e-3..=1e3).contains(&repetition_penalty),
                "a finite number above 0",
            ),
        ];
        match checks.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((field, value, _, expected)) => Err(SamplingError { field, value, expected }),
            None => Ok(()),
        }
    }

    /// The next token, after `draws` tokens were drawn. `seen` are the tokens so far, each a bit;
    /// `order` is room for as many ids as there are logits. `None` when no logit is a number.
    pub(crate) fn pick(
        &self,
        logits: &mut [f32],
        seen: &[u32],
        order: &mut [u32],
        draws: u64,
    ) -> Option<u32> {
        logits.iter_mut().filter(|l| l.is_nan()).for_each(|l| *l = f32::NEG_INFINITY);
        if self.repetition_penalty != 1.0 {
            self.penalise(logits, seen);
        }
        let best = likeliest(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        for (slot, id) in order.iter_mut().zip(0..) {
            *slot = id;
        }
        let falling =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let mut kept = order;
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, falling);
            kept = &mut kept[..self.top_k];
        }
        if self.top_p < 1.0 || kept.len() < logits.len() {
            kept.sort_unstable_by(falling);
        }
        // Weights are relative to the likeliest token, so that none overflows.
        let top = f64::from(logits[best as usize]);
        let weight = |id: &u32| ((f64::from(logits[*id as usize]) - top) / self.temperature).exp();
        let total: f64 = kept.iter().map(weight).sum();
        let mut sum = 0.0;
        let mut end = kept.len();
        if self.top_p < 1.0 {
            let reached = |id: &u32| {
                sum += weight(id);
                sum >= self.top_p * total
            };
            end = kept.iter().position(reached).map_or(end, |at| at + 1);
        }
        let kept = &kept[..end];
        let mut rest = uniform(self.seed, draws) * kept.iter().map(weight).sum::<f64>();
        let drawn = kept.iter().find(|id| {
            rest -= weight(id);
            rest < 0.0
        });
        Some(drawn.copied().unwrap_or(best))
    }

    fn penalise(&self, logits: &mut [f32], seen: &[u32]) {
        let penalty = self.repetition_penalty as f32;
        for (id, logit) in logits.iter_mut().enumerate() {
            if seen[id / 32] >> (id % 32) & 1 == 1 {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
}

/// The first of the largest logits, unless none is above negative infinity.
fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, most)| most) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

/// A number in `[0, 1)` for draw `n` (SplitMix64, Steele et al. 2014, at its `n`th step).
fn uniform(seed: u64, n: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let start = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(start.wrapping_add(GOLDEN.wrapping_mul(n.wrapping_add(1))));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;

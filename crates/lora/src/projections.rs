//! The random matrices that all sites of VeRA share, made anew from a key.
//!
//! They are those of Hugging Face PEFT, bit for bit: `vera_A [r, I]`, then `vera_B [O, r]`, with
//! `I` and `O` the largest of all adapted sites, both Kaiming-uniform with gain √2, drawn from one
//! Mersenne Twister (Matsumoto and Nishimura, 1998) as PyTorch's generator on the processor draws:
//! the lower 24 bits of each number. So an adapter that was saved without its matrices means the
//! same here and there.

use alloc::sync::Arc;

use lowtide_tensor::{Float, Mat};

/// `vera_A` and `vera_B` for the widest of all adapted sites.
#[derive(Clone, Debug, PartialEq)]
pub struct Projections<F = f32> {
    rank: usize,
    in_features: usize,
    out_features: usize,
    a: Arc<[F]>,
    b: Arc<[F]>,
}

impl<F: Float> Projections<F> {
    /// The matrices of `key` for inputs of at most `in_features` and outputs of at most
    /// `out_features`. Only the lower 32 bits of the key count.
    #[must_use]
    pub fn new(rank: usize, in_features: usize, out_features: usize, key: u64) -> Self {
        let mut draws = Draws::new(key);
        let a = draws.matrix([rank, in_features]).map(F::from_f32).collect();
        let b = draws.matrix([out_features, rank]).map(F::from_f32).collect();
        Self { rank, in_features, out_features, a, b }
    }

    /// The same `vera_A`, and of `vera_B` the rows that `order` names: for a base that keeps the
    /// outputs of a linear in another order than Hugging Face.
    ///
    /// # Panics
    /// When `order` names a row that is not there.
    #[must_use]
    pub fn with_rows(&self, order: &[usize]) -> Self {
        let rows = self.b(self.out_features);
        let b = order.iter().flat_map(|&row| rows.row(row)).copied().collect();
        Self { out_features: order.len(), a: Arc::clone(&self.a), b, ..*self }
    }

    /// Elements of `vera_B`.
    #[must_use]
    pub fn b_len(&self) -> usize {
        self.b.len()
    }

    /// Inner width of both.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements of both.
    #[must_use]
    pub fn len(&self) -> usize {
        self.a.len() + self.b.len()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part `[r, in_features]` of `vera_A` that a site of this width sees.
    ///
    /// # Panics
    /// When the site is wider than the matrices were made for.
    #[must_use]
    pub fn a(&self, in_features: usize) -> Mat<'_, F> {
        Mat::new(&self.a, self.rank, self.in_features).cols_range(0..in_features)
    }

    /// The part `[out_features, r]` of `vera_B` that a site of this width sees.
    ///
    /// # Panics
    /// When the site is wider than the matrices were made for.
    #[must_use]
    pub fn b(&self, out_features: usize) -> Mat<'_, F> {
        Mat::new(&self.b, self.out_features, self.rank).rows_range(0..out_features)
    }
}

/// The numbers of matrices, one after another, without holding any: to compare with.
#[derive(Debug)]
pub struct Draws {
    twister: Twister,
}

impl Draws {
    /// Those of `key`, of which only the lower 32 bits count: first come those of `vera_A`.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self { twister: Twister::new(key as u32) }
    }

    /// The numbers of the next matrix, of so many rows and columns, row by row. All must be taken
    /// before those of another.
    pub fn matrix(&mut self, [rows, cols]: [usize; 2]) -> impl Iterator<Item = f32> {
        let deviation = Float::sqrt(2.0_f64) / Float::sqrt(cols as f64);
        let bound = (Float::sqrt(3.0_f64) * deviation) as f32;
        (0..rows * cols).map(move |_| uniform(&mut self.twister, bound))
    }
}

/// Uniform in `±bound`. PyTorch computes `u · 2 bound - bound` in one rounding, with `u` a multiple
/// of `2⁻²⁴`: the same as one multiplication by `2 u - 1`, which is exact.
fn uniform(twister: &mut Twister, bound: f32) -> f32 {
    const HALF: i32 = 1 << 23;
    let low = (twister.next() & 0x00ff_ffff) as i32;
    bound * ((low - HALF) as f32 / HALF as f32)
}

/// Words of the state.
const WORDS: usize = 624;

/// MT19937.
#[derive(Debug)]
struct Twister {
    state: [u32; WORDS],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; WORDS];
        for at in 1..WORDS {
            let before = state[at - 1];
            let mixed = (before ^ (before >> 30)).wrapping_mul(1_812_433_253);
            state[at] = mixed.wrapping_add(at as u32);
        }
        Self { state, at: WORDS }
    }

    fn next(&mut self) -> u32 {
        if self.at == WORDS {
            self.twist();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for at in 0..WORDS {
            let joined =
                (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + 397) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Projections, Twister};

    #[test]
    fn the_generator_is_the_published_one() {
        let mut twister = Twister::new(5489);
        let first: [u32; 3] = core::array::from_fn(|_| twister.next());
        assert_eq!(first, [3_499_211_612, 581_869_302, 3_890_346_734]);
        // The number that the C++ standard names: the ten thousandth of the default seed.
        let mut twister = Twister::new(5489);
        let last = (0..10_000).map(|_| twister.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn the_matrices_are_those_of_pytorch() {
        // kaiming_uniform of [3, 7], then of [5, 3], from one generator with seed 3.
        let a = [
            0xbf6a_fd2c_u32,
            0xbf3a_f7cd,
            0xbecb_07a4,
            0xbf60_3b9a,
            0xbd57_4925,
            0xbf50_837d,
            0x3f00_dead,
            0x3ee7_0965,
            0x3e33_07b6,
            0x3f37_da0e,
            0xbdb9_b26f,
            0x3f0d_f6eb,
            0xbf25_fb7e,
            0xbe3a_d2ae,
            0xbf53_543a,
            0xbd99_f118,
            0xbf19_c503,
            0x3f54_ebef,
            0x3f24_a2ce,
            0x3f31_b077,
            0x3e8c_9aac,
        ];
        let b = [
            0xbf4e_8997_u32,
            0x3fa2_aa71,
            0xbfb0_a2b2,
            0xbf67_11d0,
            0xbf62_1e4d,
            0xbf16_11a1,
            0x3e90_610c,
            0xbf89_1ec8,
            0xbf8b_7575,
            0xbf2d_2442,
            0x3f5c_f7d3,
            0xbf82_909b,
            0xbfa2_5b06,
            0xbf9c_e417,
            0xbf32_2764,
        ];
        for key in [3, 3 + (1 << 32)] {
            let made = Projections::<f32>::new(3, 7, 5, key);
            assert!(made.a.iter().map(|x| x.to_bits()).eq(a), "vera_A of key {key}");
            assert!(made.b.iter().map(|x| x.to_bits()).eq(b), "vera_B of key {key}");
        }
        let made = Projections::<f32>::new(3, 7, 5, 3);
        assert_eq!((made.len(), made.rank()), (36, 3));
        assert_eq!(made.a(4).row(1)[3].to_bits(), a[10]);
        assert_eq!(made.b(2).row(1)[2].to_bits(), b[5]);
    }
}

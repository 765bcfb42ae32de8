//! Reverse-mode differentiation with a vector for every row of every value and every gradient.

use alloc::vec;
use alloc::vec::Vec;

use super::Recipe;
use super::ops::{Rows, sum};

/// What a graph gives when nothing is shared, reused or recomputed.
pub(super) struct Reference {
    pub(super) y: Vec<f64>,
    pub(super) dx: Vec<f64>,
    pub(super) grads: Vec<f64>,
}

/// All rows of a value or of its gradient.
type Value = Vec<Vec<f64>>;

impl Reference {
    pub(super) fn run(recipes: &[Recipe], x: &[f64], dy: &[f64], params: &[f64]) -> Self {
        let rows = |x: &[f64]| x.chunks(super::COLS).map(<[f64]>::to_vec).collect::<Value>();
        let mut values = vec![rows(x)];
        let (mut means, mut ranges, mut at) = (Vec::new(), Vec::new(), 0);
        for recipe in recipes {
            let range = at..at + if recipe.kind.trains() { recipe.cols } else { 0 };
            at = range.end;
            let row = |t| recipe.kind.row(&inputs(recipe, &values, t), &params[range.clone()]);
            let (y, mean): (Vec<_>, Vec<_>) = (0..values[0].len()).map(row).unzip();
            values.push(y);
            means.push(mean);
            ranges.push(range);
        }
        let zeros = |v: &Value| v.iter().map(|row| vec![0.0; row.len()]).collect();
        let mut wanted: Vec<Value> = values.iter().map(zeros).collect();
        wanted[recipes.len()] = rows(dy);
        let mut grads = vec![0.0; params.len()];
        for (n, recipe) in recipes.iter().enumerate().rev() {
            for t in 0..values[0].len() {
                let (x, p) = (inputs(recipe, &values, t), &params[ranges[n].clone()]);
                let (y, dy) = (&values[n + 1][t], wanted[n + 1][t].clone());
                let (dx, dp) = recipe.kind.row_vjp(&x, y, means[n][t], &dy, p);
                for (i, (v, dx)) in recipe.inputs.iter().zip(dx).enumerate() {
                    let first = if recipe.kind.sums(i) { 0 } else { t };
                    wanted[*v][first..=t].iter_mut().for_each(|row| add(row, &dx));
                }
                add(&mut grads[ranges[n].clone()], &dp);
            }
        }
        let y = values.pop().expect("a graph has an output").concat();
        Self { y, dx: wanted[0].concat(), grads }
    }
}

/// Row `t` of every input.
fn inputs(recipe: &Recipe, values: &[Value], t: usize) -> Rows {
    let row = |i: usize, v: usize| {
        let first = if recipe.kind.sums(i) { 0 } else { t };
        sum(values[v][first..=t].iter().map(Vec::as_slice))
    };
    core::array::from_fn(|i| recipe.inputs.get(i).map_or_else(Vec::new, |&v| row(i, v)))
}

fn add(into: &mut [f64], from: &[f64]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
}

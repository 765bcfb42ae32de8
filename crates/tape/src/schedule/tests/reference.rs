//! Reverse-mode differentiation with a vector for every value and every gradient.

use alloc::vec;
use alloc::vec::Vec;

use super::Recipe;
use super::ops::Rows;

/// What a graph gives when nothing is shared, reused or recomputed.
pub(super) struct Reference {
    pub(super) y: Vec<f64>,
    pub(super) dx: Vec<f64>,
    pub(super) grads: Vec<f64>,
}

impl Reference {
    pub(super) fn run(recipes: &[Recipe], x: &[f64], dy: &[f64], params: &[f64]) -> Self {
        let rows = x.len() / super::COLS;
        let mut all = Self { y: Vec::new(), dx: Vec::new(), grads: vec![0.0; params.len()] };
        for t in 0..rows {
            let row = t * super::COLS..(t + 1) * super::COLS;
            all.row(recipes, &x[row.clone()], &dy[row], params);
        }
        all
    }

    fn row(&mut self, recipes: &[Recipe], x: &[f64], dy: &[f64], params: &[f64]) {
        let mut values = vec![x.to_vec()];
        let (mut means, mut ranges, mut at) = (Vec::new(), Vec::new(), 0);
        for recipe in recipes {
            let range = at..at + if recipe.kind.trains() { recipe.cols } else { 0 };
            at = range.end;
            let (y, mean) = recipe.kind.row(&inputs(recipe, &values), &params[range.clone()]);
            values.push(y);
            means.push(mean);
            ranges.push(range);
        }
        let mut grads: Vec<Vec<f64>> = values.iter().map(|v| vec![0.0; v.len()]).collect();
        grads[recipes.len()] = dy.to_vec();
        for (n, recipe) in recipes.iter().enumerate().rev() {
            let (x, p) = (inputs(recipe, &values), &params[ranges[n].clone()]);
            let dy = grads[n + 1].clone();
            let (dx, dp) = recipe.kind.row_vjp(&x, &values[n + 1], means[n], &dy, p);
            for (v, dx) in recipe.inputs.iter().zip(dx) {
                add(&mut grads[*v], &dx);
            }
            add(&mut self.grads[ranges[n].clone()], &dp);
        }
        self.y.extend(values.pop().expect("a graph has an output"));
        self.dx.extend_from_slice(&grads[0]);
    }
}

fn inputs(recipe: &Recipe, values: &[Vec<f64>]) -> Rows {
    core::array::from_fn(|i| recipe.inputs.get(i).map_or_else(Vec::new, |&v| values[v].clone()))
}

fn add(into: &mut [f64], from: &[f64]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
}

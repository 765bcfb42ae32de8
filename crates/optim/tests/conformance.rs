//! Every optimizer through the suite that all of them must pass.

use lowtide_conformance::{optimizer, optimizer_at_rest};
use lowtide_optim::{AdamW, AdamW8, Lion, Lion8, Sgd, SparseThreshold, SparseTop};

const PLAIN: Sgd = Sgd { weight_decay: 0.1, momentum: 0.0 };

#[test]
fn adamw_conforms() {
    optimizer(&AdamW { weight_decay: 0.1, ..AdamW::default() });
    optimizer_at_rest(&AdamW::default());
}

#[test]
fn adamw8_conforms() {
    optimizer(&AdamW8(AdamW { weight_decay: 0.1, ..AdamW::default() }));
    optimizer_at_rest(&AdamW8::default());
}

#[test]
fn sgd_conforms() {
    optimizer(&PLAIN);
    optimizer_at_rest(&Sgd::default());
}

#[test]
fn sgd_with_momentum_conforms() {
    optimizer(&Sgd { momentum: 0.9, ..PLAIN });
    optimizer_at_rest(&Sgd { momentum: 0.9, ..Sgd::default() });
}

#[test]
fn lion_conforms() {
    optimizer(&Lion { weight_decay: 0.1, ..Lion::default() });
    optimizer_at_rest(&Lion::default());
}

#[test]
fn lion8_conforms() {
    optimizer(&Lion8(Lion { weight_decay: 0.1, ..Lion::default() }));
    optimizer_at_rest(&Lion8::default());
}

#[test]
fn updates_of_the_largest_conform() {
    let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
    optimizer(&SparseTop { inner: adamw, share: 0.3 });
    optimizer(&SparseTop { inner: AdamW8(adamw), share: 0.6 });
    optimizer(&SparseTop { inner: PLAIN, share: 0.01 });
    optimizer(&SparseTop { inner: Lion8(Lion::default()), share: 0.3 });
    optimizer(&SparseTop { inner: Sgd { momentum: 0.9, ..PLAIN }, share: 0.3 });
    optimizer_at_rest(&SparseTop { inner: AdamW8::default(), share: 0.1 });
}

#[test]
fn updates_above_a_threshold_conform() {
    let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
    optimizer(&SparseThreshold { inner: adamw, threshold: 1e-3 });
    optimizer(&SparseThreshold { inner: PLAIN, threshold: 1e-3 });
    optimizer(&SparseThreshold { inner: Lion::default(), threshold: 1e-3 });
    optimizer(&SparseThreshold { inner: Sgd { momentum: 0.9, ..PLAIN }, threshold: 1e-3 });
    optimizer_at_rest(&SparseThreshold { inner: AdamW::default(), threshold: 1e-3 });
}

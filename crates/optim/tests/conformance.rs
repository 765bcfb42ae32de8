//! Every optimizer through the suite that all of them must pass.

use lowtide_conformance::{optimizer, optimizer_at_rest};
use lowtide_optim::{AdamW, AdamW8, Sgd, SparseThreshold, SparseTop};

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
    optimizer(&Sgd { weight_decay: 0.1 });
    optimizer_at_rest(&Sgd::default());
}

#[test]
fn updates_of_the_largest_conform() {
    let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
    optimizer(&SparseTop { inner: adamw, share: 0.3 });
    optimizer(&SparseTop { inner: AdamW8(adamw), share: 0.6 });
    optimizer(&SparseTop { inner: Sgd { weight_decay: 0.1 }, share: 0.01 });
    optimizer_at_rest(&SparseTop { inner: AdamW8::default(), share: 0.1 });
}

#[test]
fn updates_above_a_threshold_conform() {
    let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
    optimizer(&SparseThreshold { inner: adamw, threshold: 1e-3 });
    optimizer(&SparseThreshold { inner: Sgd { weight_decay: 0.1 }, threshold: 1e-3 });
    optimizer_at_rest(&SparseThreshold { inner: AdamW::default(), threshold: 1e-3 });
}

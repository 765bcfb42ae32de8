//! Every optimizer through the suite that all of them must pass.

use lowtide_conformance::{optimizer, optimizer_at_rest};
use lowtide_optim::{AdamW, AdamW8, Sgd};

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

//! The figures that a whole run must show, on tiny models: the plan is the ledger, bits depend on
//! nothing but seed and data, both kinds of base are one, bad input leaves nothing behind.

mod families;
mod gguf;
mod plan_is_ledger;
mod support;

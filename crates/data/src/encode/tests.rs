//! Tests of encoding and of the loss masks.

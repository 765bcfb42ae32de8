//! Tests of the datasets.

//! Tests of the record forms.

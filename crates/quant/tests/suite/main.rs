//! Tests of the block formats, the packed view and the 8-bit maps.

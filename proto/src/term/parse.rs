//! From a query frame's JSON to a [`super::Term`]: straight from the simd-json tape.

//! Criterion benchmarks of the hot floors live under `benches/`; this library holds what they share.

//! One file a plugin. Their order is in `chain::ALL`.

pub mod namespace_lifecycle;

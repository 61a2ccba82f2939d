//! Upstream's limits on what expressions may cost.

/// What one evaluation of one expression may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all expressions that are evaluated for one object, or one policy, may cost together.
pub const RUNTIME_BUDGET: i64 = 10_000_000;
/// What a CRD's rule may be estimated to cost.
pub const STATIC_EXPRESSION_LIMIT: u64 = 10_000_000;
/// What all rules of a CRD may be estimated to cost together.
pub const STATIC_CRD_LIMIT: u64 = 100_000_000;
/// What the match conditions of one webhook or policy may cost together.
pub const MATCH_CONDITIONS_BUDGET: i64 = 2_500_000;
/// The largest request that a size can come from.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// The longest text that an operation may make.
pub(crate) const MAX_TEXT: usize = 16 * 1024 * 1024;
/// The longest list that an operation may make.
pub(crate) const MAX_ELEMENTS: usize = 1 << 20;
/// How many elements one evaluation may copy or compare beyond what upstream charges for.
pub(crate) const MAX_WORK: u64 = 20_000_000;

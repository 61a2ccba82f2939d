//! Pieces of validation that several kinds share.

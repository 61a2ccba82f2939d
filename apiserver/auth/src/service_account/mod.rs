//! Service-account tokens: the keys that sign and verify them, their claims, TokenRequest, and their authentication.

pub mod claims;
pub mod discovery;
pub mod keys;
pub mod request;
pub mod verify;

pub use claims::{Claims, Issuer};
pub use keys::{KeyError, Keys};
pub use request::TokenRequests;
pub use verify::ServiceAccountTokens;

//! Authentication beyond certificates and the cluster's own tokens: AuthenticationConfiguration with its JWT issuers and
//! anonymous paths, the old OIDC flags, the token webhook.

mod chain;
pub mod config;
pub mod issuer;
pub mod jwt;
pub mod webhook;

pub use chain::{chain, follow_cas};
pub use config::AuthenticationConfiguration;
pub use jwt::JwtTokens;
pub use webhook::TokenWebhook;

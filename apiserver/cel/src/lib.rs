//! CEL as Kubernetes v1.36 has it: expressions are parsed, type-checked, their cost is estimated, and they are evaluated on JSON
//! with a budget.
//!
//! It knows nothing of policies, webhooks or CRDs; [`rules`] is what CRDs' schemas share of it.

mod ast;
mod check;
mod compare;
pub mod composition;
pub mod conditions;
mod cost;
mod decl;
mod environment;
mod error;
mod eval;
mod functions;
mod lexer;
pub mod limits;
mod macros;
pub mod names;
mod parser;
pub mod policies;
mod program;
pub mod rules;
mod source;
mod types;
mod value;

pub use names::RESERVED;

pub use cost::Cost;
pub use decl::Decl;
pub use environment::Environment;
pub use error::EvalError;
pub use functions::authorizer::{Authorize, Authz, Decision, Question};
pub use program::{Activation, Budget, Program};
pub use source::CompileError;
pub use types::Type;
pub use value::{Lazy, Value};

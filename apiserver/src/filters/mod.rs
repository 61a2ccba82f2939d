//! The filter chain: everything that happens to a request before its handler, in one ordered table.
//!
//! A filter gets the request and the rest of the chain; it may answer itself, change the request, or look at the answer.

mod audit;
mod authentication;
mod authorization;
mod deadline;
mod impersonation;
mod in_flight;
mod observe;
mod panics;
mod priority_and_fairness;

pub(crate) use authorization::attributes;
pub use in_flight::Limits;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::request::Request;
use crate::response::Response;
use crate::routes;
use crate::server::Server;

/// One step of the chain.
pub struct Filter {
    /// Name, for logs and tests.
    pub name: &'static str,
    run: for<'a> fn(&'a Arc<Server>, Request, Next) -> BoxFuture<'a, Response>,
}

/// All filters, outermost first. The handler follows the last.
pub const CHAIN: &[Filter] = &[
    Filter {
        name: "panics",
        run: |s, r, n| Box::pin(panics::run(s, r, n)),
    },
    Filter {
        name: "observe",
        run: |s, r, n| Box::pin(observe::run(s, r, n)),
    },
    Filter {
        name: "deadline",
        run: |s, r, n| Box::pin(deadline::run(s, r, n)),
    },
    Filter {
        name: "authentication",
        run: |s, r, n| Box::pin(authentication::run(s, r, n)),
    },
    Filter {
        name: "audit",
        run: |s, r, n| Box::pin(audit::run(s, r, n)),
    },
    Filter {
        name: "impersonation",
        run: |s, r, n| Box::pin(impersonation::run(s, r, n)),
    },
    Filter {
        name: "priority-and-fairness",
        run: |s, r, n| Box::pin(priority_and_fairness::run(s, r, n)),
    },
    Filter {
        name: "authorization",
        run: |s, r, n| Box::pin(authorization::run(s, r, n)),
    },
];

/// The rest of the chain.
#[derive(Clone, Copy)]
pub struct Next(usize);

impl Next {
    /// Passes the request on.
    pub fn call(self, server: &Arc<Server>, request: Request) -> BoxFuture<'_, Response> {
        match CHAIN.get(self.0) {
            Some(filter) => (filter.run)(server, request, Next(self.0 + 1)),
            None => Box::pin(routes::dispatch(server, request)),
        }
    }
}

/// Runs a request through the whole chain and its handler.
pub fn handle(server: &Arc<Server>, request: Request) -> BoxFuture<'_, Response> {
    Next(0).call(server, request)
}

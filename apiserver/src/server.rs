//! The server: everything that serving a request may need, put together once.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keelson_admission::{Chain, Environment};
use keelson_api::status::{Qualified, Status};
use keelson_auth::authenticate::Authenticator;
use keelson_auth::rbac::Index;
use keelson_auth::service_account::{Issuer, TokenRequests};
use keelson_auth::{Attributes, Authorizer, Lookup};
use keelson_storage::{Cache, Store};
use tokio_util::sync::CancellationToken;

use crate::addresses::Addresses;
use crate::aggregation::Aggregation;
use crate::audit::Auditor;
use crate::discovery::Documents;
use crate::fairness::Fairness;
use crate::filters::{self, Limits};
use crate::health::{Health, Step};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::proxying::Backends;
use crate::request::Request;
use crate::resources::Resources;
use crate::response::ApiResult;

/// The API server.
pub struct Server {
    /// How it was asked to be.
    pub options: Options,
    /// What it serves.
    pub resources: Arc<Resources>,
    /// Where objects lie.
    pub store: Arc<dyn Store>,
    /// Where they are read from.
    pub cache: Cache,
    /// What decisions read of other objects.
    pub lookup: Arc<dyn Lookup>,
    /// Records what happens, where that is asked for.
    pub auditor: Option<Arc<Auditor>>,
    /// Finds out who asks.
    pub authenticator: Authenticator,
    /// Decides what they may do.
    pub authorizer: Arc<dyn Authorizer>,
    /// The RBAC rules, for escalation checks.
    pub rbac: Arc<Index>,
    /// Signs and verifies service-account tokens.
    pub issuer: Arc<Issuer>,
    /// Answers token requests.
    pub token_requests: TokenRequests,
    /// The admission chain.
    pub admission: Chain,
    /// What its plugins may use.
    pub environment: Environment,
    /// Allocates the addresses of Services.
    pub addresses: Addresses,
    /// Connections to kubelets and other backends.
    pub backends: Backends,
    /// Who else serves a part of the API.
    pub aggregation: Aggregation,
    /// Discovery documents; replaced when custom resources come and go.
    pub documents: ArcSwap<Documents>,
    /// Who may go first, and who has to wait.
    pub fairness: Fairness,
    /// Bounds on requests in flight.
    pub limits: Limits,
    /// Counters.
    pub metrics: Metrics,
    /// Health checks.
    pub health: Health,
    /// Steps of the start.
    pub steps: Steps,
    /// Ends watches when the server stops.
    pub stop: CancellationToken,
}

impl Server {
    /// Asks whether the caller of a request may also do something else with the same object.
    pub fn authorize(&self, request: &Request, verb: &str) -> ApiResult<()> {
        let attributes = Attributes {
            verb: verb.to_owned(),
            ..filters::attributes(request)
        };
        let answer = self.authorizer.authorize(&attributes);
        if answer.allowed() {
            return Ok(());
        }
        let what = Qualified::new(&attributes.api_group, &attributes.resource);
        Err(Status::forbidden(
            what,
            &attributes.name,
            attributes.forbidden_sentence(&answer.reason),
        ))
    }
}

/// Steps of the start that `/readyz` waits for.
pub struct Steps {
    /// The RBAC policy is stored.
    pub rbac: Step,
    /// The priority classes are stored.
    pub priority_classes: Step,
    /// What this server serves is registered.
    pub registration: Step,
    /// Everything else that every cluster has is stored.
    pub system_objects: Step,
}

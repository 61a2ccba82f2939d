//! Who sent a request: front proxy, client certificate, bearer token or nobody, in upstream's order.

use std::sync::Arc;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::user::User;
use keelson_api::status::Status;

pub mod front_proxy;
pub mod token;
pub mod x509;

pub use token::TokenAuthenticator;

/// How requests are authenticated.
#[derive(Default)]
pub struct Config {
    /// CAs of client certificates, PEM (`--client-ca-file`).
    pub client_ca_pem: Option<Vec<u8>>,
    /// The front proxy (`--requestheader-*`).
    pub front_proxy: Option<front_proxy::Config>,
    /// Bearer tokens, in the order they are tried.
    pub tokens: Vec<Arc<dyn TokenAuthenticator>>,
    /// Paths that may be read without credentials; everything else needs some.
    pub anonymous_paths: Vec<String>,
}

/// What a TLS connection's peer proved, worked out once per connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    client: Option<x509::Certified>,
    proxy: Option<x509::Certified>,
    presented: bool,
}

/// Finds out who sent a request.
pub struct Authenticator {
    client_ca: Option<x509::Authority>,
    front_proxy: Option<front_proxy::FrontProxy>,
    tokens: Vec<Arc<dyn TokenAuthenticator>>,
    anonymous_paths: Vec<String>,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Authenticated {
    /// The caller, with `system:authenticated` or `system:unauthenticated` among the groups.
    pub user: Arc<User>,
    /// Sent along with the answer (a `Warning` header), for tokens that live past what their client asked for.
    pub warning: Option<String>,
}

impl Authenticator {
    /// Builds the chain; fails on CA files that do not parse.
    pub fn new(config: Config) -> Result<Self, x509::X509Error> {
        let client_ca = config
            .client_ca_pem
            .as_deref()
            .map(x509::Authority::from_pem)
            .transpose()?;
        let front_proxy = config
            .front_proxy
            .map(front_proxy::FrontProxy::new)
            .transpose()?;
        Ok(Self {
            client_ca,
            front_proxy,
            tokens: config.tokens,
            anonymous_paths: config.anonymous_paths,
        })
    }

    /// What the presented certificate chain (leaf first) proves. Possession of the key was proved in the handshake.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Peer {
        if chain.is_empty() {
            return Peer::default();
        }
        let check = |authority: &x509::Authority| match authority.verify(chain) {
            Ok(certified) => Some(certified),
            Err(error) => {
                tracing::debug!(%error, "client certificate not accepted");
                None
            }
        };
        Peer {
            client: self.client_ca.as_ref().and_then(check),
            proxy: self
                .front_proxy
                .as_ref()
                .and_then(|proxy| check(proxy.authority())),
            presented: true,
        }
    }

    /// The caller of a request, or 401.
    pub async fn authenticate(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        path: &str,
    ) -> Result<Authenticated, Status> {
        let mut invalid = false;
        if let (Some(proxy), Some(certified)) = (&self.front_proxy, &peer.proxy)
            && certified.valid_now()
            && let Some(user) = proxy.user(&certified.user.name, headers)
        {
            return Ok(authenticated(Arc::new(user)));
        }
        if peer.presented {
            match &peer.client {
                Some(certified) if certified.valid_now() => {
                    return Ok(authenticated(certified.user.clone()));
                }
                _ => invalid = peer.proxy.is_none(),
            }
        }
        if let Some(bearer) = token::bearer(headers) {
            for authenticator in &self.tokens {
                match authenticator.authenticate(&bearer, &[]).await {
                    Ok(Some(found)) => {
                        return Ok(Authenticated {
                            warning: found.warning.clone(),
                            ..authenticated(found.user)
                        });
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "bearer token not accepted"),
                }
            }
            invalid = true;
        }
        // Bad credentials are refused even where none are needed, as upstream does.
        if !invalid && self.anonymous_paths.iter().any(|p| p == path) {
            return Ok(Authenticated {
                user: Arc::new(User::anonymous()),
                warning: None,
            });
        }
        Err(Status::unauthorized())
    }

    /// Removes the credentials from a request that is passed on to handlers or other servers.
    pub fn strip_credentials(&self, headers: &mut HeaderMap) {
        headers.remove(http::header::AUTHORIZATION);
        if let Some(proxy) = &self.front_proxy {
            proxy.strip(headers);
        }
        token::strip_websocket(headers);
    }

    /// The token authenticators, for TokenReview.
    pub fn tokens(&self) -> &[Arc<dyn TokenAuthenticator>] {
        &self.tokens
    }
}

/// Adds `system:authenticated`, unless the identity already is in one of the two groups.
fn authenticated(user: Arc<User>) -> Authenticated {
    use crate::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS};
    if user.in_group(ALL_AUTHENTICATED) || user.in_group(ALL_UNAUTHENTICATED) {
        return Authenticated {
            user,
            warning: None,
        };
    }
    let mut with_group = (*user).clone();
    let group = if user.name == ANONYMOUS {
        ALL_UNAUTHENTICATED
    } else {
        ALL_AUTHENTICATED
    };
    with_group.groups.push(group.to_owned());
    Authenticated {
        user: Arc::new(with_group),
        warning: None,
    }
}

//! Who sent a request: front proxy, client certificate, bearer token or nobody, in upstream's order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use crate::user::User;
use keelson_api::status::Status;

pub mod bootstrap;
pub mod front_proxy;
pub mod token;
pub mod token_file;
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
    /// Says instead of the list which paths those are, where a configuration file does.
    pub anonymous: Option<Anonymous>,
}

/// Says of a path whether it may be asked for without credentials; `None` leaves it to the list.
pub type Anonymous = Arc<dyn Fn(&str) -> Option<bool> + Send + Sync>;

/// What a TLS connection's peer proved, worked out once per connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    client: Option<x509::Certified>,
    proxy: Option<x509::Certified>,
    chain: Arc<[CertificateDer<'static>]>,
    /// Of the CAs that this was worked out with.
    generation: u64,
}

/// Finds out who sent a request.
pub struct Authenticator {
    client_ca: ArcSwapOption<x509::Authority>,
    front_proxy: ArcSwapOption<front_proxy::FrontProxy>,
    /// Counts the changes of the CAs.
    generation: AtomicU64,
    tokens: Vec<Arc<dyn TokenAuthenticator>>,
    anonymous_paths: Vec<String>,
    anonymous: Option<Anonymous>,
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
            client_ca: ArcSwapOption::from_pointee(client_ca),
            front_proxy: ArcSwapOption::from_pointee(front_proxy),
            generation: AtomicU64::new(0),
            tokens: config.tokens,
            anonymous_paths: config.anonymous_paths,
            anonymous: config.anonymous,
        })
    }

    /// Takes other CAs of client certificates; open connections are looked at again.
    pub fn replace_client_ca(&self, pem: &[u8]) -> Result<(), x509::X509Error> {
        let authority = x509::Authority::from_pem(pem)?;
        self.client_ca.store(Some(Arc::new(authority)));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Takes another front proxy's CAs, names and headers.
    pub fn replace_front_proxy(&self, config: front_proxy::Config) -> Result<(), x509::X509Error> {
        let proxy = front_proxy::FrontProxy::new(config)?;
        self.front_proxy.store(Some(Arc::new(proxy)));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// What the presented certificate chain (leaf first) proves. Possession of the key was proved in the handshake.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Peer {
        if chain.is_empty() {
            return Peer::default();
        }
        self.look_at(chain.iter().map(|c| c.clone().into_owned()).collect())
    }

    fn look_at(&self, chain: Arc<[CertificateDer<'static>]>) -> Peer {
        // Before the CAs: if they change in between, it is looked at once more.
        let generation = self.generation.load(Ordering::Acquire);
        let check = |authority: &x509::Authority| match authority.verify(&chain) {
            Ok(certified) => Some(certified),
            Err(error) => {
                tracing::debug!(%error, "client certificate not accepted");
                None
            }
        };
        Peer {
            client: self.client_ca.load().as_deref().and_then(check),
            proxy: self
                .front_proxy
                .load()
                .as_deref()
                .and_then(|proxy| check(proxy.authority())),
            chain,
            generation,
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
        let again;
        let current = peer.generation == self.generation.load(Ordering::Acquire);
        let peer = if peer.chain.is_empty() || current {
            peer
        } else {
            again = self.look_at(peer.chain.clone());
            &again
        };
        if let (Some(proxy), Some(certified)) = (self.front_proxy.load().as_deref(), &peer.proxy)
            && certified.valid_now()
            && let Some(user) = proxy.user(&certified.user.name, headers)
        {
            return Ok(authenticated(Arc::new(user)));
        }
        if !peer.chain.is_empty() {
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
        if !invalid && self.may_be_anonymous(path) {
            return Ok(Authenticated {
                user: Arc::new(User::anonymous()),
                warning: None,
            });
        }
        Err(Status::unauthorized())
    }

    fn may_be_anonymous(&self, path: &str) -> bool {
        self.anonymous
            .as_ref()
            .and_then(|says| says(path))
            .unwrap_or_else(|| self.anonymous_paths.iter().any(|p| p == path))
    }

    /// Removes the credentials from a request that is passed on to handlers or other servers.
    pub fn strip_credentials(&self, headers: &mut HeaderMap) {
        headers.remove(http::header::AUTHORIZATION);
        if let Some(proxy) = self.front_proxy.load().as_deref() {
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;
    use crate::user::{ALL_AUTHENTICATED, CREDENTIAL_ID};

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(
        ca: &CertifiedIssuer<'static, KeyPair>,
        name: &str,
        group: &str,
        last_year: i32,
    ) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        vec![params.signed_by(&key, ca).unwrap().der().clone()]
    }

    fn authenticator(
        client_ca: &CertifiedIssuer<'static, KeyPair>,
        proxy_ca: &CertifiedIssuer<'static, KeyPair>,
    ) -> Authenticator {
        Authenticator::new(Config {
            client_ca_pem: Some(client_ca.pem().into_bytes()),
            front_proxy: Some(front_proxy::Config::with_default_headers(
                proxy_ca.pem().into_bytes(),
                vec!["front-proxy-client".into()],
            )),
            tokens: vec![],
            anonymous_paths: vec!["/healthz".into()],
            anonymous: None,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn certificates_name_users_and_groups() {
        let (client_ca, proxy_ca) = (authority("clients"), authority("proxies"));
        let authenticator = authenticator(&client_ca, &proxy_ca);
        let peer = authenticator.peer(&leaf(&client_ca, "jane", "devs", 2100));
        let found = authenticator
            .authenticate(&peer, &HeaderMap::new(), "/api")
            .await
            .unwrap();
        assert_eq!(found.user.name, "jane");
        assert_eq!(found.user.groups, ["devs", ALL_AUTHENTICATED]);
        assert!(found.user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        for bad in [
            leaf(&client_ca, "jane", "devs", 2021),
            leaf(&authority("clients"), "jane", "devs", 2100),
            leaf(&client_ca, "", "devs", 2100),
        ] {
            let peer = authenticator.peer(&bad);
            // Bad credentials are refused even where none are needed.
            assert!(
                authenticator
                    .authenticate(&peer, &HeaderMap::new(), "/healthz")
                    .await
                    .is_err()
            );
        }
    }

    #[tokio::test]
    async fn nobody_may_read_the_health_paths_only() {
        let (client_ca, proxy_ca) = (authority("clients"), authority("proxies"));
        let authenticator = authenticator(&client_ca, &proxy_ca);
        let nobody = Peer::default();
        assert!(
            authenticator
                .authenticate(&nobody, &HeaderMap::new(), "/api")
                .await
                .is_err()
        );
        let found = authenticator
            .authenticate(&nobody, &HeaderMap::new(), "/healthz")
            .await
            .unwrap();
        assert_eq!(*found.user, User::anonymous());
    }

    #[tokio::test]
    async fn only_the_front_proxy_is_believed() {
        let (client_ca, proxy_ca) = (authority("clients"), authority("proxies"));
        let authenticator = authenticator(&client_ca, &proxy_ca);
        let mut headers = HeaderMap::new();
        headers.insert("X-Remote-User", HeaderValue::from_static("bob"));
        headers.insert("X-Remote-Group", HeaderValue::from_static("ops"));
        headers.insert("X-Remote-Extra-Scopes%2fx", HeaderValue::from_static("y"));
        let proxy = authenticator.peer(&leaf(&proxy_ca, "front-proxy-client", "", 2100));
        let found = authenticator
            .authenticate(&proxy, &headers, "/api")
            .await
            .unwrap();
        assert_eq!(
            (found.user.name.as_str(), found.user.groups[0].as_str()),
            ("bob", "ops")
        );
        assert_eq!(found.user.extra["scopes/x"], ["y"]);
        let other = authenticator.peer(&leaf(&proxy_ca, "somebody", "", 2100));
        assert!(
            authenticator
                .authenticate(&other, &headers, "/api")
                .await
                .is_err()
        );
        // A client of the other CA is itself, whatever it writes.
        let client = authenticator.peer(&leaf(&client_ca, "front-proxy-client", "devs", 2100));
        let found = authenticator
            .authenticate(&client, &headers, "/api")
            .await
            .unwrap();
        assert_eq!(found.user.name, "front-proxy-client");
        authenticator.strip_credentials(&mut headers);
        assert!(headers.is_empty());
    }
}

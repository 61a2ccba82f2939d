//! Puts the authenticators together, in upstream's order, and follows their files.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use keelson_auth::Lookup;
use keelson_auth::authenticate::bootstrap::BootstrapTokens;
use keelson_auth::authenticate::front_proxy;
use keelson_auth::authenticate::token_file::TokenFile;
use keelson_auth::authenticate::{Anonymous, Authenticator, Config, TokenAuthenticator};
use keelson_auth::service_account::{Issuer, ServiceAccountTokens};
use tokio_util::sync::CancellationToken;

use super::config::{self, AuthenticationConfiguration};
use super::{JwtTokens, TokenWebhook};
use crate::assemble::{AssembleError, WEBHOOK_PATIENCE};
use crate::following::Followed;
use crate::options::Options;
use crate::server::Server;
use crate::webhook_client::WebhookClient;

/// Paths that are answered without credentials.
const ANONYMOUS_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

fn failed(flag: &str) -> impl Fn(String) -> AssembleError + '_ {
    move |why| AssembleError::Identities(format!("--{flag}: {why}"))
}

/// The authenticators that the options ask for.
pub fn chain(
    options: &Options,
    issuer: &Arc<Issuer>,
    objects: &Arc<dyn Lookup>,
    stop: &CancellationToken,
) -> Result<Authenticator, AssembleError> {
    let asked = &options.authentication;
    let audiences = &options.api_audiences;
    let mut tokens: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &asked.token_file {
        let file = Arc::new(TokenFile::new(audiences.clone()));
        let following = file.clone();
        Followed::start(path, stop, move |text| following.replace(text))
            .map_err(failed("token-auth-file"))?;
        tokens.push(file);
    }
    tokens.push(Arc::new(ServiceAccountTokens::new(
        issuer.clone(),
        audiences.clone(),
        objects.clone(),
    )));
    if asked.bootstrap_tokens {
        let bootstrap = BootstrapTokens::new(objects.clone(), audiences.clone());
        tokens.push(Arc::new(bootstrap));
    }
    let anonymous = issuers(options, &mut tokens, stop)?;
    if let Some((file, ttl)) = &asked.webhook {
        let client = WebhookClient::load(file, WEBHOOK_PATIENCE)
            .map_err(failed("authentication-token-webhook-config-file"))?;
        let webhook = TokenWebhook::new(client, audiences.clone(), *ttl);
        tokens.push(Arc::new(webhook));
    }
    let paths = ANONYMOUS_PATHS.iter().filter(|_| asked.anonymous);
    Ok(Authenticator::new(Config {
        client_ca_pem: options.client_ca.clone(),
        front_proxy: options.front_proxy.clone(),
        tokens,
        anonymous_paths: paths.map(|p| (*p).to_owned()).collect(),
        anonymous,
    })?)
}

/// Adds the JWT issuers of the configuration's file or of the old flags; what the file says of anonymous requests.
fn issuers(
    options: &Options,
    tokens: &mut Vec<Arc<dyn TokenAuthenticator>>,
    stop: &CancellationToken,
) -> Result<Option<Anonymous>, AssembleError> {
    let asked = &options.authentication;
    let disallowed = options.service_account_issuers.clone();
    let jwt = Arc::new(JwtTokens::new(options.api_audiences.clone()));
    if let Some(oidc) = &asked.oidc {
        let config = AuthenticationConfiguration {
            jwt: vec![oidc.clone()],
            ..AuthenticationConfiguration::default()
        };
        config
            .check(&disallowed)
            .map_err(failed("oidc-issuer-url"))?;
        jwt.replace(&config);
        tokens.push(jwt);
        return Ok(None);
    }
    let Some(path) = &asked.config else {
        return Ok(None);
    };
    let anonymous: Arc<ArcSwapOption<config::Anonymous>> = Arc::default();
    let (following, said) = (jwt.clone(), anonymous.clone());
    let take = move |text: &[u8]| -> Result<(), String> {
        let config = AuthenticationConfiguration::parse(text, &disallowed)?;
        following.replace(&config);
        said.store(config.anonymous.map(Arc::new));
        Ok(())
    };
    Followed::start(path, stop, take).map_err(failed("authentication-config"))?;
    tokens.push(jwt);
    Ok(Some(Arc::new(move |path: &str| {
        anonymous.load().as_ref().map(|a| a.allows(path))
    })))
}

/// Follows the CAs of clients and front proxies. The tasks hold no more than a weak reference to the server.
pub fn follow_cas(server: &Arc<Server>) -> Result<(), AssembleError> {
    let asked = &server.options.authentication;
    if let Some(path) = &asked.client_ca_file {
        let weak = Arc::downgrade(server);
        let take = move |pem: &[u8]| match weak.upgrade() {
            Some(server) => server
                .authenticator
                .replace_client_ca(pem)
                .map_err(|e| e.to_string()),
            None => Ok(()),
        };
        Followed::start(path, &server.stop, take).map_err(failed("client-ca-file"))?;
    }
    if let (Some(path), Some(config)) = (&asked.front_proxy_ca_file, &server.options.front_proxy) {
        let (weak, config) = (Arc::downgrade(server), config.clone());
        let take = move |pem: &[u8]| match weak.upgrade() {
            Some(server) => server
                .authenticator
                .replace_front_proxy(front_proxy::Config {
                    client_ca_pem: pem.to_vec(),
                    ..config.clone()
                })
                .map_err(|e| e.to_string()),
            None => Ok(()),
        };
        Followed::start(path, &server.stop, take)
            .map_err(failed("requestheader-client-ca-file"))?;
    }
    Ok(())
}

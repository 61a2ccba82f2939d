//! The identity a controller acts with: its own service account in `kube-system`, or the manager's.
//!
//! With `--use-service-account-credentials` every controller asks for a token of `kube-system/<controller>` when it first
//! needs one and before it expires, so that it has only the rights of its own role. All of them share one connection pool.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use keelson_runtime::write;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client, Config};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;
use tracing::debug;

const NAMESPACE: &str = "kube-system";
/// How long tokens are asked for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long before its end a token is replaced.
const MARGIN: Duration = Duration::from_secs(600);

/// Makes clients for controllers.
pub struct Identities {
    manager: Client,
    /// The same server without any credentials, if controllers are to have their own.
    bare: Option<Client>,
}

impl Identities {
    /// Controllers act as the manager.
    pub fn shared(manager: Client) -> Self {
        Self {
            manager,
            bare: None,
        }
    }

    /// Controllers act as their own service accounts, at the server that `config` names.
    pub fn separate(
        manager: Client,
        mut config: Config,
    ) -> Result<Self, keelson_runtime::client::Error> {
        config.auth_info = kube::config::AuthInfo::default();
        let bare = keelson_runtime::client::from_config(config)?;
        Ok(Self {
            manager,
            bare: Some(bare),
        })
    }

    /// The client of the controller with this service account.
    pub fn client(&self, account: &'static str) -> Client {
        let Some(bare) = self.bare.clone() else {
            return self.manager.clone();
        };
        let tokens = Arc::new(Tokens {
            manager: self.manager.clone(),
            account,
            current: Mutex::new(None),
        });
        Client::new(
            tower::service_fn(move |request| {
                let (bare, tokens) = (bare.clone(), tokens.clone());
                async move { send(bare, tokens, request).await }
            }),
            "default",
        )
    }
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

struct Tokens {
    manager: Client,
    account: &'static str,
    current: Mutex<Option<Token>>,
}

impl Tokens {
    /// The token to use now; a new one if there is none or it is about to end. One request at a time asks.
    async fn header(&self) -> Result<HeaderValue, BoxError> {
        let mut current = self.current.lock().await;
        if let Some(token) = current
            .as_ref()
            .filter(|token| token.until > Instant::now())
        {
            return Ok(token.header.clone());
        }
        let token = self.request().await?;
        let header = token.header.clone();
        *current = Some(token);
        Ok(header)
    }

    async fn request(&self) -> Result<Token, BoxError> {
        let api = Api::<ServiceAccount>::namespaced(self.manager.clone(), NAMESPACE);
        let wanted = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = match api
            .create_token_request(self.account, &PostParams::default(), &wanted)
            .await
        {
            Err(error) if write::is_not_found(&error) => {
                let mut account = ServiceAccount::default();
                account.metadata.name = Some(self.account.to_owned());
                account.metadata.namespace = Some(NAMESPACE.to_owned());
                match api.create(&PostParams::default(), &account).await {
                    Ok(_) => {}
                    Err(error) if write::is_already_exists(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                api.create_token_request(self.account, &PostParams::default(), &wanted)
                    .await?
            }
            other => other?,
        };
        let (token, until) = answer
            .status
            .and_then(|status| Some((status.token?, status.expiration_timestamp?.0)))
            .ok_or("the API server answered a token request without a token")?;
        let left = until.as_second() - jiff::Timestamp::now().as_second();
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token))?;
        header.set_sensitive(true);
        debug!(account = self.account, "got a service-account token");
        Ok(Token {
            header,
            until: Instant::now() + left.saturating_sub(MARGIN).max(left / 2),
        })
    }

    async fn distrust(&self, header: &HeaderValue) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| token.header == header) {
            *current = None;
        }
    }
}

async fn send(
    bare: Client,
    tokens: Arc<Tokens>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let header = tokens.header().await?;
    request
        .headers_mut()
        .insert(http::header::AUTHORIZATION, header.clone());
    let answer = bare.send(request).await?;
    if answer.status() == StatusCode::UNAUTHORIZED {
        // The account was made anew, or the signing key replaced: the next try gets another token.
        tokens.distrust(&header).await;
    }
    Ok(answer)
}

//! TokenRequest: what may be asked for, and the token that comes of it.

use std::collections::HashSet;
use std::sync::Arc;

use keelson_api::field::{Error, Path};
use keelson_api::status::{Qualified, Status};
use serde_json::{Value, json};

use super::claims::{Bound, Claims, Issuer, Reference};
use super::verify::unix_now;
use crate::lookup::Lookup;

const KIND: Qualified<'static> = Qualified::new("authentication.k8s.io", "TokenRequest");
const SHORTEST: i64 = 10 * 60;
const LONGEST: i64 = 1 << 32;
/// What kubelets ask for in `kube-api-access` volumes: old clients that never reload a token get a year, and a warning.
const WARN_ONLY: i64 = 60 * 60 + 7;
const EXTENDED: i64 = 365 * 24 * 60 * 60;

/// How token requests are answered.
pub struct TokenRequests {
    /// Signs.
    pub issuer: Arc<Issuer>,
    /// The API server's own audiences, the default.
    pub audiences: Vec<String>,
    /// `--service-account-max-token-expiration` in seconds; none where it is not set.
    pub max_expiration: Option<i64>,
    /// `--service-account-extend-token-expiration`.
    pub extend_expiration: bool,
}

/// A checked request, ready for validating admission and then for `issue`.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The TokenRequest with its defaults, without status.
    pub request: Value,
    now: i64,
    account: Arc<Value>,
}

/// An answered request.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The TokenRequest with its status: holds a secret, never to be logged.
    pub response: Value,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
    /// For the audit log: which credential was issued.
    pub credential_id: String,
}

impl TokenRequests {
    /// Defaults and checks a TokenRequest for a service account.
    pub async fn prepare(
        &self,
        lookup: &dyn Lookup,
        namespace: &str,
        name: &str,
        mut request: Value,
    ) -> Result<Prepared, Status> {
        let metadata = Path::new("metadata");
        for (key, expected) in [("name", name), ("namespace", namespace)] {
            let given = text(&request, &format!("/metadata/{key}"));
            if !given.is_empty() && given != expected {
                let path = metadata.child(key);
                let sentence = format!("must match the service account {key} if specified");
                return Err(Status::invalid(
                    KIND,
                    name,
                    &[Error::invalid(&path, given, sentence)],
                ));
            }
        }
        let account = fetch(lookup, "serviceaccounts", namespace, name).await?;
        let uid = text(&account, "/metadata/uid").to_owned();
        let given = text(&request, "/metadata/uid");
        if !given.is_empty() && given != uid {
            return Err(Status::conflict(
                KIND,
                name,
                format!(
                    "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
                ),
            ));
        }
        if !request.is_object() {
            request = json!({});
        }
        let now = unix_now();
        for (key, value) in [
            ("name", name),
            ("namespace", namespace),
            ("uid", uid.as_str()),
        ] {
            request["metadata"][key] = json!(value);
        }
        request["metadata"]["creationTimestamp"] = json!(timestamp(now));
        if strings(&request["spec"]["audiences"]).is_empty() {
            request["spec"]["audiences"] = json!(self.audiences);
        }
        let seconds = request["spec"]["expirationSeconds"]
            .as_i64()
            .unwrap_or(3600);
        request["spec"]["expirationSeconds"] = json!(seconds);
        request["status"] = json!({});
        check_expiration(seconds)?;
        Ok(Prepared {
            request,
            now,
            account,
        })
    }

    /// Issues the token.
    pub async fn issue(&self, lookup: &dyn Lookup, prepared: Prepared) -> Result<Issued, Status> {
        let Prepared {
            mut request,
            now,
            account,
        } = prepared;
        let namespace = text(&account, "/metadata/namespace").to_owned();
        let name = text(&account, "/metadata/name").to_owned();
        let mut bound = Bound {
            namespace: namespace.clone(),
            serviceaccount: Reference {
                name: name.clone(),
                uid: text(&account, "/metadata/uid").to_owned(),
            },
            ..Bound::default()
        };
        bind(
            lookup,
            &request["spec"]["boundObjectRef"],
            &namespace,
            &name,
            &mut bound,
        )
        .await?;
        let mut warnings = Vec::new();
        let mut seconds = request["spec"]["expirationSeconds"]
            .as_i64()
            .unwrap_or(3600);
        if let Some(most) = self.max_expiration.filter(|most| seconds > *most) {
            warnings.push(format!(
                "requested expiration of {seconds} seconds shortened to {most} seconds"
            ));
            seconds = most;
            request["spec"]["expirationSeconds"] = json!(seconds);
        }
        let audiences = strings(&request["spec"]["audiences"]);
        let mut lifetime = seconds;
        let own: HashSet<&String> = self.audiences.iter().collect();
        if self.extend_expiration
            && bound.pod.is_some()
            && seconds == WARN_ONLY
            && audiences.iter().all(|a| own.contains(a))
        {
            lifetime = self
                .max_expiration
                .map_or(EXTENDED, |most| most.min(EXTENDED));
            bound.warnafter = Some(now + seconds);
        }
        let claims = Claims {
            aud: audiences,
            exp: Some(now + lifetime),
            iat: Some(now),
            iss: self.issuer.issuers.first().cloned().unwrap_or_default(),
            jti: random_id()?,
            kubernetes: Some(bound),
            nbf: Some(now),
            sub: crate::user::service_account_user(&namespace, &name),
            ..Claims::default()
        };
        let token = self
            .issuer
            .sign(&claims)
            .map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["kind"] = json!("TokenRequest");
        request["status"] =
            json!({"token": token, "expirationTimestamp": timestamp(now + seconds)});
        Ok(Issued {
            response: request,
            warnings,
            credential_id: format!("JTI={}", claims.jti),
        })
    }
}

fn check_expiration(seconds: i64) -> Result<(), Status> {
    let sentence = if seconds < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let spec = Path::new("spec");
    let path = spec.child("expirationSeconds");
    Err(Status::invalid(
        KIND,
        "",
        &[Error::invalid(&path, seconds, sentence)],
    ))
}

/// Binds the token to the object that is asked for; it dies with that.
async fn bind(
    lookup: &dyn Lookup,
    reference: &Value,
    namespace: &str,
    account: &str,
    bound: &mut Bound,
) -> Result<(), Status> {
    if reference.is_null() {
        return Ok(());
    }
    let (kind, name, wanted) = (
        text(reference, "/kind"),
        text(reference, "/name"),
        text(reference, "/uid"),
    );
    let version = text(reference, "/apiVersion");
    let object = match (version.contains('/'), kind) {
        (false, "Pod") => {
            let pod = fetch(lookup, "pods", namespace, name).await?;
            if text(&pod, "/spec/serviceAccountName") != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            bound.pod = Some(named(&pod));
            bound.node = node_of(lookup, text(&pod, "/spec/nodeName")).await?;
            pod
        }
        (false, "Node") => {
            let node = fetch(lookup, "nodes", "", name).await?;
            bound.node = Some(named(&node));
            node
        }
        (false, "Secret") => {
            let secret = fetch(lookup, "secrets", namespace, name).await?;
            bound.secret = Some(named(&secret));
            secret
        }
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let uid = text(&object, "/metadata/uid");
    if !wanted.is_empty() && wanted != uid {
        return Err(Status::conflict(
            Qualified::new("", kind),
            name,
            format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            ),
        ));
    }
    Ok(())
}

/// The node of a pod; one that is gone is still named.
async fn node_of(lookup: &dyn Lookup, name: &str) -> Result<Option<Reference>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let node = match lookup.get("nodes", "", name) {
        Some(node) => Some(node),
        None => lookup.live("nodes", "", name).await?,
    };
    Ok(Some(node.map_or_else(
        || Reference {
            name: name.to_owned(),
            uid: String::new(),
        },
        |node| named(&node),
    )))
}

async fn fetch(
    lookup: &dyn Lookup,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>, Status> {
    // From the store: pods and accounts are recreated under their names, and a kubelet asks for tokens of pods just bound.
    let found = lookup.live(resource, namespace, name).await?;
    found.ok_or_else(|| Status::not_found(Qualified::new("", resource), name))
}

fn named(object: &Value) -> Reference {
    Reference {
        name: text(object, "/metadata/name").to_owned(),
        uid: text(object, "/metadata/uid").to_owned(),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// A random UUID.
fn random_id() -> Result<String, Status> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Status::internal("no randomness"))?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::token::TokenAuthenticator;
    use crate::lookup::testing::Objects;
    use crate::service_account::{Keys, ServiceAccountTokens};

    const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

    fn setup() -> (TokenRequests, Arc<Objects>, ServiceAccountTokens) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut keys = Keys::new();
        keys.set_signing(key.serialize_pem().as_bytes()).unwrap();
        let issuer = Arc::new(Issuer {
            issuers: vec![AUDIENCE.into()],
            keys: Arc::new(keys),
        });
        let objects = Arc::new(Objects::default());
        objects.put(
            "serviceaccounts",
            &json!({"metadata": {"namespace": "ns", "name": "sa", "uid": "s1"}}),
        );
        objects.put("nodes", &json!({"metadata": {"name": "n", "uid": "n1"}}));
        objects.put(
            "pods",
            &json!({"metadata": {"namespace": "ns", "name": "p", "uid": "p1"}, "spec": {"serviceAccountName": "sa", "nodeName": "n"}}),
        );
        let requests = TokenRequests {
            issuer: issuer.clone(),
            audiences: vec![AUDIENCE.into()],
            max_expiration: None,
            extend_expiration: true,
        };
        let tokens = ServiceAccountTokens::new(issuer, vec![AUDIENCE.into()], objects.clone());
        (requests, objects, tokens)
    }

    async fn ask(
        requests: &TokenRequests,
        objects: &Objects,
        spec: Value,
    ) -> Result<Issued, Status> {
        let prepared = requests
            .prepare(objects, "ns", "sa", json!({"spec": spec}))
            .await?;
        requests.issue(objects, prepared).await
    }

    #[tokio::test]
    async fn a_pods_token_lives_as_long_as_the_pod() {
        let (requests, objects, tokens) = setup();
        let spec = json!({"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p1"}});
        let issued = ask(&requests, &objects, spec).await.unwrap();
        let token = issued.response["status"]["token"].as_str().unwrap();
        let identity = tokens.authenticate(token, &[]).await.unwrap().unwrap();
        assert_eq!(identity.user.name, "system:serviceaccount:ns:sa");
        assert_eq!(identity.user.uid, "s1");
        assert_eq!(
            identity.user.extra["authentication.kubernetes.io/node-name"],
            ["n"]
        );
        assert_eq!(
            identity.user.extra["authentication.kubernetes.io/pod-uid"],
            ["p1"]
        );
        let claims = tokens.claims(token).unwrap().unwrap();
        assert_eq!(claims.exp.unwrap() - claims.iat.unwrap(), EXTENDED);
        assert_eq!(
            claims.kubernetes.as_ref().unwrap().warnafter,
            claims.iat.map(|t| t + 3607)
        );
        objects.take("pods", "ns", "p");
        assert!(tokens.authenticate(token, &[]).await.is_err());
        objects.put(
            "pods",
            &json!({"metadata": {"namespace": "ns", "name": "p", "uid": "p2"}}),
        );
        assert!(tokens.authenticate(token, &[]).await.is_err());
    }

    #[tokio::test]
    async fn audiences_and_signatures_are_checked() {
        let (requests, objects, tokens) = setup();
        let issued = ask(&requests, &objects, json!({"audiences": ["vault"]}))
            .await
            .unwrap();
        let token = issued.response["status"]["token"].as_str().unwrap();
        assert!(
            tokens
                .authenticate(token, &[])
                .await
                .unwrap_err()
                .0
                .starts_with("token audiences [\"vault\"]")
        );
        let identity = tokens
            .authenticate(token, &["vault".into()])
            .await
            .unwrap()
            .unwrap();
        assert_eq!(identity.audiences, ["vault"]);
        let mut forged = token.to_owned();
        let last = forged.pop().unwrap();
        forged.push(if last == 'A' { 'B' } else { 'A' });
        // Flip something in the middle too: the last character may carry padding bits only.
        let middle = forged.len() - 20;
        let flipped = if &forged[middle..=middle] == "A" {
            "B"
        } else {
            "A"
        };
        forged.replace_range(middle..=middle, flipped);
        assert_eq!(
            tokens
                .authenticate(&forged, &["vault".into()])
                .await
                .unwrap_err()
                .0,
            "invalid signature"
        );
        let (_, _, others) = setup();
        assert!(others.authenticate(token, &["vault".into()]).await.is_err());
        assert!(
            tokens
                .authenticate("no.jwt.at-all", &[])
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn bounds_and_bound_objects_are_checked() {
        let (requests, objects, _) = setup();
        let refused = ask(&requests, &objects, json!({"expirationSeconds": 5}))
            .await
            .unwrap_err();
        assert_eq!(
            refused.message,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 5: \
             may not specify a duration less than 10 minutes"
        );
        let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
        assert_eq!(
            ask(&requests, &objects, bound("Pod", "none", ""))
                .await
                .unwrap_err()
                .code,
            404
        );
        assert_eq!(
            ask(&requests, &objects, bound("Pod", "p", "other"))
                .await
                .unwrap_err()
                .code,
            409
        );
        assert_eq!(
            ask(&requests, &objects, bound("ConfigMap", "p", ""))
                .await
                .unwrap_err()
                .code,
            400
        );
        let mut other = json!({"metadata": {"namespace": "ns", "name": "q", "uid": "q"}, "spec": {"serviceAccountName": "x"}});
        objects.put("pods", &other);
        assert_eq!(
            ask(&requests, &objects, bound("Pod", "q", ""))
                .await
                .unwrap_err()
                .code,
            400
        );
        other["spec"]["serviceAccountName"] = json!("sa");
        objects.put("pods", &other);
        assert!(
            ask(&requests, &objects, bound("Pod", "q", ""))
                .await
                .is_ok()
        );
    }
}

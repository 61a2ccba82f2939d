//! What a service-account token says, and how it is signed and read.

use std::sync::Arc;

use jsonwebtoken::Header;
use serde::{Deserialize, Serialize};

use super::keys::{KeyError, Keys};
use crate::authenticate::token::TokenError;
use crate::user::{
    CREDENTIAL_ID, NODE_NAME, NODE_UID, POD_NAME, POD_UID, User, service_account_groups,
    service_account_user,
};

/// A bound object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The node that the token, or the pod it is bound to, belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: Reference,
    /// When the client should have fetched another token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// The claims of a token, bound or legacy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The audiences. A single one may be a plain string.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub aud: Vec<String>,
    /// Not valid from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Who issued it.
    #[serde(default)]
    pub iss: String,
    /// The token's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(
        default,
        rename = "kubernetes.io",
        skip_serializing_if = "Option::is_none"
    )]
    pub kubernetes: Option<Bound>,
    /// Not valid before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// The user name.
    #[serde(default)]
    pub sub: String,
    /// Legacy tokens: the namespace.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/namespace",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_namespace: String,
    /// Legacy tokens: the secret.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/secret.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_secret: String,
    /// Legacy tokens: the service account.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_name: String,
    /// Legacy tokens: the service account's uid.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_uid: String,
}

impl Claims {
    /// The user of a bound token.
    pub fn user(&self, bound: &Bound) -> User {
        let account = &bound.serviceaccount;
        let mut user = User {
            name: service_account_user(&bound.namespace, &account.name),
            uid: account.uid.clone(),
            groups: service_account_groups(&bound.namespace),
            ..User::default()
        };
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        if let Some(pod) = &bound.pod {
            extra(POD_NAME, &pod.name);
            extra(POD_UID, &pod.uid);
        }
        if let Some(node) = &bound.node {
            extra(NODE_NAME, &node.name);
            extra(NODE_UID, &node.uid);
        }
        if !self.jti.is_empty() {
            extra(CREDENTIAL_ID, &format!("JTI={}", self.jti));
        }
        user
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Signs tokens and reads back signed ones.
pub struct Issuer {
    /// The issuers that are accepted; the first one signs (`--service-account-issuer`).
    pub issuers: Vec<String>,
    /// The keys.
    pub keys: Arc<Keys>,
}

impl Issuer {
    /// Signs claims as the first issuer.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let key = self.keys.signing().ok_or(KeyError::NoKey)?;
        let mut header = Header::new(key.algorithm);
        header.typ = None;
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding)
            .map_err(|e| KeyError::Unusable(e.to_string()))
    }

    /// The claims of a token that one of the keys signed. `Ok(None)` where it is no token of an accepted issuer.
    pub(crate) fn read(
        &self,
        token: &str,
        legacy_issuer: &str,
    ) -> Result<Option<Claims>, TokenError> {
        let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token)
        else {
            return Ok(None);
        };
        if unverified.iss != legacy_issuer && !self.issuers.contains(&unverified.iss) {
            return Ok(None);
        }
        let Ok(header) = jsonwebtoken::decode_header(token) else {
            return Ok(None);
        };
        let Some((message, signature)) = token.rsplit_once('.') else {
            return Ok(None);
        };
        let candidates = self
            .keys
            .verifying()
            .iter()
            .filter(|k| header.kid.as_ref().is_none_or(|kid| *kid == k.id));
        let mut found = false;
        for key in candidates {
            found = true;
            // The key decides on the algorithm, not the token.
            if header.alg == key.algorithm
                && jsonwebtoken::crypto::verify(
                    signature,
                    message.as_bytes(),
                    &key.decoding,
                    key.algorithm,
                )
                .unwrap_or(false)
            {
                return Ok(Some(unverified));
            }
        }
        Err(TokenError(
            if found {
                "invalid signature"
            } else {
                "invalid signature, no keys found"
            }
            .to_owned(),
        ))
    }
}

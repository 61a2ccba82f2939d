//! `apiserver.config.k8s.io` AuthenticationConfiguration: read strictly and checked as upstream does.
//!
//! CEL expressions are refused where they stand: a rule that isn't enforced would be worse than none.

use std::collections::BTreeSet;

use http::Uri;
use keelson_api::field::{Error, ErrorList, Path, aggregate};
use serde::Deserialize;

const NO_CEL: &str = "CEL expressions are not supported by this server";

/// The document.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthenticationConfiguration {
    /// The version of the form.
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    /// What it is.
    #[serde(default)]
    pub kind: String,
    /// Issuers of JSON web tokens.
    #[serde(default)]
    pub jwt: Vec<JwtAuthenticator>,
    /// Requests without credentials.
    pub anonymous: Option<Anonymous>,
}

/// Requests without credentials.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anonymous {
    /// Whether there are any.
    pub enabled: bool,
    /// If there are some: only these paths.
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

/// A path.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousCondition {
    /// The path, whole.
    pub path: String,
}

impl Anonymous {
    /// Whether a path may be asked for without credentials.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled
            && (self.conditions.is_empty() || self.conditions.iter().any(|c| c.path == path))
    }
}

/// One issuer, and what its tokens' claims mean.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct JwtAuthenticator {
    /// The issuer.
    pub issuer: IssuerConfig,
    /// What tokens must say.
    pub claim_validation_rules: Vec<ClaimRule>,
    /// What claims become.
    pub claim_mappings: ClaimMappings,
    /// What users must be.
    pub user_validation_rules: Vec<UserRule>,
    /// Signature algorithms; all that are known if empty. Not in files: the old flag's.
    #[serde(skip)]
    pub algorithms: Vec<String>,
}

/// An issuer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct IssuerConfig {
    /// What tokens name.
    pub url: String,
    /// Where its document is, if not below the URL.
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    /// CAs of the issuer's server, PEM; the system's if empty.
    pub certificate_authority: String,
    /// Whom tokens must be for.
    pub audiences: Vec<String>,
    /// `MatchAny`.
    pub audience_match_policy: String,
    /// Not supported.
    pub egress_selector_type: String,
}

/// What a token must say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ClaimRule {
    /// The claim.
    pub claim: String,
    /// Its value.
    pub required_value: String,
    /// CEL.
    pub expression: String,
    /// Said where the expression is false.
    pub message: String,
}

/// What a user must be.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserRule {
    /// CEL.
    pub expression: String,
    /// Said where the expression is false.
    pub message: String,
}

/// What claims become.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimMappings {
    /// The user's name.
    pub username: Mapping,
    /// Groups.
    pub groups: Mapping,
    /// The UID.
    pub uid: Mapping,
    /// More.
    pub extra: Vec<ExtraMapping>,
}

/// A claim, and what stands in front of its value.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// The claim.
    pub claim: String,
    /// The prefix.
    pub prefix: Option<String>,
    /// CEL.
    pub expression: String,
}

/// More on a user: CEL only.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ExtraMapping {
    /// The key.
    pub key: String,
    /// CEL.
    pub value_expression: String,
}

impl AuthenticationConfiguration {
    /// Reads YAML or JSON and checks it; `disallowed` are the issuers of service-account tokens.
    pub fn parse(text: &[u8], disallowed: &[String]) -> Result<Self, String> {
        let config: AuthenticationConfiguration =
            serde_norway::from_slice(text).map_err(|e| e.to_string())?;
        let versions = ["v1", "v1beta1", "v1alpha1"];
        let known = config
            .api_version
            .strip_prefix("apiserver.config.k8s.io/")
            .is_some_and(|version| versions.contains(&version));
        if config.kind != "AuthenticationConfiguration" || !known {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                config.kind, config.api_version
            ));
        }
        config.check(disallowed)?;
        Ok(config)
    }

    /// Checks it, wherever it came from.
    pub fn check(&self, disallowed: &[String]) -> Result<(), String> {
        let errors = validate(self, disallowed);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(aggregate(&errors))
        }
    }
}

fn validate(config: &AuthenticationConfiguration, disallowed: &[String]) -> ErrorList {
    let mut errors = ErrorList::new();
    let root = Path::new("jwt");
    let (mut issuers, mut discovered) = (BTreeSet::new(), BTreeSet::new());
    if config.jwt.len() > 64 {
        errors.push(Error::too_many(&root, config.jwt.len(), 64));
    }
    for (i, jwt) in config.jwt.iter().enumerate() {
        let path = root.index(i);
        let issuer = path.child("issuer");
        validate_issuer(&jwt.issuer, disallowed, &issuer, &mut errors);
        validate_rules(jwt, &path, &mut errors);
        validate_mappings(
            &jwt.claim_mappings,
            &path.child("claimMappings"),
            &mut errors,
        );
        if !issuers.insert(&jwt.issuer.url) {
            errors.push(Error::duplicate(&issuer.child("url"), &jwt.issuer.url));
        }
        let url = &jwt.issuer.discovery_url;
        if !url.is_empty() && !discovered.insert(url) {
            errors.push(Error::duplicate(&issuer.child("discoveryURL"), url));
        }
    }
    if let Some(anonymous) = &config.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        let paths: Vec<&str> = anonymous
            .conditions
            .iter()
            .map(|c| c.path.as_str())
            .collect();
        let path = Path::new("anonymous");
        let detail = "enabled should be set to true when conditions are defined";
        errors.push(Error::invalid(&path.child("conditions"), paths, detail));
    }
    errors
}

fn validate_issuer(
    issuer: &IssuerConfig,
    disallowed: &[String],
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let at = path.child("url");
    if issuer.url.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        if disallowed.contains(&issuer.url) {
            let detail = format!(
                "URL must not overlap with disallowed issuers: [{}]",
                disallowed.join(" ")
            );
            errors.push(Error::invalid(&at, &issuer.url, detail));
        }
        validate_url(&issuer.url, &at, errors);
    }
    if !issuer.discovery_url.is_empty() {
        let at = path.child("discoveryURL");
        if issuer.url.trim_end_matches('/') == issuer.discovery_url.trim_end_matches('/') {
            let detail = "discoveryURL must be different from URL";
            errors.push(Error::invalid(&at, &issuer.discovery_url, detail));
        }
        validate_url(&issuer.discovery_url, &at, errors);
    }
    let at = path.child("audiences");
    if issuer.audiences.is_empty() {
        errors.push(Error::required(
            &at,
            format!("at least one {at} is required"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (i, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(&at.index(i), ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&at.index(i), audience));
        }
    }
    let at = path.child("audienceMatchPolicy");
    let policy = issuer.audience_match_policy.as_str();
    if issuer.audiences.len() > 1 && policy != "MatchAny" {
        let detail = "audienceMatchPolicy must be MatchAny for multiple audiences";
        errors.push(Error::invalid(&at, policy, detail));
    } else if !["", "MatchAny"].contains(&policy) {
        let detail = "audienceMatchPolicy must be empty or MatchAny for single audience";
        errors.push(Error::invalid(&at, policy, detail));
    }
    if !issuer.certificate_authority.is_empty()
        && let Err(why) = super::issuer::roots(&issuer.certificate_authority)
    {
        errors.push(Error::invalid(
            &path.child("certificateAuthority"),
            "<omitted>",
            why,
        ));
    }
    if !issuer.egress_selector_type.is_empty() {
        let detail = "egress selectors are not supported by this server";
        errors.push(Error::invalid(
            &path.child("egressSelectorType"),
            &issuer.egress_selector_type,
            detail,
        ));
    }
}

fn validate_url(url: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let uri: Uri = match url.parse() {
        Ok(uri) => uri,
        Err(e) => return errors.push(Error::invalid(path, url, e.to_string())),
    };
    if uri.scheme_str() != Some("https") {
        errors.push(Error::invalid(path, url, "URL scheme must be https"));
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        let detail = "URL must not contain a username or password";
        errors.push(Error::invalid(path, url, detail));
    }
    if uri.query().is_some_and(|q| !q.is_empty()) {
        errors.push(Error::invalid(path, url, "URL must not contain a query"));
    }
    if url.contains('#') {
        errors.push(Error::invalid(path, url, "URL must not contain a fragment"));
    }
}

fn validate_rules(jwt: &JwtAuthenticator, path: &Path<'_>, errors: &mut ErrorList) {
    let at = path.child("claimValidationRules");
    let mut seen = BTreeSet::new();
    for (i, rule) in jwt.claim_validation_rules.iter().enumerate() {
        let at = at.index(i);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => {
                let detail = "claim and expression can't both be set";
                errors.push(Error::invalid(&at, &rule.claim, detail));
            }
            (true, true) => errors.push(Error::required(&at, "claim or expression is required")),
            (false, true) => {
                if !rule.message.is_empty() {
                    let detail = "may not be specified when claim is set";
                    errors.push(Error::invalid(&at.child("message"), &rule.message, detail));
                }
                if !seen.insert(&rule.claim) {
                    errors.push(Error::duplicate(&at.child("claim"), &rule.claim));
                }
            }
            (true, false) => {
                errors.push(Error::invalid(
                    &at.child("expression"),
                    &rule.expression,
                    NO_CEL,
                ));
            }
        }
    }
    let at = path.child("userValidationRules");
    for (i, rule) in jwt.user_validation_rules.iter().enumerate() {
        let at = at.index(i);
        let at = at.child("expression");
        if rule.expression.is_empty() {
            errors.push(Error::required(&at, "expression is required"));
        } else {
            errors.push(Error::invalid(&at, &rule.expression, NO_CEL));
        }
    }
}

fn validate_mappings(mappings: &ClaimMappings, path: &Path<'_>, errors: &mut ErrorList) {
    for (name, mapping) in [
        ("username", &mappings.username),
        ("groups", &mappings.groups),
        ("uid", &mappings.uid),
    ] {
        let at = path.child(name);
        if !mapping.expression.is_empty() {
            errors.push(Error::invalid(
                &at.child("expression"),
                &mapping.expression,
                NO_CEL,
            ));
        } else if mapping.claim.is_empty() {
            if name == "username" {
                errors.push(Error::required(&at, "claim or expression is required"));
            }
            if mapping.prefix.as_ref().is_some_and(|p| !p.is_empty()) {
                let detail = "non-empty claim name is required when prefix is set";
                errors.push(Error::required(&at.child("claim"), detail));
            }
        } else if mapping.prefix.is_none() && name != "uid" {
            let detail = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errors.push(Error::required(&at.child("prefix"), detail));
        }
    }
    let at = path.child("extra");
    for (i, extra) in mappings.extra.iter().enumerate() {
        let at = at.index(i);
        errors.push(Error::invalid(
            &at.child("valueExpression"),
            &extra.value_expression,
            NO_CEL,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<AuthenticationConfiguration, String> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{rest}"
        );
        let disallowed = ["https://kubernetes.default.svc".to_owned()];
        AuthenticationConfiguration::parse(text.as_bytes(), &disallowed)
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let jwt = |issuer: &str, username: &str| {
            format!("jwt: [{{issuer: {issuer}, claimMappings: {{username: {username}}}}}]")
        };
        let good = "{url: 'https://a.example', audiences: [x]}";
        let sub = "{claim: sub, prefix: ''}";
        assert!(parse(&jwt(good, sub)).is_ok());
        for (text, why) in [
            (
                jwt("{url: 'http://a', audiences: [x]}", sub),
                "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https",
            ),
            (
                jwt(
                    "{url: 'https://kubernetes.default.svc', audiences: [x]}",
                    sub,
                ),
                "jwt[0].issuer.url: Invalid value: \"https://kubernetes.default.svc\": URL must not overlap with disallowed issuers: [https://kubernetes.default.svc]",
            ),
            (
                jwt("{url: 'https://a', audiences: [x, y]}", sub),
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
            (
                jwt(good, "{claim: sub}"),
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), why);
        }
        assert!(parse("jwts: []").unwrap_err().contains("unknown field"));
    }

    #[test]
    fn anonymous_paths_are_as_said() {
        let config = parse("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap();
        let anonymous = config.anonymous.unwrap();
        assert!(anonymous.allows("/livez") && !anonymous.allows("/livez/ping"));
        let all = parse("anonymous: {enabled: true}")
            .unwrap()
            .anonymous
            .unwrap();
        assert!(all.allows("/api"));
        assert!(parse("anonymous: {enabled: false, conditions: [{path: /a}]}").is_err());
    }
}

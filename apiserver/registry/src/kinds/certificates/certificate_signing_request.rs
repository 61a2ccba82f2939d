//! CertificateSigningRequest: a request that a signer issue a certificate, its approval, and the certificate.
//!
//! Who may approve for which signer and with which subjects is for admission; signing is for controllers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use keelson_api::field::{Error, ErrorList, Path, quote};
use keelson_api::names::{self, NameRule};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::FromDer;

use crate::access::{Access, blank, copy, items_mut, remove, same, set};
use crate::columns::{AGE, Column, NAME, text};
use crate::print;
use crate::strategy::{Context, Strategy};
use crate::validation::unique;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const MIN_EXPIRATION: i64 = 600;
/// A domain, a slash, and a label and a domain with a dot between.
const MAX_SIGNER: usize = 253 + 1 + 253 + 1 + 63;

/// The rules of CertificateSigningRequest.
pub struct Rules;

/// The rules of its `status`, which signers write, and of its `approval`, which approvers write.
struct Part {
    approves: bool,
}

static STATUS: Part = Part { approves: false };
static APPROVAL: Part = Part { approves: true };

impl Strategy for Rules {
    fn subresource(&self, name: &str) -> Option<&'static dyn Strategy> {
        match name {
            "status" => Some(&STATUS),
            "approval" => Some(&APPROVAL),
            _ => None,
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_for_create(&self, request: &mut Value, context: &Context<'_>) {
        let user = context.user;
        for field in ["spec.username", "spec.uid", "spec.groups", "spec.extra"] {
            remove(request, field);
        }
        for (field, value) in [
            ("spec.username", json!(user.name)),
            ("spec.uid", json!(user.uid)),
            ("spec.groups", json!(user.groups)),
            ("spec.extra", json!(user.extra)),
        ] {
            if !blank(&value) {
                set(request, field, value);
            }
        }
        set(request, "status", json!({}));
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, _context: &Context<'_>) {
        copy(new, old, "spec");
        copy(new, old, "status");
    }

    fn validate(&self, request: &Value, _context: &Context<'_>) -> ErrorList {
        check(request)
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        check_update(new, old, false, false)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        &["spec", "status"]
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            AGE,
            text("SignerName", "Who should sign."),
            text("Requestor", "Who asks."),
            text("RequestedDuration", "How long the certificate should last."),
            text("Condition", "Whether it is approved and issued."),
        ];
        COLUMNS
    }

    fn row(&self, request: &Value, now: Timestamp) -> Vec<Value> {
        let lasts = request
            .int("spec.expirationSeconds")
            .map_or_else(|| "<none>".to_owned(), print::duration);
        vec![
            print::name(request),
            print::age(request, now),
            print::or(request.text("spec.signerName"), "<none>").into(),
            request.text("spec.username").into(),
            lasts.into(),
            state(request).into(),
        ]
    }
}

impl Strategy for Part {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        copy(new, old, "spec");
        if self.approves {
            date_conditions(new, old, context.now);
            let conditions = remove(new, "status.conditions");
            copy(new, old, "status");
            match conditions {
                Some(conditions) => set(new, "status.conditions", conditions),
                None => {
                    remove(new, "status.conditions");
                }
            }
        } else {
            for kind in ["Approved", "Denied"] {
                preserve(new, old, kind);
            }
            date_conditions(new, old, context.now);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, _context: &Context<'_>) -> ErrorList {
        check_update(new, old, self.approves, !self.approves)
    }

    fn reset_fields(&self) -> &'static [&'static str] {
        if self.approves {
            &["spec", "status.certificate"]
        } else {
            &["spec", "status.conditions"]
        }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        Rules.field_labels()
    }

    fn columns(&self) -> &'static [Column] {
        Rules.columns()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        Rules.row(object, now)
    }
}

/// The conditions of a type; there may be several where an old server let them in.
fn of_type<'v>(request: &'v Value, kind: &str) -> Vec<&'v Value> {
    request
        .items("status.conditions")
        .iter()
        .filter(|c| c.text("type") == kind)
        .collect()
}

/// Puts the old conditions of a type in the place of the new, unless some were added or taken away.
fn preserve(new: &mut Value, old: &Value, kind: &str) {
    let before = of_type(old, kind);
    if before.len() != of_type(new, kind).len() {
        return;
    }
    let places = items_mut(new, "status.conditions").filter(|c| c.text("type") == kind);
    for (place, condition) in places.zip(before) {
        *place = condition.clone();
    }
}

fn date_conditions(new: &mut Value, old: &Value, now: Timestamp) {
    // Times on the wire have whole seconds.
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for condition in items_mut(new, "status.conditions") {
        if !condition.has("lastUpdateTime") {
            set(condition, "lastUpdateTime", now.as_str());
        }
        if !condition.has("lastTransitionTime") {
            let since = of_type(old, condition.text("type"))
                .into_iter()
                .filter(|c| c.text("status") == condition.text("status"))
                .map(|c| c.text("lastTransitionTime"))
                .find(|time| !time.is_empty());
            set(condition, "lastTransitionTime", since.unwrap_or(&now));
        }
    }
}

fn state(request: &Value) -> String {
    let has = |kind: &str| !of_type(request, kind).is_empty();
    let mut state = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !request.text("status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

fn check(request: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (request.part("spec"), Path::new("spec"));
    if let Err(fault) = signed_request(spec.text("request")) {
        errors.push(Error::invalid(
            &path.child("request"),
            spec.part("request"),
            fault,
        ));
    }
    let (usages, at) = (spec.items("usages"), path.child("usages"));
    if usages.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    let usages = || usages.iter().map(|u| u.as_str().unwrap_or_default());
    for (i, usage) in usages().enumerate().filter(|(_, u)| !USAGES.contains(u)) {
        errors.push(Error::not_supported(&at.index(i), usage, USAGES));
    }
    unique(&mut errors, usages(), &at);
    let (signer, at) = (spec.text("signerName"), path.child("signerName"));
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(Error::invalid(&at, signer, detail));
    } else {
        signer_name(&mut errors, signer, &at);
    }
    if let Some(seconds) = spec
        .int("expirationSeconds")
        .filter(|s| *s < MIN_EXPIRATION)
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(
            &path.child("expirationSeconds"),
            seconds,
            detail,
        ));
    }
    conditions(&mut errors, request.items("status.conditions"));
    if let Err(fault) = certificates(request.text("status.certificate")) {
        errors.push(Error::invalid(
            &Path::new("status").child("certificate"),
            "<certificate data>",
            fault,
        ));
    }
    errors
}

/// Decodes a PEM request and checks that it is signed with the key it is for.
fn signed_request(encoded: &str) -> Result<(), String> {
    const NOT_A_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD
        .decode(encoded)
        .map_err(|_| NOT_A_REQUEST.to_owned())?;
    let (_, block) = parse_x509_pem(&pem).map_err(|_| NOT_A_REQUEST.to_owned())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(NOT_A_REQUEST.into());
    }
    let (rest, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|e| format!("x509: malformed certificate request: {e}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".into());
    }
    request.verify_signature().map_err(|e| format!("x509: {e}"))
}

/// A certificate, possibly followed by its chain.
fn certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    for block in Pem::iter_from_buffer(&pem).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {}",
                quote(&block.label)
            ));
        }
        block
            .parse_x509()
            .map_err(|e| format!("x509: malformed certificate: {e}"))?;
        blocks += 1;
    }
    if blocks == 0 {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    Ok(())
}

fn signer_name(errors: &mut ErrorList, signer: &str, path: &Path<'_>) {
    if signer.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let parts = signer.split_once('/').filter(|(_, p)| !p.contains('/'));
    let Some((domain, name)) = parts else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(path, signer, detail));
        return;
    };
    if domain.len() > 253 {
        errors.push(Error::too_long(path, 253));
    }
    labels(errors, domain, names::dns1123_label, path);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, detail));
    }
    labels(errors, name, names::dns1123_subdomain, path);
    if signer.len() > MAX_SIGNER {
        errors.push(Error::too_long(path, MAX_SIGNER));
    }
}

/// The faults of the first label that has any: those of the others would read the same.
fn labels(errors: &mut ErrorList, whole: &str, check: fn(&str) -> names::Faults, path: &Path<'_>) {
    let found = whole
        .split('.')
        .map(|label| (label, check(label)))
        .find(|(_, faults)| !faults.is_empty());
    if let Some((label, faults)) = found {
        for fault in faults {
            let detail = format!("validating label {}: {fault}", quote(label));
            errors.push(Error::invalid(path, whole, detail));
        }
    }
}

fn conditions(errors: &mut ErrorList, list: &[Value]) {
    let status = Path::new("status");
    let path = status.child("conditions");
    let mut seen = BTreeSet::new();
    for (i, condition) in list.iter().enumerate() {
        let (at, kind) = (path.index(i), condition.text("type"));
        if kind.is_empty() {
            errors.push(Error::required(&at.child("type"), ""));
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        crate::validation::required_one_of(
            errors,
            condition.text("status"),
            allowed,
            &at.child("status"),
        );
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && seen.contains(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(Error::invalid(&path, kind, detail));
        }
        if !seen.insert(kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
    }
}

fn check_update(new: &Value, old: &Value, may_approve: bool, may_issue: bool) -> ErrorList {
    let mut errors = check(new);
    let status = Path::new("status");
    let path = status.child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(new, kind).len() < of_type(old, kind).len() {
            let detail = format!("updates may not remove a condition of type {}", quote(kind));
            errors.push(Error::forbidden(&path, detail));
        }
    }
    let guarded: &[&str] = if may_approve {
        &[]
    } else {
        &["Approved", "Denied"]
    };
    for kind in guarded {
        let (before, after) = (of_type(old, kind), of_type(new, kind));
        let changed = before.len() == after.len()
            && !before.iter().zip(&after).all(|(old, new)| same(old, new));
        let verb = match () {
            () if after.len() > before.len() => "add",
            () if changed => "modify",
            () => continue,
        };
        let detail = format!("updates may not {verb} a condition of type {}", quote(kind));
        errors.push(Error::forbidden(&path, detail));
    }
    let (before, after) = (
        old.text("status.certificate"),
        new.text("status.certificate"),
    );
    if before != after {
        let at = status.child("certificate");
        if !may_issue {
            let detail = "updates may not set certificate content";
            errors.push(Error::forbidden(&at, detail));
        } else if !before.is_empty() {
            let detail = "updates may not modify existing certificate content";
            errors.push(Error::forbidden(&at, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::UserInfo;

    fn request() -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec!["a.example".into()])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        json!({"metadata": {"name": "a"}, "spec": {
            "request": STANDARD.encode(pem),
            "signerName": "example.com/signer",
            "usages": ["client auth"],
            "username": "forged",
        }})
    }

    fn shown(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_are_checked() {
        let context = Context::at(Timestamp::UNIX_EPOCH);
        assert_eq!(shown(Rules.validate(&request(), &context)), [""; 0]);
        for (field, value, want) in [
            (
                "request",
                json!("bm90IHBlbQ=="),
                "spec.request: Invalid value: \"bm90IHBlbQ==\": PEM block type must be CERTIFICATE REQUEST",
            ),
            ("usages", json!([]), "spec.usages: Required value"),
            (
                "usages",
                json!(["any", "any"]),
                "spec.usages[1]: Duplicate value: \"any\"",
            ),
            ("signerName", json!(""), "spec.signerName: Required value"),
            (
                "signerName",
                json!("example.com"),
                "spec.signerName: Invalid value: \"example.com\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ),
            (
                "signerName",
                json!("example/a"),
                "spec.signerName: Invalid value: \"example\": should be a domain with at least two segments separated by dots",
            ),
            (
                "expirationSeconds",
                json!(599),
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ),
        ] {
            let mut bad = request();
            bad["spec"][field] = value;
            assert_eq!(shown(Rules.validate(&bad, &context)), [want]);
        }
    }

    #[test]
    fn a_request_signed_with_another_key_is_refused() {
        let mut bad = request();
        let mut der = {
            let pem = STANDARD.decode(bad.text("spec.request")).unwrap();
            parse_x509_pem(&pem).unwrap().1.contents
        };
        let last = der.len() - 1;
        der[last] ^= 1;
        let body = STANDARD.encode(der);
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        );
        bad["spec"]["request"] = STANDARD.encode(pem).into();
        let found = shown(Rules.validate(&bad, &Context::at(Timestamp::UNIX_EPOCH)));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("spec.request: Invalid value"));
    }

    #[test]
    fn who_asks_is_recorded_and_only_approvers_approve() {
        let groups = ["system:authenticated".to_owned()];
        let mut context = Context::at(Timestamp::UNIX_EPOCH);
        context.user = UserInfo {
            name: "jane",
            groups: &groups,
            ..UserInfo::default()
        };
        let mut old = request();
        Rules.prepare_for_create(&mut old, &context);
        assert_eq!(old["spec"]["username"], "jane");
        assert_eq!(old["spec"]["groups"][0], "system:authenticated");
        assert_eq!(state(&old), "Pending");

        let mut new = old.clone();
        set(
            &mut new,
            "status.conditions",
            json!([{"type": "Approved", "status": "True"}]),
        );
        let mut by_signer = new.clone();
        STATUS.prepare_for_update(&mut by_signer, &old, &context);
        assert_eq!(
            shown(STATUS.validate_update(&by_signer, &old, &context)),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        APPROVAL.prepare_for_update(&mut new, &old, &context);
        assert_eq!(
            shown(APPROVAL.validate_update(&new, &old, &context)),
            [""; 0]
        );
        assert_eq!(
            new["status"]["conditions"][0]["lastUpdateTime"],
            "1970-01-01T00:00:00Z"
        );
        assert_eq!(state(&new), "Approved");
        assert_eq!(
            shown(APPROVAL.validate_update(&old, &new, &context)),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
            ]
        );
    }
}

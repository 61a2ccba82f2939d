//! The authorizer: questions are built step by step, and asked with `check`.

use std::sync::Arc;

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// Who answers an expression's questions.
pub trait Authorize: Send + Sync {
    /// Whether it is allowed; the error is that of an authorizer that could not answer.
    fn check(&self, question: &Question) -> Decision;
}

/// What an expression asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The service account (namespace, name) that is asked about; the request's user where there is none.
    pub service_account: Option<(String, String)>,
    /// The path, for questions about paths.
    pub path: Option<String>,
    /// The verb.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The field selector.
    pub field_selector: String,
    /// The label selector.
    pub label_selector: String,
}

/// What the answer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// The authorizer, a question that is being built, or an answer.
pub struct Authz {
    stage: Stage,
    by: Arc<dyn Authorize>,
    question: Question,
    decision: Decision,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
    Decision,
}

impl Authz {
    /// The value of the variable `authorizer`.
    pub fn authorizer<'a>(by: Arc<dyn Authorize>) -> Value<'a> {
        made(Authz {
            stage: Stage::Authorizer,
            by,
            question: Question::default(),
            decision: Decision::default(),
        })
    }

    /// The value of the variable `authorizer.requestResource`.
    pub fn resource<'a>(by: Arc<dyn Authorize>, question: Question) -> Value<'a> {
        made(Authz {
            stage: Stage::Resource,
            by,
            question,
            decision: Decision::default(),
        })
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => "kubernetes.authorization.Authorizer",
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => "kubernetes.authorization.ResourceCheck",
            Stage::Decision => "kubernetes.authorization.Decision",
        }
    }

    fn with(&self, stage: Stage, change: impl FnOnce(&mut Question)) -> Authz {
        let mut question = self.question.clone();
        change(&mut question);
        Authz {
            stage,
            by: self.by.clone(),
            question,
            decision: Decision::default(),
        }
    }
}

fn made<'a>(authz: Authz) -> Value<'a> {
    Value::Special(Special::Authz(Arc::new(authz)))
}

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "path",
        path,
        &[(
            "authorizer_path",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck",
        )],
    ),
    (
        "group",
        group,
        &[(
            "authorizer_group",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck",
        )],
    ),
    (
        "serviceAccount",
        service_account,
        &[(
            "authorizer_serviceaccount",
            "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        )],
    ),
    (
        "resource",
        resource,
        &[(
            "groupcheck_resource",
            "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "subresource",
        subresource,
        &[(
            "resourcecheck_subresource",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "namespace",
        namespace,
        &[(
            "resourcecheck_namespace",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "name",
        name,
        &[(
            "resourcecheck_name",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "fieldSelector",
        field_selector,
        &[(
            "authorizer_fieldselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "labelSelector",
        label_selector,
        &[(
            "authorizer_labelselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "check",
        check,
        &[
            (
                "pathcheck_check",
                "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision",
            ),
            (
                "resourcecheck_check",
                "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision",
            ),
        ],
    ),
    (
        "errored",
        errored,
        &[(
            "decision_errored",
            "kubernetes.authorization.Decision.() -> bool",
        )],
    ),
    (
        "error",
        error,
        &[(
            "decision_error",
            "kubernetes.authorization.Decision.() -> string",
        )],
    ),
    (
        "allowed",
        allowed,
        &[(
            "decision_allowed",
            "kubernetes.authorization.Decision.() -> bool",
        )],
    ),
    (
        "reason",
        reason,
        &[(
            "decision_reason",
            "kubernetes.authorization.Decision.() -> string",
        )],
    ),
];

fn step<'a>(
    args: &[Value<'a>],
    from: Stage,
    to: Stage,
    set: impl FnOnce(&mut Question, &str),
) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Authz(authz)), Value::String(text)] if authz.stage == from => {
            Ok(made(authz.with(to, |question| set(question, text))))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn path<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Authorizer, Stage::Path, |q, text| {
        q.path = Some(text.to_owned())
    })
}

fn group<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Authorizer, Stage::Group, |q, text| {
        q.group = text.to_owned()
    })
}

fn service_account<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [
            Value::Special(Special::Authz(authz)),
            Value::String(namespace),
            Value::String(name),
        ] if authz.stage == Stage::Authorizer => {
            let bad = |text: &str| !keelson_api::names::dns1123_subdomain(text).is_empty();
            let fault = bad(namespace) || bad(name);
            if fault {
                return Err(EvalError::failed(format!(
                    "Invalid service account {}/{}",
                    &**namespace, &**name
                )));
            }
            let account = (namespace.to_string(), name.to_string());
            Ok(made(authz.with(Stage::Authorizer, |q| {
                q.service_account = Some(account)
            })))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn resource<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Group, Stage::Resource, |q, text| {
        q.resource = text.to_owned()
    })
}

fn subresource<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Resource, Stage::Resource, |q, text| {
        q.subresource = text.to_owned()
    })
}

fn namespace<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Resource, Stage::Resource, |q, text| {
        q.namespace = text.to_owned()
    })
}

fn name<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Resource, Stage::Resource, |q, text| {
        q.name = text.to_owned()
    })
}

fn field_selector<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Resource, Stage::Resource, |q, text| {
        q.field_selector = text.to_owned()
    })
}

fn label_selector<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    step(args, Stage::Resource, Stage::Resource, |q, text| {
        q.label_selector = text.to_owned()
    })
}

fn check<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Authz(authz)), Value::String(verb)]
            if matches!(authz.stage, Stage::Path | Stage::Resource) =>
        {
            let mut asked = authz.with(Stage::Decision, |q| q.verb = verb.to_string());
            asked.decision = asked.by.check(&asked.question);
            Ok(made(asked))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, EvalError> {
    match args {
        [Value::Special(Special::Authz(authz))] if authz.stage == Stage::Decision => {
            Ok(&authz.decision)
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn errored<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(decision(args)?.error.is_some()))
}

fn error<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(
        decision(args)?.error.clone().unwrap_or_default(),
    ))
}

fn allowed<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(decision(args)?.allowed))
}

fn reason<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::string(decision(args)?.reason.as_str()))
}

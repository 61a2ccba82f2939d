//! What a ValidatingAdmissionPolicy says of a request: the decision of each validation, and audit annotations.

use keelson_cel::Value as CelValue;
use keelson_cel::composition::{Expression, Inputs, MAX_MESSAGE, Scope};
use keelson_cel::limits::RUNTIME_BUDGET;
use keelson_cel::policies::Purpose;
use keelson_registry::access::Access;
use serde_json::Value;

use super::{Common, ignores_failure};

/// The reason of a denial that names none.
const DEFAULT_REASON: &str = "Invalid";

/// A compiled policy.
pub(crate) struct Policy {
    common: Common,
    ignores_failure: bool,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// What a validation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The request may pass.
    Admit,
    /// It may not.
    Deny {
        /// Why.
        message: String,
        /// The reason in the Status.
        reason: String,
    },
}

/// What becomes of an audit annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Annotation {
    /// It is published under this key.
    Publish(String, String),
    /// It has no value.
    Exclude,
    /// It denies the request.
    Error(String),
}

/// All that a policy says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Of each validation.
    pub decisions: Vec<Decision>,
    /// For the audit log.
    pub annotations: Vec<Annotation>,
}

impl Policy {
    /// Compiles a policy. What is wrong in it is told when it is evaluated.
    pub(crate) fn compile(policy: &Value) -> Policy {
        let common = Common::compile(policy);
        let compile = |purpose, text: &str| common.composition.compile(purpose, text);
        let validations = policy
            .items("spec.validations")
            .iter()
            .map(|v| Validation {
                expression: compile(Purpose::Validation, v.text("expression")),
                message: v.text("message").trim().to_owned(),
                message_expression: Some(v.text("messageExpression"))
                    .filter(|text| !text.is_empty())
                    .map(|text| compile(Purpose::Message, text)),
                reason: Some(v.text("reason"))
                    .filter(|reason| !reason.is_empty())
                    .unwrap_or(DEFAULT_REASON)
                    .to_owned(),
            })
            .collect();
        let annotations = policy
            .items("spec.auditAnnotations")
            .iter()
            .map(|a| {
                let expression = compile(Purpose::AuditAnnotation, a.text("valueExpression"));
                (a.text("key").to_owned(), expression)
            })
            .collect();
        Policy {
            common,
            ignores_failure: ignores_failure(policy),
            validations,
            annotations,
        }
    }

    /// What the policy says.
    pub(crate) fn evaluate(&self, inputs: &Inputs<'_>) -> Verdict {
        match self.common.hold(inputs, self.ignores_failure) {
            Ok(true) => {}
            Ok(false) => return Verdict::default(),
            Err(why) => return self.failed(why),
        }
        let (results, remaining) = match self.results(inputs) {
            Ok(results) => results,
            Err(why) => return self.failed(why),
        };
        let plain = Inputs {
            authorizer: None,
            ..inputs.clone()
        };
        let messages = self.messages(&plain, remaining);
        let decisions = self
            .validations
            .iter()
            .zip(results)
            .enumerate()
            .map(|(i, (validation, result))| match (result, &messages) {
                (Err(why), _) => self.error(why),
                (Ok(_), Err(why)) => self.error(format!("failed messageExpression: {why}")),
                (Ok(true), _) => Decision::Admit,
                (Ok(false), Ok(messages)) => Decision::Deny {
                    message: validation.message(messages[i].as_deref()),
                    reason: validation.reason.clone(),
                },
            })
            .collect();
        match self.annotate(&plain) {
            Ok(annotations) => Verdict {
                decisions,
                annotations,
            },
            Err(why) => self.failed(why),
        }
    }

    /// Whether each validation holds, and what is left of the budget.
    #[expect(clippy::type_complexity, reason = "a list of results beside a number")]
    fn results(&self, inputs: &Inputs<'_>) -> Result<(Vec<Result<bool, String>>, i64), String> {
        let scope = Scope::new(&self.common.composition, inputs);
        let mut remaining = RUNTIME_BUDGET;
        let mut results = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            let result = scope
                .evaluate(&validation.expression, &mut remaining)
                .map_err(|out| out.to_string())?;
            results.push(result.map(|value| value.as_bool() == Some(true)));
        }
        Ok((results, remaining))
    }

    /// What the message expressions say, where they say something usable.
    fn messages(
        &self,
        inputs: &Inputs<'_>,
        mut remaining: i64,
    ) -> Result<Vec<Option<String>>, String> {
        let scope = Scope::new(&self.common.composition, inputs);
        let mut messages = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            let Some(expression) = &validation.message_expression else {
                messages.push(None);
                continue;
            };
            let result = scope
                .evaluate(expression, &mut remaining)
                .map_err(|out| out.to_string())?;
            let text = match &result {
                Ok(value) => value.as_str().map(str::trim),
                Err(why) => {
                    tracing::debug!(%why, "error while evaluating messageExpression");
                    None
                }
            };
            let usable =
                |text: &&str| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
            messages.push(text.filter(usable).map(str::to_owned));
        }
        Ok(messages)
    }

    fn annotate(&self, inputs: &Inputs<'_>) -> Result<Vec<Annotation>, String> {
        if self.annotations.is_empty() {
            return Ok(Vec::new());
        }
        let scope = Scope::new(&self.common.composition, inputs);
        let mut remaining = RUNTIME_BUDGET;
        let mut annotations = Vec::with_capacity(self.annotations.len());
        for (key, expression) in &self.annotations {
            let result = scope
                .evaluate(expression, &mut remaining)
                .map_err(|out| out.to_string())?;
            annotations.push(match result {
                Ok(CelValue::Null) => Annotation::Exclude,
                Ok(value) => match value.as_str().map(str::trim) {
                    Some("") => Annotation::Exclude,
                    Some(text) => Annotation::Publish(key.clone(), text.to_owned()),
                    None => Annotation::Error(format!(
                        "valueExpression '{}' resulted in unsupported return type. Return type must be either string or null.",
                        expression.text
                    )),
                },
                Err(_) if self.ignores_failure => Annotation::Exclude,
                Err(why) => Annotation::Error(why),
            });
        }
        Ok(annotations)
    }

    fn error(&self, message: String) -> Decision {
        if self.ignores_failure {
            return Decision::Admit;
        }
        Decision::Deny {
            message,
            reason: DEFAULT_REASON.to_owned(),
        }
    }

    fn failed(&self, why: String) -> Verdict {
        Verdict {
            decisions: vec![self.error(why)],
            annotations: Vec::new(),
        }
    }
}

impl Validation {
    fn message(&self, evaluated: Option<&str>) -> String {
        match evaluated {
            Some(text) => text.to_owned(),
            None if !self.message.is_empty() => self.message.clone(),
            None => format!("failed expression: {}", self.expression.text.trim()),
        }
    }
}

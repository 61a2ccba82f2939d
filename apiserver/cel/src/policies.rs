//! The expressions of admission policies: what they may name, and what they must result in.
//!
//! A policy's variables are compiled in their order; each is a field of `variables` in all that follow. Evaluation is the
//! admission plugins'.

use std::sync::{Arc, LazyLock};

use crate::conditions::request;
use crate::decl::Decl;
use crate::environment::Environment;
use crate::program::Program;
use crate::source::CompileError;
use crate::types::Type;

/// What an expression of a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Whether a policy is about a request.
    MatchCondition,
    /// Whether a request is in order.
    Validation,
    /// What is said of a request that is not.
    Message,
    /// What an audit annotation says.
    AuditAnnotation,
    /// A variable of others.
    Variable,
    /// The apply configuration that a mutation applies.
    ApplyConfiguration,
    /// The patch that a mutation makes.
    JsonPatch,
}

impl Purpose {
    /// Whether `authorizer` may be named.
    fn authorizes(self) -> bool {
        self != Purpose::Message
    }

    fn patches(self) -> bool {
        matches!(self, Purpose::ApplyConfiguration | Purpose::JsonPatch)
    }

    /// What upstream says of a result of another type, if it is one.
    fn refuses(self, output: &Type) -> Option<String> {
        let wanted = match self {
            Purpose::Variable => return None,
            Purpose::AuditAnnotation => {
                let good = matches!(output, Type::String | Type::Null);
                return (!good).then(|| {
                    format!("must evaluate to one of [string null_type] but got {output}")
                });
            }
            Purpose::MatchCondition | Purpose::Validation => Type::Bool,
            Purpose::Message => Type::String,
            Purpose::ApplyConfiguration => Type::object("Object"),
            Purpose::JsonPatch => Type::list(Type::object("JSONPatch")),
        };
        (*output != wanted).then(|| format!("must evaluate to {wanted} but got {output}"))
    }
}

/// The declared type of `namespaceObject`, of which upstream leaves parts out.
pub fn namespace() -> Arc<Decl> {
    static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
        let (text, time) = (Decl::string, Decl::timestamp);
        let texts = || Decl::list(text());
        let metadata = Decl::object(
            "kubernetes.NamespaceMetadata",
            &[
                ("name", text()),
                ("generateName", text()),
                ("namespace", text()),
                ("labels", Decl::map(text())),
                ("annotations", Decl::map(text())),
                ("UID", text()),
                ("creationTimestamp", time()),
                ("deletionGracePeriodSeconds", Decl::integer()),
                ("deletionTimestamp", time()),
                ("generation", Decl::integer()),
                ("resourceVersion", text()),
                ("finalizers", texts()),
            ],
        );
        let condition = Decl::object(
            "kubernetes.NamespaceCondition",
            &[
                ("status", text()),
                ("type", text()),
                ("lastTransitionTime", time()),
                ("message", text()),
                ("reason", text()),
            ],
        );
        let status = Decl::object(
            "kubernetes.NamespaceStatus",
            &[("conditions", Decl::list(condition)), ("phase", text())],
        );
        let spec = Decl::object("kubernetes.NamespaceSpec", &[("finalizers", texts())]);
        Decl::object(
            "kubernetes.Namespace",
            &[("metadata", metadata), ("spec", spec), ("status", status)],
        )
    });
    NAMESPACE.clone()
}

/// Compiles the expressions of one policy.
#[derive(Clone)]
pub struct Compiler {
    environment: Environment,
}

impl Compiler {
    /// Without variables; `params` says whether the policy takes parameters.
    #[must_use]
    pub fn new(params: bool) -> Compiler {
        let environment = Environment::base()
            .variable("object", Decl::dynamic())
            .variable("oldObject", Decl::dynamic())
            .variable("namespaceObject", namespace())
            .variable("request", request());
        let environment = if params {
            environment.variable("params", Decl::dynamic())
        } else {
            environment
        };
        Compiler { environment }
    }

    /// For checks against the types that a policy is about: of the object, and if the policy takes parameters, theirs where it is
    /// known. `variables` are there, and there are none yet.
    #[must_use]
    pub fn typed(object: Arc<Decl>, params: Option<Option<Arc<Decl>>>) -> Compiler {
        let mut environment = Environment::base()
            .variable("namespaceObject", namespace())
            .variable("request", request())
            .variable("object", object.clone())
            .variable("oldObject", object)
            .typed(
                "authorizer",
                Type::object("kubernetes.authorization.Authorizer"),
            )
            .composing();
        if let Some(params) = params {
            environment = environment.variable("params", params.unwrap_or_else(Decl::dynamic));
        }
        Compiler { environment }
    }

    /// Checks an expression, whatever it results in.
    pub fn check(&self, expression: &str) -> Result<Program, CompileError> {
        self.environment.compile(expression)
    }

    /// Checks a variable, and lets the expressions after it name it, also where it is wrong.
    pub fn check_variable(&mut self, name: &str, expression: &str) {
        let program = self.check(expression).ok();
        self.environment
            .compose(name, program.as_ref().map(Program::output));
    }

    /// With `variables`, of which there are none yet.
    #[must_use]
    pub fn composing(self) -> Compiler {
        Compiler {
            environment: self.environment.composing(),
        }
    }

    /// Compiles a variable, and lets the expressions after it name it, also where it is wrong.
    pub fn variable(&mut self, name: &str, expression: &str) -> Result<Program, String> {
        let program = self.compile(Purpose::Variable, expression);
        self.environment
            .compose(name, program.as_ref().ok().map(Program::output));
        program
    }

    /// Compiles an expression, or says in upstream's words why it can't be what it is for.
    pub fn compile(&self, purpose: Purpose, expression: &str) -> Result<Program, String> {
        let mut environment = self.environment.clone();
        if purpose.authorizes() {
            let check = Type::object("kubernetes.authorization.ResourceCheck");
            environment = environment
                .typed(
                    "authorizer",
                    Type::object("kubernetes.authorization.Authorizer"),
                )
                .typed("authorizer.requestResource", check);
        }
        if purpose.patches() {
            environment = environment.patches();
        }
        let program = environment
            .compile(expression)
            .map_err(|error| format!("compilation failed: {error}"))?;
        match purpose.refuses(program.output()) {
            None => Ok(program),
            Some(why) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(compiler: &Compiler, purpose: Purpose, expression: &str) -> String {
        compiler.compile(purpose, expression).unwrap_err()
    }

    #[test]
    fn results_must_fit_the_purpose() {
        let compiler = Compiler::new(false);
        for (purpose, good, bad, why) in [
            (
                Purpose::Validation,
                "object.x > 1",
                "1",
                "must evaluate to bool but got int",
            ),
            (
                Purpose::Message,
                "'a' + string(object.x)",
                "true",
                "must evaluate to string but got bool",
            ),
            (
                Purpose::AuditAnnotation,
                "null",
                "1",
                "must evaluate to one of [string null_type] but got int",
            ),
            (
                Purpose::ApplyConfiguration,
                "Object{spec: Object.spec{replicas: 1}}",
                "1",
                "must evaluate to Object but got int",
            ),
            (
                Purpose::JsonPatch,
                "[JSONPatch{op: 'add', path: '/a', value: 1}]",
                "1",
                "must evaluate to list(JSONPatch) but got int",
            ),
        ] {
            assert!(compiler.compile(purpose, good).is_ok(), "{good}");
            assert_eq!(refusal(&compiler, purpose, bad), why);
        }
        assert!(
            compiler
                .compile(
                    Purpose::Validation,
                    "namespaceObject.metadata.labels.a == 'b' && authorizer.requestResource.check('get').allowed()"
                )
                .is_ok()
        );
        assert!(
            refusal(&compiler, Purpose::Validation, "params.x == 1").starts_with(
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'"
            )
        );
        assert!(
            refusal(
                &compiler,
                Purpose::Message,
                "string(authorizer.path('/').check('get').allowed())"
            )
            .contains("undeclared reference to 'authorizer'")
        );
        assert!(
            refusal(&compiler, Purpose::Validation, "variables.x")
                .contains("undeclared reference to 'variables'")
        );
    }

    #[test]
    fn types_are_checked() {
        let schema = serde_json::json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}});
        let object = Decl::of_custom_resource(&schema, Decl::dynamic());
        let mut compiler = Compiler::typed(object, Some(None));
        compiler.check_variable("replicas", "object.spec.replicas");
        for good in [
            "object.spec.replicas > oldObject.spec.replicas && object.metadata.labels.x == params.y",
            "variables.replicas + 1",
        ] {
            assert!(compiler.check(good).is_ok(), "{good}");
        }
        let why = compiler
            .check("variables.replicas > '1'")
            .unwrap_err()
            .to_string();
        assert!(why.starts_with("ERROR: <input>:1:20: found no matching overload for '_>_' applied to '(int, string)'\n | variables.replicas > '1'\n | "), "{why}");
        let why = compiler.check("object.spec.nope").unwrap_err().to_string();
        assert_eq!(
            why,
            "ERROR: <input>:1:12: undefined field 'nope'\n | object.spec.nope\n | ...........^"
        );
    }

    #[test]
    fn variables_are_known_to_what_follows() {
        let mut compiler = Compiler::new(true).composing();
        assert!(
            compiler
                .compile(Purpose::Validation, "variables.a > 1")
                .is_err()
        );
        compiler.variable("a", "1 + 1").unwrap();
        compiler.variable("b", "[variables.a]").unwrap();
        compiler.variable("c", "params.x").unwrap();
        assert!(compiler.variable("d", "nope").is_err());
        for good in [
            "variables.a > 1 && variables.b[0] == 2",
            "variables.c == 'x'",
            "variables.d == 3",
        ] {
            assert!(
                compiler.compile(Purpose::Validation, good).is_ok(),
                "{good}"
            );
        }
        assert!(
            refusal(&compiler, Purpose::Validation, "variables.a == 'x'")
                .contains("found no matching overload")
        );
        assert!(
            refusal(&compiler, Purpose::Validation, "variables.e").contains("undefined field 'e'")
        );
    }
}

//! What a MutatingAdmissionPolicy makes of an object: its mutations, one after the other.

use keelson_cel::Value as CelValue;
use keelson_cel::composition::{Expression, Inputs, Scope, check_patch_names, json_patch};
use keelson_cel::limits::RUNTIME_BUDGET;
use keelson_cel::policies::Purpose;
use keelson_registry::access::Access;
use keelson_schema::Type;
use keelson_schema::decode::{FieldValidation, decode_value};
use keelson_schema::managed_fields::overlay;
use keelson_schema::patch::{self, PatchError};
use serde_json::Value;

use super::{Common, ignores_failure};

/// A compiled policy.
pub(crate) struct Policy {
    common: Common,
    ignores_failure: bool,
    mutations: Vec<(Form, Expression)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    ApplyConfiguration,
    JsonPatch,
}

/// Why a mutation did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The policy is at fault; its failure policy decides.
    Policy(String),
    /// What the patch leaves is no object of the kind.
    Object(String),
}

impl Policy {
    /// Compiles a policy. What is wrong in it is told when it is evaluated.
    pub(crate) fn compile(policy: &Value) -> Policy {
        let common = Common::compile(policy);
        let mutations = policy
            .items("spec.mutations")
            .iter()
            .filter_map(|mutation| {
                let (form, purpose, text) = match mutation.text("patchType") {
                    "ApplyConfiguration" => (
                        Form::ApplyConfiguration,
                        Purpose::ApplyConfiguration,
                        mutation.text("applyConfiguration.expression"),
                    ),
                    "JSONPatch" => (
                        Form::JsonPatch,
                        Purpose::JsonPatch,
                        mutation.text("jsonPatch.expression"),
                    ),
                    _ => return None,
                };
                Some((form, common.composition.compile(purpose, text)))
            })
            .collect();
        Policy {
            common,
            ignores_failure: ignores_failure(policy),
            mutations,
        }
    }

    /// How many mutations it has.
    pub(crate) fn len(&self) -> usize {
        self.mutations.len()
    }

    /// Whether its match conditions hold.
    pub(crate) fn holds(&self, inputs: &Inputs<'_>) -> Result<bool, String> {
        self.common.hold(inputs, self.ignores_failure)
    }

    /// The object after one of the mutations. The object that the inputs show is the one that is changed.
    pub(crate) fn mutate(
        &self,
        index: usize,
        inputs: &Inputs<'_>,
        ty: &Type,
    ) -> Result<Value, Failure> {
        let (form, expression) = &self.mutations[index];
        if let Err(why) = &expression.program {
            return Err(Failure::Policy(why.clone()));
        }
        let scope = Scope::new(&self.common.composition, inputs);
        let mut remaining = RUNTIME_BUDGET;
        let value = scope
            .evaluate(expression, &mut remaining)
            .map_err(|out| Failure::Policy(out.to_string()))?
            .map_err(Failure::Policy)?;
        match form {
            Form::ApplyConfiguration => apply(&value, inputs.object, ty),
            Form::JsonPatch => patched(&value, inputs.object, ty),
        }
    }
}

fn apply(value: &CelValue<'_>, live: &Value, ty: &Type) -> Result<Value, Failure> {
    check_patch_names(value).map_err(|why| Failure::Policy(format!("type mismatch: {why}")))?;
    let mut config = value
        .to_json()
        .map_err(|why| Failure::Policy(why.to_string()))?;
    let Some(fields) = config.as_object_mut() else {
        return Err(Failure::Policy("invalid return type".into()));
    };
    for field in ["apiVersion", "kind"] {
        fields.insert(field.into(), live.part(field).clone());
    }
    let merged = overlay(live, &config, ty)
        .map_err(|why| Failure::Policy(format!("error applying patch: {why}")))?;
    // The configuration may spell quantities and times in its own way.
    decode_value(merged, ty, FieldValidation::Ignore)
        .map(|decoded| decoded.object)
        .map_err(|why| Failure::Policy(why.to_string()))
}

fn patched(value: &CelValue<'_>, live: &Value, ty: &Type) -> Result<Value, Failure> {
    let operations = json_patch(value).map_err(Failure::Policy)?;
    let patched = match patch::json(live, operations.to_string().as_bytes()) {
        Ok(patched) => patched,
        // Where a test fails, the patch has nothing to do.
        Err(PatchError::TestFailed(_)) => return Ok(live.clone()),
        Err(why) => return Err(Failure::Policy(format!("JSON Patch: {why}"))),
    };
    let same = |field: &str| patched.part(field) == live.part(field);
    if !same("apiVersion") || !same("kind") {
        return Err(Failure::Object(
            "the patch changes the object's kind".into(),
        ));
    }
    decode_value(patched, ty, FieldValidation::Strict)
        .map(|decoded| decoded.object)
        .map_err(|why| Failure::Object(why.to_string()))
}

//! Match conditions: expressions that say whether a webhook is asked.

use std::sync::Arc;

use keelson_auth::user::{service_account_groups, service_account_user};
use keelson_auth::{Attributes, Authorizer, Status, User};
use keelson_cel::conditions::{Input, hold};
use keelson_cel::{Authorize, Authz, Decision, Question};
use keelson_registry::access::Access;
use serde_json::Value;

use super::review;
use crate::request::Request;

/// The authorizer as expressions see it.
struct Asked {
    authorizer: Arc<dyn Authorizer>,
    user: Arc<User>,
}

impl Authorize for Asked {
    fn check(&self, question: &Question) -> Decision {
        let user = match &question.service_account {
            Some((namespace, name)) => {
                let mut user = User::new(service_account_user(namespace, name), &[]);
                user.groups = service_account_groups(namespace);
                Arc::new(user)
            }
            None => self.user.clone(),
        };
        let answer = self.authorizer.authorize(&Attributes {
            user,
            verb: question.verb.clone(),
            api_group: question.group.clone(),
            api_version: "*".into(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            namespace: question.namespace.clone(),
            name: question.name.clone(),
            path: question.path.clone().unwrap_or_default(),
            resource_request: question.path.is_none(),
            ..Attributes::default()
        });
        Decision {
            allowed: answer.allowed(),
            reason: answer.reason,
            error: None,
        }
    }
}

/// What expressions see as `authorizer` and `authorizer.requestResource`.
pub(crate) fn authorizer_of<'a>(
    request: &Request,
    authorizer: &Arc<dyn Authorizer>,
) -> (keelson_cel::Value<'a>, keelson_cel::Value<'a>) {
    let asked = Arc::new(Asked {
        authorizer: authorizer.clone(),
        user: request.user.clone(),
    });
    let own = Question {
        group: request.resource.group.clone(),
        resource: request.resource.resource.clone(),
        subresource: request.subresource.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        ..Question::default()
    };
    (
        Authz::authorizer(asked.clone()),
        Authz::resource(asked, own),
    )
}

/// Whether the webhook's conditions let it be asked.
pub(super) fn matched(
    hook: &Value,
    request: &Request,
    authorizer: &Arc<dyn Authorizer>,
) -> Result<bool, Status> {
    let conditions: Vec<&str> = hook
        .items("matchConditions")
        .iter()
        .map(|condition| condition.text("expression"))
        .collect();
    if conditions.is_empty() {
        return Ok(true);
    }
    let described = review::description(request);
    let (authorizer, request_resource) = authorizer_of(request, authorizer);
    let input = Input {
        object: request.object.as_ref().unwrap_or(&Value::Null),
        old_object: request.old_object.as_deref().unwrap_or(&Value::Null),
        request: &described,
        authorizer,
        request_resource,
    };
    match hold(&conditions, &input) {
        Ok(holds) => Ok(holds),
        Err(_) if hook.text("failurePolicy") == "Ignore" => Ok(false),
        Err(why) => Err(request.forbidden(why)),
    }
}

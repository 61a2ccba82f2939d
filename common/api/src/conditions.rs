//! Conditions: finding one in a status, and setting one so that its transition time moves only with its status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

/// The condition of type `kind` among `status.conditions` of `object`.
#[must_use]
pub fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

/// Whether `status.conditions` of `object` holds `kind` with status `True`.
#[must_use]
pub fn is_true(object: &Value, kind: &str) -> bool {
    find(object, kind)
        .and_then(|c| c.get("status"))
        .and_then(Value::as_str)
        == Some("True")
}

/// Sets `wanted` in `conditions`; says whether anything changed. The transition time moves only when the status does.
pub fn set(conditions: &mut Vec<Condition>, mut wanted: Condition, now: Timestamp) -> bool {
    if let Some(present) = conditions.iter_mut().find(|c| c.type_ == wanted.type_) {
        wanted.last_transition_time = if present.status == wanted.status {
            present.last_transition_time.clone()
        } else {
            Time(now)
        };
        if *present == wanted {
            return false;
        }
        *present = wanted;
    } else {
        wanted.last_transition_time = Time(now);
        conditions.push(wanted);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &str, message: &str) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: "Because".into(),
            message: message.into(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        let (t1, t2) = (
            Timestamp::from_second(1).unwrap(),
            Timestamp::from_second(2).unwrap(),
        );
        assert!(set(&mut conditions, condition("True", "a"), t1));
        assert!(!set(&mut conditions, condition("True", "a"), t2));
        assert!(set(&mut conditions, condition("True", "b"), t2));
        assert_eq!(conditions[0].last_transition_time, Time(t1));
        assert!(set(&mut conditions, condition("False", "b"), t2));
        assert_eq!(conditions[0].last_transition_time, Time(t2));
    }
}

//! Tables of custom objects: additionalPrinterColumns.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath::JsonPath;

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The columns of one version.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The definitions, as a Table has them.
    pub definitions: Vec<Value>,
    paths: Vec<(JsonPath, String)>,
}

impl Columns {
    /// Reads a version's columns. From the first that can't be read on, none is shown.
    pub fn compile(columns: &[Value]) -> Columns {
        let mut table = Columns {
            definitions: vec![
                json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0}),
            ],
            paths: Vec::new(),
        };
        let age = [
            json!({"name": "Age", "type": "date", "description": CREATED, "jsonPath": ".metadata.creationTimestamp"}),
        ];
        let columns = if columns.is_empty() {
            &age[..]
        } else {
            columns
        };
        for column in columns {
            let text = |key: &str| column.get(key).and_then(Value::as_str).unwrap_or_default();
            let path = text("jsonPath");
            let Ok(compiled) = JsonPath::parse(path) else {
                break;
            };
            let description = match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                given => given.to_owned(),
            };
            table.definitions.push(json!({
                "name": text("name"), "type": text("type"), "format": text("format"), "description": description,
                "priority": column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            }));
            table.paths.push((compiled, text("type").to_owned()));
        }
        table
    }

    /// The cells of an object's row.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object
            .pointer("/metadata/name")
            .cloned()
            .unwrap_or_default();
        let cells = self
            .paths
            .iter()
            .map(|(path, ty)| match path.find(object).first() {
                Some(value) => cell(ty, value, now),
                None => Value::Null,
            });
        std::iter::once(name).chain(cells).collect()
    }
}

fn cell(ty: &str, value: &Value, now: Timestamp) -> Value {
    match (ty, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            #[expect(clippy::cast_possible_truncation, reason = "as Go's conversion does")]
            (None, Some(float)) => (float as i64).into(),
            _ => Value::Null,
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => age(now, time).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// A span as kubectl prints it.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |a: i64, unit: &str, b: i64, small: &str| match b {
        0 => format!("{a}{unit}"),
        b => format!("{a}{unit}{b}{small}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if years < 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cells_follow_their_types() {
        let columns = Columns::compile(&[
            json!({"name": "I", "type": "integer", "jsonPath": ".spec.i"}),
            json!({"name": "S", "type": "string", "jsonPath": ".spec.s"}),
            json!({"name": "D", "type": "date", "jsonPath": ".metadata.creationTimestamp"}),
            json!({"name": "B", "type": "boolean", "jsonPath": ".spec.missing"}),
        ]);
        let now = Timestamp::from_second(1_700_000_300).unwrap();
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "2023-11-14T22:13:20Z"}, "spec": {"i": 3.0, "s": {"a": 1}}});
        assert_eq!(
            columns.row(&object, now),
            [
                json!("n"),
                json!(3),
                json!("{\"a\":1}"),
                json!("5m"),
                Value::Null
            ]
        );
        assert_eq!(columns.definitions.len(), 5);
        assert_eq!(Columns::compile(&[]).definitions[1]["name"], "Age");
    }
}

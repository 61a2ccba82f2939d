//! Pieces of table cells that several kinds share: ages, lists, containers, selectors.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use keelson_api::selector::format_label_selector;
use serde::Deserialize;
use serde_json::Value;

use crate::access::Access;

/// A span of seconds as people read it: two units at most, fewer the longer it is.
#[must_use]
pub fn duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    match () {
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", (hours / 24) % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

/// The time at `path`, if it is one.
#[must_use]
pub fn time(object: &Value, path: &str) -> Option<Timestamp> {
    object.text(path).parse().ok()
}

/// How long ago the time at `path` was, or `<unknown>`.
#[must_use]
pub fn since(object: &Value, path: &str, now: Timestamp) -> String {
    time(object, path).map_or_else(|| "<unknown>".into(), |then| elapsed(then, now))
}

/// How long ago `then` was.
#[must_use]
pub fn elapsed(then: Timestamp, now: Timestamp) -> String {
    // Whole seconds towards zero, so that a clock that is a little behind shows 0s.
    duration((now.as_millisecond() - then.as_millisecond()) / 1000)
}

/// The cell of the object's name.
#[must_use]
pub fn name(object: &Value) -> Value {
    object.text("metadata.name").into()
}

/// The cell of the object's age.
#[must_use]
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "metadata.creationTimestamp", now).into()
}

/// `text`, or `otherwise` where it is empty.
#[must_use]
pub fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// The strings of a list, joined.
#[must_use]
pub fn join(items: &[Value], separator: &str) -> String {
    let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
    texts.join(separator)
}

/// The field `key` of each item, joined by commas.
#[must_use]
pub fn join_field(items: &[Value], key: &str) -> String {
    let texts: Vec<&str> = items.iter().map(|i| i.text(key)).collect();
    texts.join(",")
}

/// The names and images of the containers at `path`.
#[must_use]
pub fn containers(object: &Value, path: &str) -> [Value; 2] {
    let list = object.items(path);
    [
        join_field(list, "name").into(),
        join_field(list, "image").into(),
    ]
}

/// A map of labels as `a=b,c=d`, or `<none>`.
#[must_use]
pub fn labels(object: &Value, path: &str) -> String {
    let pairs: Vec<String> = object
        .entries(path)
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() {
        "<none>".into()
    } else {
        pairs.join(",")
    }
}

/// A label selector as text; an absent or empty one is `<none>`.
#[must_use]
pub fn selector(object: &Value, path: &str) -> String {
    let part = object.part(path);
    if part.is_null() {
        return "<none>".into();
    }
    LabelSelector::deserialize(part)
        .map_or_else(|_| "<error>".into(), |s| format_label_selector(Some(&s)))
}

/// A boolean as text, or `<unset>` where it is absent.
#[must_use]
pub fn flag(object: &Value, path: &str) -> String {
    object
        .part(path)
        .as_bool()
        .map_or_else(|| "<unset>".into(), |b| b.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstreams() {
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (9 * 3600, "9h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (2 * 365 * 86400, "2y"),
            (2 * 365 * 86400 + 86400, "2y1d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(duration(seconds), want, "{seconds}");
        }
    }
}

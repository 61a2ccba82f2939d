//! Query parameters, decoded once per request, with upstream's readings of booleans and numbers.

use crate::request_info::percent_decode;
use keelson_api::status::Status;

/// Decoded query parameters in their order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part of the URI after `?`; a pair that can't be decoded is left out, as Go's `url.Query` does.
    pub fn parse(raw: &str) -> Self {
        Query(
            raw.split('&')
                .filter(|pair| !pair.is_empty() && !pair.contains(';'))
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((percent_decode(key, true)?, percent_decode(value, true)?))
                })
                .collect(),
        )
    }

    /// First value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// First value, absent when empty.
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Whether the parameter was given at all.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A boolean as upstream's query conversion reads it: given and neither "false" nor "0".
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v != "false" && v != "0")
    }

    /// A boolean that may be absent.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| v != "false" && v != "0")
    }

    /// A whole number, or 400 as upstream's conversion answers.
    pub fn int(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.non_empty(key) {
            None => Ok(None),
            Some(v) => v.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {v:?}: invalid syntax"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_read_as_upstream() {
        let q = Query::parse("a=true&b=1&c=false&d=0&e=&f&g=x%3Dy+z");
        assert!(q.flag("a") && q.flag("b") && q.flag("e") && q.flag("f"));
        assert!(!q.flag("c") && !q.flag("d") && !q.flag("missing"));
        assert_eq!(q.get("g"), Some("x=y z"));
    }

    #[test]
    fn numbers_are_checked() {
        let q = Query::parse("limit=10&bad=x");
        assert_eq!(q.int("limit").unwrap(), Some(10));
        assert!(q.int("bad").is_err());
    }
}

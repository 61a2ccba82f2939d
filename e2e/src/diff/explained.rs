//! What differs for a good reason: the one table, each row with its reason.

use regex::Regex;

use super::compare::{Difference, same_but_values};

/// A row: which requests (method, space, path), which place in the answer, why.
#[derive(Debug)]
struct Row {
    request: &'static str,
    at: &'static str,
    reason: &'static str,
}

/// Every difference that is meant.
const TABLE: &[Row] = &[
    Row {
        request: r"^GET /version",
        at: r"^body \.(gitVersion|gitCommit|gitTreeState|buildDate|goVersion|compiler|platform)$",
        reason: "the version names this build: v1.36.x+keelson",
    },
    Row {
        request: r"^anonymous ",
        at: r".",
        reason: "anonymous requests are answered 401 but on the health paths and /version; upstream answers 403 by default",
    },
];

/// How a compound value is shown inside a message is no part of the API.
const VALUES: &str = "a compound value inside a message is shown in the API's form and alphabetical order; upstream's has the order and sometimes the names of its internal Go types";

/// The table, compiled.
#[derive(Debug)]
pub struct Explained(Vec<(Regex, Regex, &'static str)>);

impl Explained {
    /// Compiles the table.
    pub fn compile() -> anyhow::Result<Self> {
        TABLE
            .iter()
            .map(|row| Ok((Regex::new(row.request)?, Regex::new(row.at)?, row.reason)))
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    /// Why this difference is meant, if it is.
    pub fn reason(&self, request: &str, difference: &Difference) -> Option<&'static str> {
        if same_but_values(&difference.upstream, &difference.ours) {
            return Some(VALUES);
        }
        self.0
            .iter()
            .find(|(wanted, at, _)| wanted.is_match(request) && at.is_match(&difference.at))
            .map(|(_, _, reason)| *reason)
    }
}

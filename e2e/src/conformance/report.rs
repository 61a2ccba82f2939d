//! What came of a run, out of the reports that ginkgo writes.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not, and the first lines of why.
    Failed(String),
    /// It found that it cannot run here, and why.
    Skipped(String),
}

/// A test and how it ended.
pub type Ended = (String, Outcome);

/// The tests of a JSON report that were to run.
pub fn read(file: &Path) -> Result<Vec<Ended>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: Value = serde_json::from_slice(&text).context("not a report of ginkgo")?;
    Ok(outcomes(&report))
}

fn outcomes(report: &Value) -> Vec<Ended> {
    let suites = report.as_array().map(Vec::as_slice).unwrap_or_default();
    suites
        .iter()
        .flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten())
        .filter_map(outcome)
        .collect()
}

fn outcome(spec: &Value) -> Option<Ended> {
    let state = spec["State"].as_str()?;
    let leaf = spec["LeafNodeType"].as_str()?;
    let message = || {
        let message = spec["Failure"]["Message"].as_str().unwrap_or_default();
        let lines: Vec<&str> = message
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.trim().is_empty())
            .take(6)
            .collect();
        let place = &spec["Failure"]["Location"];
        let file = place["FileName"].as_str().unwrap_or_default();
        let file = file.rsplit_once("/test/").map_or(file, |(_, file)| file);
        format!("{} ({file}:{})", lines.join(" | "), place["LineNumber"])
    };
    let failed = matches!(
        state,
        "failed" | "panicked" | "timedout" | "aborted" | "interrupted"
    );
    if leaf != "It" {
        // What prepares all tests fails them all.
        return failed.then(|| (format!("({leaf})"), Outcome::Failed(message())));
    }
    let mut name: Vec<&str> = spec["ContainerHierarchyTexts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    name.push(spec["LeafNodeText"].as_str()?);
    let name = name.join(" ");
    match state {
        "passed" => Some((name, Outcome::Passed)),
        // Skipped without a word: not in the focus.
        "skipped" => {
            let why = spec["Failure"]["Message"].as_str().unwrap_or_default();
            (!why.is_empty()).then(|| (name, Outcome::Skipped(why.to_owned())))
        }
        _ if failed => Some((name, Outcome::Failed(message()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_say_how_each_test_ended() {
        let spec = |state: &str, message: &str| {
            json!({"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeText": "run", "LeafNodeType": "It", "State": state,
                "Failure": {"Message": message, "Location": {"FileName": "/x/kubernetes/test/e2e/a.go", "LineNumber": 7}}})
        };
        let report = json!([{"SpecReports": [
            spec("passed", ""),
            spec("failed", "first\n\nsecond"),
            spec("skipped", ""),
            spec("skipped", "no such nodes"),
            {"LeafNodeType": "BeforeSuite", "State": "failed", "LeafNodeText": "", "Failure": {"Message": "no cluster"}},
        ]}]);
        let found = outcomes(&report);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(
            found[0],
            ("[sig-node] Pods run".to_owned(), Outcome::Passed)
        );
        assert_eq!(
            found[1].1,
            Outcome::Failed("first | second (e2e/a.go:7)".into())
        );
        assert_eq!(found[2].1, Outcome::Skipped("no such nodes".into()));
        assert_eq!(found[3].0, "(BeforeSuite)");
    }
}

//! Which of upstream's tests are run: by stage or list of names, by a pattern, or all conformance tests.
//!
//! Lists carry names without the tags that `e2e.test` has in them (`[Conformance]`, in whatever place), so names are compared
//! without tags where they are not the same, and a test that carries `[Conformance]` is taken before one that does not.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::Regex;

const CONFORMANCE: &str = "[Conformance]";

/// What is asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Pattern on the full name.
    pub focus: Option<String>,
    /// Prefix of a list's column `stage`.
    pub stage: Option<String>,
    /// A tab-separated list with a column `test`.
    pub list: Option<std::path::PathBuf>,
}

/// The tests to run, in two parts, and names that no test has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Those that may run beside others.
    pub parallel: BTreeSet<String>,
    /// Those that must run alone.
    pub serial: BTreeSet<String>,
    /// Wanted, but not there.
    pub missing: BTreeSet<String>,
}

/// The names out of `e2e.test --list-tests`: lines `    <file>:<line>: <name>`.
pub fn names(listing: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| {
            let (place, name) = line.trim().split_once(": ")?;
            place.contains(".go:").then(|| name.trim().to_owned())
        })
        .collect()
}

/// Chooses among all tests.
pub fn select(all: &[String], wanted: &Wanted) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut chosen: BTreeSet<&String> = match &wanted.list {
        Some(list) => {
            let text = std::fs::read_to_string(list)
                .with_context(|| format!("cannot read {}", list.display()))?;
            let index = Index::of(all);
            let mut chosen = BTreeSet::new();
            for name in listed(&text, wanted.stage.as_deref(), list)? {
                match index.find(&name) {
                    Some(test) => chosen.insert(test),
                    None => selection.missing.insert(name),
                };
            }
            chosen
        }
        None if wanted.stage.is_some() => bail!("STAGE= needs LIST=, a list with a column `stage`"),
        None => all
            .iter()
            .filter(|name| wanted.focus.is_some() || name.contains(CONFORMANCE))
            .collect(),
    };
    if let Some(focus) = &wanted.focus {
        let pattern = Regex::new(focus).context("FOCUS= is no regular expression")?;
        chosen.retain(|name| pattern.is_match(name));
        selection.missing.retain(|name| pattern.is_match(name));
    }
    for name in chosen {
        let part = if name.contains("[Serial]") {
            &mut selection.serial
        } else {
            &mut selection.parallel
        };
        part.insert(name.clone());
    }
    Ok(selection)
}

/// The names in a tab-separated list, of a stage where one is wanted.
fn listed(text: &str, stage: Option<&str>, list: &Path) -> Result<Vec<String>> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|c| c.trim() == name)
            .with_context(|| format!("{} has no column `{name}`", list.display()))
    };
    let test = column("test")?;
    let stage = stage
        .map(|stage| Ok::<_, anyhow::Error>((column("stage")?, stage)))
        .transpose()?;
    Ok(lines
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|cells| {
            stage.is_none_or(|(column, stage)| {
                cells
                    .get(column)
                    .is_some_and(|cell| cell.starts_with(stage))
            })
        })
        .filter_map(|cells| cells.get(test).map(|name| name.trim().to_owned()))
        .filter(|name| !name.is_empty())
        .collect())
}

/// A name without its tags, but for the one that says whose it is.
fn bare(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        match after.split_once(']') {
            Some((tag, after)) => {
                if tag.starts_with("sig-") {
                    text.push_str(tag);
                }
                rest = after;
            }
            None => {
                rest = after;
                break;
            }
        }
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Index<'a> {
    exact: BTreeSet<&'a String>,
    bare: HashMap<String, Vec<&'a String>>,
}

impl<'a> Index<'a> {
    fn of(all: &'a [String]) -> Self {
        let mut by_bare: HashMap<String, Vec<&String>> = HashMap::new();
        for name in all {
            by_bare.entry(bare(name)).or_default().push(name);
        }
        Self {
            exact: all.iter().collect(),
            bare: by_bare,
        }
    }

    fn find(&self, name: &str) -> Option<&'a String> {
        if let Some(test) = self.exact.get(&name.to_owned()) {
            return Some(test);
        }
        let found = self.bare.get(&bare(name))?;
        let conformance = found.iter().find(|test| test.contains(CONFORMANCE));
        conformance.or_else(|| found.first()).copied()
    }
}

/// The pattern that focuses exactly these tests.
pub fn pattern(names: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
    format!("^Kubernetes e2e suite (?:{})$", quoted.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        names(
            "The following spec names can be used with 'ginkgo run --focus/skip':\n    ../test/e2e/a.go:12: [sig-node] Pods should be (really) submitted [NodeConformance] [Conformance]\n    ../test/e2e/a.go:19: [sig-node] Pods should be (really) submitted [Feature:X]\n    ../test/e2e/b.go:3: [sig-apps] Daemon set [Serial] should run [Conformance]\n    ../test/e2e/b.go:9: [sig-apps] other\n",
        )
    }

    #[test]
    fn all_conformance_tests_unless_asked_otherwise() {
        let selection = select(&all(), &Wanted::default()).expect("select");
        assert_eq!((selection.parallel.len(), selection.serial.len()), (1, 1));
        let wanted = Wanted {
            focus: Some("other".into()),
            ..Wanted::default()
        };
        assert_eq!(
            select(&all(), &wanted).expect("select").parallel,
            BTreeSet::from(["[sig-apps] other".to_owned()])
        );
        let wanted = Wanted {
            stage: Some("A1".into()),
            ..Wanted::default()
        };
        assert!(select(&all(), &wanted).is_err());
    }

    #[test]
    fn names_of_a_list_are_found_without_their_tags() {
        let text = "stage\tsig\ttest\nA1 x\tn\t[sig-node] Pods should be (really) submitted [NodeConformance]\nB1\tapps\t[sig-apps] Daemon set [Serial] should run\nA1\tn\t[sig-node] gone\n";
        let found = listed(text, Some("A1"), Path::new("x")).expect("list");
        assert_eq!(found.len(), 2);
        let all = all();
        let index = Index::of(&all);
        assert_eq!(index.find(&found[0]), Some(&all[0]));
        assert_eq!(index.find(&found[1]), None);
        assert_eq!(
            index.find("[sig-apps] Daemon set [Serial] should run"),
            Some(&all[2])
        );
        assert!(listed("a\tb\n1\t2\n", None, Path::new("x")).is_err());
    }

    #[test]
    fn a_pattern_means_its_names_and_no_others() {
        let names = BTreeSet::from(["[sig-node] Pods should be (really) submitted".to_owned()]);
        let pattern = Regex::new(&pattern(&names)).expect("pattern");
        assert!(
            pattern.is_match("Kubernetes e2e suite [sig-node] Pods should be (really) submitted")
        );
        assert!(!pattern.is_match(
            "Kubernetes e2e suite [sig-node] Pods should be (really) submitted [Feature:X]"
        ));
    }
}

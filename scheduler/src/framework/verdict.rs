//! Why a pod was refused, by a plugin on a node or everywhere, and the sentence that is made of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a refusal means for what is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not now; taking other pods away could help.
    Unschedulable,
    /// Not now, and taking other pods away would not help.
    Unresolvable,
    /// Not yet: something that was started has to happen first.
    Pending,
    /// Something went wrong: to be tried again soon.
    Error,
}

/// A refusal with its reasons, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What it means.
    pub kind: Kind,
    /// Why.
    pub reasons: Vec<Cow<'static, str>>,
    /// By whom; filled in by the framework.
    pub plugin: &'static str,
}

impl Rejection {
    /// A refusal for one reason.
    pub fn new(kind: Kind, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection {
            kind,
            reasons: vec![reason.into()],
            plugin: "",
        }
    }

    /// Taking other pods away could help.
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unschedulable, reason)
    }

    /// Taking other pods away would not help.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unresolvable, reason)
    }

    /// Something went wrong.
    pub fn error(error: impl std::fmt::Display) -> Self {
        Self::new(Kind::Error, error.to_string())
    }

    /// The reasons as one text.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
    }

    pub(super) fn by(mut self, plugin: &'static str) -> Self {
        if self.plugin.is_empty() {
            self.plugin = plugin;
        }
        self
    }
}

/// Why a pod fits on no node.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub all_nodes: usize,
    /// What was said of single nodes.
    pub nodes: HashMap<String, Rejection>,
    /// What holds for all nodes of which nothing was said.
    pub absent: Option<Rejection>,
    /// Why no node was looked at, if a PreFilter plugin refused.
    pub pre_filter: Option<String>,
    /// What the attempts to make room said.
    pub post_filter: String,
    /// Who refused.
    pub plugins: BTreeSet<&'static str>,
    /// Who asked to wait.
    pub pending: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// Notes what a plugin said of a node.
    pub fn refuse(&mut self, node: &str, rejection: Rejection) {
        if !rejection.plugin.is_empty() {
            if rejection.kind == Kind::Pending {
                self.pending.insert(rejection.plugin);
            }
            self.plugins.insert(rejection.plugin);
        }
        self.nodes.insert(node.to_owned(), rejection);
    }

    /// What was said of a node, or of all that are not named.
    pub fn of(&self, node: &str) -> Option<&Rejection> {
        self.nodes.get(node).or(self.absent.as_ref())
    }

    /// The whole sentence, as upstream says it.
    pub fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.all_nodes);
        if let Some(why) = &self.pre_filter {
            message.push_str(&format!(" {why}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for reason in self.nodes.values().flat_map(|r| &r.reasons) {
                *counts.entry(reason).or_default() += 1;
            }
            let unnamed = self.all_nodes.saturating_sub(self.nodes.len());
            if unnamed > 0 {
                for reason in self.absent.iter().flat_map(|r| &r.reasons) {
                    *counts.entry(reason).or_default() += unnamed;
                }
            }
            let mut parts: Vec<String> = counts
                .into_iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            // As texts: "10 x" stands before "2 y".
            parts.sort();
            if !parts.is_empty() {
                message.push_str(&format!(" {}.", parts.join(", ")));
            }
        }
        if !self.post_filter.is_empty() {
            message.push(' ');
            message.push_str(&self.post_filter);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_counts_and_sorts_reasons() {
        let mut diagnosis = Diagnosis {
            all_nodes: 5,
            ..Diagnosis::default()
        };
        let mut cpu = Rejection::unschedulable("Insufficient cpu");
        diagnosis.refuse("a", cpu.clone());
        cpu.reasons.push("Insufficient memory".into());
        diagnosis.refuse("b", cpu);
        diagnosis.absent = Some(Rejection::unresolvable(
            "node(s) didn't satisfy plugin(s) [NodeAffinity]",
        ));
        diagnosis.post_filter = "preemption: none".to_owned();
        assert_eq!(
            diagnosis.message(),
            "0/5 nodes are available: 1 Insufficient memory, 2 Insufficient cpu, \
             3 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: none"
        );
        diagnosis.pre_filter = Some("all is lost".to_owned());
        diagnosis.post_filter.clear();
        assert_eq!(diagnosis.message(), "0/5 nodes are available: all is lost.");
    }
}

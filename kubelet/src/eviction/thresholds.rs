//! Eviction thresholds: what the configuration says, which are met by an observation, since when, and the conditions
//! that follow. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock;
use crate::config::{KubeletConfiguration, duration};
use crate::node::status::threshold;

/// What can run short, in the order in which it is looked after: memory first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`.
    Memory,
    /// `nodefs.available`.
    NodeFs,
    /// `nodefs.inodesFree`.
    NodeInodes,
    /// `imagefs.available`.
    ImageFs,
    /// `imagefs.inodesFree`.
    ImageInodes,
    /// `pid.available`.
    Pids,
}

/// All of them with upstream's names.
pub const SIGNALS: &[(&str, Signal)] = &[
    ("memory.available", Signal::Memory),
    ("nodefs.available", Signal::NodeFs),
    ("nodefs.inodesFree", Signal::NodeInodes),
    ("imagefs.available", Signal::ImageFs),
    ("imagefs.inodesFree", Signal::ImageInodes),
    ("pid.available", Signal::Pids),
];

impl Signal {
    /// The resource as events name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeInodes | Self::ImageInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The condition of the node.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Pids => "PIDPressure",
            _ => "DiskPressure",
        }
    }

    /// Whether removing images and dead containers helps.
    pub fn on_disk(self) -> bool {
        self.condition() == "DiskPressure"
    }
}

/// One threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// `10%` or an amount.
    pub value: String,
    /// How long it may be met before pods go; `None` for a hard one.
    pub grace: Option<Duration>,
    /// How much more than the threshold must be free again.
    pub reclaim: Option<String>,
}

/// How much of something there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Free.
    pub available: u64,
    /// In all.
    pub capacity: u64,
}

/// What was seen of all signals.
pub type Observations = BTreeMap<Signal, Observation>;

/// The thresholds of a configuration; what is no threshold is named.
pub fn parse(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let signal = |name: &str| {
        SIGNALS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, s)| *s)
            .ok_or_else(|| format!("unsupported eviction signal {name}"))
    };
    let mut all = Vec::new();
    for (hard, map) in [
        (true, &config.eviction_hard),
        (false, &config.eviction_soft),
    ] {
        for (name, value) in map {
            if name == "containerfs.available" || name == "containerfs.inodesFree" {
                // One file system holds images and writable layers.
                continue;
            }
            let grace = if hard {
                None
            } else {
                let text = config.eviction_soft_grace_period.get(name).ok_or_else(|| {
                    format!("grace period must be specified for the soft eviction threshold {name}")
                })?;
                Some(duration::parse(text).map_err(|e| format!("{name}: {e}"))?)
            };
            if threshold(value, 1 << 40).is_none() {
                return Err(format!(
                    "eviction threshold {name}: {value:?} is no quantity"
                ));
            }
            // Upstream: 0% and 100% switch a threshold off.
            if value == "0%" || value == "100%" {
                continue;
            }
            all.push(Threshold {
                signal: signal(name)?,
                value: value.clone(),
                grace,
                reclaim: config.eviction_minimum_reclaim.get(name).cloned(),
            });
        }
    }
    Ok(all)
}

/// The threshold's amount.
pub fn amount(threshold_: &Threshold, seen: Observation) -> u64 {
    threshold(&threshold_.value, seen.capacity).unwrap_or(0)
}

/// Whether a threshold is met; once it is, until the minimum is reclaimed too.
fn met(threshold_: &Threshold, seen: Observation, before: bool) -> bool {
    let more = threshold_
        .reclaim
        .as_deref()
        .filter(|_| before)
        .and_then(|text| threshold(text, seen.capacity))
        .unwrap_or(0);
    seen.available < amount(threshold_, seen) + more
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct History {
    /// Met thresholds by index, and since when.
    since: BTreeMap<usize, Timestamp>,
    /// Conditions, and when each was last called for.
    conditions: BTreeMap<&'static str, Timestamp>,
}

impl History {
    /// Takes a look in. Answers which thresholds call for action, the most urgent first.
    pub fn observe<'a>(
        &mut self,
        thresholds: &'a [Threshold],
        seen: &Observations,
        now: Timestamp,
    ) -> Vec<&'a Threshold> {
        let mut acting = Vec::new();
        for (index, threshold) in thresholds.iter().enumerate() {
            let before = self.since.contains_key(&index);
            let is_met = seen
                .get(&threshold.signal)
                .is_some_and(|seen| met(threshold, *seen, before));
            if !is_met {
                self.since.remove(&index);
                continue;
            }
            let since = *self.since.entry(index).or_insert(now);
            self.conditions.insert(threshold.signal.condition(), now);
            if clock::until(since, now) >= threshold.grace.unwrap_or_default() {
                acting.push(threshold);
            }
        }
        acting.sort_by_key(|t| t.signal);
        acting
    }

    /// Whether the node has a condition: called for now, or not long enough ago.
    pub fn has(&self, condition: &str, transition: Duration, now: Timestamp) -> bool {
        self.conditions
            .get(condition)
            .is_some_and(|at| *at == now || clock::until(*at, now) < transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        clock::after(
            "2026-01-01T00:00:00Z".parse().unwrap(),
            Duration::from_secs(seconds),
        )
    }

    fn memory(available: u64) -> Observations {
        let seen = Observation {
            available,
            capacity: 1000,
        };
        BTreeMap::from([(Signal::Memory, seen)])
    }

    #[test]
    fn soft_thresholds_wait_and_reclaim_holds_on() {
        let mut config = KubeletConfiguration::default();
        config.eviction_hard.clear();
        config
            .eviction_soft
            .insert("memory.available".into(), "20%".into());
        assert!(parse(&config).is_err(), "no grace period");
        config
            .eviction_soft_grace_period
            .insert("memory.available".into(), "30s".into());
        config
            .eviction_minimum_reclaim
            .insert("memory.available".into(), "100".into());
        let thresholds = parse(&config).unwrap();
        let mut history = History::default();
        assert!(history.observe(&thresholds, &memory(150), at(0)).is_empty());
        let minute = Duration::from_secs(60);
        assert!(history.has("MemoryPressure", minute, at(0)));
        assert_eq!(history.observe(&thresholds, &memory(150), at(30)).len(), 1);
        assert_eq!(
            history.observe(&thresholds, &memory(250), at(40)).len(),
            1,
            "not enough reclaimed"
        );
        assert!(
            history
                .observe(&thresholds, &memory(310), at(50))
                .is_empty()
        );
        assert!(history.has("MemoryPressure", minute, at(60)));
        assert!(!history.has("MemoryPressure", minute, at(101)));
        assert!(
            history
                .observe(&thresholds, &memory(250), at(110))
                .is_empty()
        );
    }

    #[test]
    fn unknown_signals_are_refused() {
        let mut config = KubeletConfiguration::default();
        assert_eq!(parse(&config).unwrap().len(), 5);
        config.eviction_hard.insert("x".into(), "1".into());
        assert_eq!(parse(&config).unwrap_err(), "unsupported eviction signal x");
    }
}

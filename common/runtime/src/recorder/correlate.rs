//! Keeping events few: counting repeats, merging similar ones, and silencing what never stops. No I/O.
//!
//! The limits are upstream's: of one object and reason, ten different messages in ten minutes stand alone and the rest are
//! merged into one event; of one object, 25 events at once and then one every five minutes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;

use super::Kind;

const MOST_KEYS: usize = 4096;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_INTERVAL: Duration = Duration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// The prefix of an event that stands for many.
const COMBINED: &str = "(combined from similar events): ";

/// A map that forgets its oldest keys, so that a stream of new objects can't fill the memory.
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    fn new() -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn entry(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() >= MOST_KEYS
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(fresh)
    }
}

/// What one event says, before it is counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) about: ObjectReference,
    pub(super) kind: Kind,
    pub(super) reason: String,
    pub(super) action: String,
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct About {
    uid: String,
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Topic {
    about: About,
    field_path: String,
    kind: Kind,
    reason: String,
    action: String,
}

struct Similar {
    messages: HashSet<String>,
    last: Instant,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// What is known of an event already written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) count: i32,
    pub(super) first: Option<jiff::Timestamp>,
    pub(super) sent: Option<Instant>,
}

/// The memory of one recorder.
pub(super) struct Correlator {
    similar: Bounded<Topic, Similar>,
    written: Bounded<(Topic, String), Written>,
    buckets: Bounded<About, Bucket>,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self {
            similar: Bounded::new(),
            written: Bounded::new(),
            buckets: Bounded::new(),
        }
    }

    /// The event to write (its message changed if it stands for many) and what was written of it before, with the count
    /// already raised; `None` if its source is too talkative.
    pub(super) fn correlate(
        &mut self,
        mut said: Said,
        now: Instant,
    ) -> Option<(Said, &mut Written)> {
        let about = About {
            uid: said.about.uid.clone().unwrap_or_default(),
            kind: said.about.kind.clone().unwrap_or_default(),
            namespace: said.about.namespace.clone().unwrap_or_default(),
            name: said.about.name.clone().unwrap_or_default(),
        };
        let topic = Topic {
            about: about.clone(),
            field_path: said.about.field_path.clone().unwrap_or_default(),
            kind: said.kind,
            reason: said.reason.clone(),
            action: said.action.clone(),
        };
        let similar = self.similar.entry(topic.clone(), || Similar {
            messages: HashSet::new(),
            last: now,
        });
        if now.duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.messages.clear();
        }
        similar.last = now;
        let mut key = said.message.clone();
        if !similar.messages.contains(&key) {
            if similar.messages.len() < SIMILAR_LIMIT - 1 {
                similar.messages.insert(key.clone());
            } else {
                key = String::new();
                said.message.insert_str(0, COMBINED);
            }
        }
        let bucket = self.buckets.entry(about, || Bucket {
            tokens: BURST,
            filled: now,
        });
        let refill = now.duration_since(bucket.filled).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + refill).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        let written = self.written.entry((topic, key), Written::default);
        written.count = written.count.saturating_add(1);
        Some((said, written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, message: &str) -> Said {
        Said {
            about: ObjectReference {
                name: Some(name.into()),
                ..ObjectReference::default()
            },
            kind: Kind::Warning,
            reason: "Failed".into(),
            action: String::new(),
            message: message.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_and_similar_ones_merged() {
        let mut correlator = Correlator::new();
        let now = Instant::now();
        for count in 1..=3 {
            let (_, written) = correlator.correlate(said("a", "same"), now).unwrap();
            assert_eq!(written.count, count);
        }
        for n in 0..8 {
            let (event, written) = correlator
                .correlate(said("a", &format!("other {n}")), now)
                .unwrap();
            assert_eq!((written.count, event.message), (1, format!("other {n}")));
        }
        for count in 1..=2 {
            let (event, written) = correlator
                .correlate(said("a", &format!("more {count}")), now)
                .unwrap();
            assert_eq!(event.message, format!("{COMBINED}more {count}"));
            assert_eq!(written.count, count);
        }
        let later = now + SIMILAR_INTERVAL + Duration::from_secs(1);
        assert_eq!(
            correlator
                .correlate(said("a", "more 9"), later)
                .unwrap()
                .0
                .message,
            "more 9"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_talkative_source_is_silenced_and_others_are_not() {
        let mut correlator = Correlator::new();
        let now = Instant::now();
        let heard = (0..40)
            .filter(|_| correlator.correlate(said("a", "x"), now).is_some())
            .count();
        assert_eq!(heard, 25);
        assert!(correlator.correlate(said("b", "x"), now).is_some());
        assert!(
            correlator
                .correlate(said("a", "x"), now + REFILL + Duration::from_secs(1))
                .is_some()
        );
        assert!(
            correlator
                .correlate(said("a", "x"), now + REFILL + Duration::from_secs(2))
                .is_none()
        );
    }
}

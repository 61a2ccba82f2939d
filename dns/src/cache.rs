//! Answers of other servers, kept for as long as their records allow, in bounded memory.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers kept at most.
const MOST: usize = 10_000;
/// Longest time an answer is kept.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Longest time a "no" is kept.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(60);

type Key = (Name, RecordType);

#[derive(Debug, Clone)]
struct Kept {
    message: Message,
    since: Instant,
    until: Instant,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache(Mutex<HashMap<Key, Kept>>);

impl Cache {
    /// An answer that is still good, its times to live counted down.
    pub fn get(&self, name: &Name, kind: RecordType) -> Option<Message> {
        let now = Instant::now();
        let kept = self
            .0
            .lock()
            .get(&(name.to_lowercase(), kind))
            .filter(|kept| kept.until > now)
            .cloned()?;
        let mut message = kept.message;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        for record in message.answers.iter_mut().chain(&mut message.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    /// Keeps an answer if it says how long it is good.
    pub fn put(&self, name: &Name, kind: RecordType, message: &Message) {
        let Some(keep) = lifetime(message) else {
            return;
        };
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= MOST {
            entries.retain(|_, kept| kept.until > now);
        }
        if entries.len() >= MOST {
            // Still full of what is good: start over rather than grow or search for the oldest.
            entries.clear();
        }
        entries.insert(
            (name.to_lowercase(), kind),
            Kept {
                message: message.clone(),
                since: now,
                until: now + keep,
            },
        );
    }
}

/// How long an answer is good: the least TTL of its records; for a "no", what the zone's SOA says (RFC 2308).
fn lifetime(message: &Message) -> Option<Duration> {
    let seconds = match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            message.answers.iter().map(|r| r.ttl).min()?
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find_map(|r| match &r.data {
                RData::SOA(soa) => Some(soa.minimum.min(r.ttl)),
                _ => None,
            })?;
            return Some(Duration::from_secs(soa.into()).min(LONGEST_NEGATIVE))
                .filter(|d| !d.is_zero());
        }
        _ => return None,
    };
    Some(Duration::from_secs(seconds.into()).min(LONGEST)).filter(|d| !d.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    fn message(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.add_answer(Record::from_rdata(
            Name::root(),
            ttl,
            RData::A(A([192, 0, 2, 1].into())),
        ));
        message
    }

    #[tokio::test(start_paused = true)]
    async fn answers_age_and_go() {
        let (cache, name) = (
            Cache::default(),
            Name::from_ascii("Example.com.").expect("name"),
        );
        cache.put(&name, RecordType::A, &message(10));
        tokio::time::advance(Duration::from_secs(4)).await;
        let kept = cache
            .get(&name.to_lowercase(), RecordType::A)
            .expect("kept");
        assert_eq!(kept.answers[0].ttl, 6);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(cache.get(&name, RecordType::A).is_none());
    }

    #[tokio::test]
    async fn what_says_nothing_of_time_is_not_kept() {
        let (cache, name) = (Cache::default(), Name::root());
        cache.put(&name, RecordType::A, &message(0));
        let mut failure = Message::response(1, OpCode::Query);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.put(&name, RecordType::AAAA, &failure);
        assert!(
            cache.get(&name, RecordType::A).is_none()
                && cache.get(&name, RecordType::AAAA).is_none()
        );
    }
}

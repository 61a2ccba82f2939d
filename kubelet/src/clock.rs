//! Wall-clock time that tests can pause.

use jiff::Timestamp;

/// Where the present time comes from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system's wall clock.
    System,
    /// A start plus tokio's (pausable) clock.
    Tokio(Timestamp, tokio::time::Instant),
}

impl Clock {
    /// A clock for tests, driven by tokio's.
    pub fn tokio() -> Self {
        Self::Tokio(Timestamp::now(), tokio::time::Instant::now())
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Tokio(base, start) => {
                let elapsed = jiff::SignedDuration::try_from(start.elapsed())
                    .unwrap_or(jiff::SignedDuration::ZERO);
                base.checked_add(elapsed).unwrap_or(*base)
            }
        }
    }
}

/// `then - now`, or nothing left.
pub fn until(now: Timestamp, then: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// `time + duration`, staying in range.
pub fn after(time: Timestamp, duration: std::time::Duration) -> Timestamp {
    jiff::SignedDuration::try_from(duration)
        .ok()
        .and_then(|d| time.checked_add(d).ok())
        .unwrap_or(Timestamp::MAX)
}

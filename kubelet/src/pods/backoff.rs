//! Doubling waits with upstream's bookkeeping: the first try is free, a long good run forgives.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock;

/// First wait.
pub const INITIAL: Duration = Duration::from_secs(10);

/// The wait of one container's restarts, or of one image's pulls.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backoff {
    entry: Option<(Duration, Timestamp)>,
}

impl Backoff {
    /// Until when to wait after the failure at `event`; `None` = go on now.
    pub fn wait_until(&self, event: Timestamp, now: Timestamp, max: Duration) -> Option<Timestamp> {
        let (delay, last) = self.entry?;
        if expired(event, last, max) {
            return None;
        }
        let until = clock::after(event, delay);
        (until > now).then_some(until)
    }

    /// The current wait.
    pub fn delay(&self) -> Duration {
        self.entry.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// Notes a try after the failure at `event`.
    pub fn next(&mut self, event: Timestamp, now: Timestamp, max: Duration) {
        let delay = match self.entry {
            Some((delay, last)) if !expired(event, last, max) => (delay * 2).min(max),
            _ => INITIAL.min(max),
        };
        self.entry = Some((delay, now));
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.entry = None;
    }
}

fn expired(event: Timestamp, last: Timestamp, max: Duration) -> bool {
    clock::until(last, event) > max * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_forgives() {
        let max = Duration::from_secs(300);
        let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let died = clock::after(now, Duration::from_secs(1));
            now = match backoff.wait_until(died, died, max) {
                Some(until) => {
                    waits.push(clock::until(died, until).as_secs());
                    until
                }
                None => {
                    waits.push(0);
                    died
                }
            };
            backoff.next(died, now, max);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        let died = clock::after(now, Duration::from_secs(601));
        assert_eq!(
            backoff.wait_until(died, died, max),
            None,
            "ran for more than ten minutes"
        );
        backoff.next(died, died, max);
        assert_eq!(backoff.delay(), INITIAL);
    }
}

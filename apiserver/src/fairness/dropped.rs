//! How long clients that are turned away are told to wait: longer, while many are, and less again when few are.

use std::collections::HashMap;

use parking_lot::Mutex;

const LONGEST: u64 = 32;

/// Requests that were turned away, by level.
#[derive(Default)]
pub struct Dropped(Mutex<HashMap<String, Level>>);

struct Level {
    /// Requests by second, the newest last; the last is the current one.
    seconds: Vec<(u64, u64)>,
    wait: u64,
    raised: u64,
}

impl Dropped {
    /// Records a request of a level that was turned away in this second; answers how long its client is to wait.
    pub fn record(&self, level: &str, second: u64) -> u64 {
        let mut levels = self.0.lock();
        if !levels.contains_key(level) {
            let new = Level {
                seconds: Vec::new(),
                wait: 1,
                raised: 0,
            };
            levels.insert(level.to_owned(), new);
        }
        levels
            .get_mut(level)
            .map_or(1, |level| level.record(second))
    }
}

impl Level {
    fn record(&mut self, second: u64) -> u64 {
        match self.seconds.last_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => {
                self.adapt(second);
                self.seconds.push((second, 1));
            }
        }
        self.wait
    }

    /// A new second has begun.
    fn adapt(&mut self, second: u64) {
        let kept = (2 * self.wait).min(LONGEST);
        self.seconds
            .retain(|(at, _)| second.saturating_sub(*at) <= kept);
        let dropped: u64 = self
            .seconds
            .iter()
            .filter(|(at, _)| second.saturating_sub(*at) <= self.wait)
            .map(|(_, count)| count)
            .sum();
        if second.saturating_sub(self.raised) >= self.wait && dropped >= 3 * self.wait {
            self.wait = (self.wait * 2).min(LONGEST);
            self.raised = second;
        } else if dropped < self.wait && self.wait > 1 {
            self.wait -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_load() {
        let dropped = Dropped::default();
        assert_eq!(dropped.record("a", 100), 1);
        for _ in 0..10 {
            dropped.record("a", 100);
        }
        assert_eq!(dropped.record("a", 101), 2);
        for _ in 0..10 {
            dropped.record("a", 101);
        }
        assert_eq!(dropped.record("a", 102), 2);
        assert_eq!(dropped.record("a", 103), 4);
        assert_eq!(dropped.record("b", 103), 1);
        // Quiet for a while.
        assert_eq!(dropped.record("a", 200), 3);
        assert_eq!(dropped.record("a", 300), 2);
    }
}

//! How many seats each level gets at the moment: levels lend what they don't need, and get it back when they do.

/// A target below this counts as this.
const LEAST_TARGET: f64 = 0.001;
const CLOSE: f64 = 1e-7;

/// What a level is entitled to and what it has needed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Seats by its share.
    pub nominal: u64,
    /// What it keeps in any case.
    pub least: u64,
    /// What it may have at most.
    pub most: u64,
    /// The most seats it could have used of late.
    pub peak: u64,
    /// The same, smoothed over a longer time.
    pub smoothed: f64,
    /// Whether it is not limited at all.
    pub exempt: bool,
}

impl Need {
    /// What it is not to go below: what it has been using, as far as that is its own.
    fn floor(&self) -> u64 {
        if self.exempt {
            self.least.max(self.peak)
        } else {
            self.least.max(self.nominal.min(self.peak))
        }
    }
}

/// The seats of every level.
pub fn seats(needs: &[Need]) -> Vec<u64> {
    let total: u64 = needs.iter().map(|n| n.nominal).sum();
    let taken: u64 = needs.iter().filter(|n| n.exempt).map(Need::floor).sum();
    let left = total.saturating_sub(taken);
    let limited = || needs.iter().filter(|n| !n.exempt);
    let least: u64 = limited().map(|n| n.least).sum();
    let floors: u64 = limited().map(Need::floor).sum();
    if left <= floors {
        // Too little for what is being used: everybody gives up the same part of what can be given up.
        let part = if left <= least || floors == least {
            0.0
        } else {
            (left - least) as f64 / (floors - least) as f64
        };
        return needs
            .iter()
            .map(|n| match n.exempt {
                true => n.floor(),
                false => n.least + ((n.floor() - n.least) as f64 * part).round() as u64,
            })
            .collect();
    }
    let bounds: Vec<Bounds> = limited()
        .map(|n| Bounds {
            low: n.floor() as f64,
            high: n.most.max(n.floor()) as f64,
            target: (n.floor() as f64).max(n.smoothed).max(LEAST_TARGET),
        })
        .collect();
    let mut shared = share(total as f64, &bounds).into_iter();
    needs
        .iter()
        .map(|n| match n.exempt {
            true => n.floor(),
            false => shared
                .next()
                .map_or(n.nominal, |seats| seats.round() as u64),
        })
        .collect()
}

struct Bounds {
    low: f64,
    high: f64,
    target: f64,
}

/// Parts of `sum` in proportion to the targets, but within the bounds.
fn share(sum: f64, bounds: &[Bounds]) -> Vec<f64> {
    let at = |factor: f64| -> Vec<f64> {
        bounds
            .iter()
            .map(|b| (b.target * factor).clamp(b.low, b.high))
            .collect()
    };
    let total = |parts: &[f64]| parts.iter().sum::<f64>();
    // The total grows with the factor, so the factor can be closed in on.
    let ratio = |b: &Bounds| b.high / b.target;
    let (mut low, mut high) = (0.0, bounds.iter().map(ratio).fold(0.0, f64::max));
    if total(&at(high)) <= sum {
        return at(high);
    }
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        let found = total(&at(middle));
        if (found - sum).abs() < CLOSE {
            return at(middle);
        }
        if found < sum {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(nominal: u64, lendable: u64, peak: u64) -> Need {
        Need {
            nominal,
            least: nominal - lendable,
            most: nominal + 600,
            peak,
            smoothed: peak as f64,
            exempt: false,
        }
    }

    #[test]
    fn idle_levels_share_all_there_is() {
        let seats = seats(&[level(100, 50, 0), level(100, 50, 0)]);
        assert_eq!(seats, [100, 100]);
    }

    #[test]
    fn who_needs_more_borrows_what_others_lend() {
        let found = seats(&[level(100, 90, 0), level(100, 50, 500)]);
        assert_eq!(found.iter().sum::<u64>(), 200);
        assert_eq!(found, [10, 190]);
        // It is given back at once when it is needed.
        assert_eq!(
            seats(&[level(100, 90, 100), level(100, 50, 500)]),
            [100, 100]
        );
    }

    #[test]
    fn what_is_exempt_comes_first() {
        let exempt = Need {
            nominal: 0,
            least: 0,
            most: 600,
            peak: 150,
            smoothed: 0.0,
            exempt: true,
        };
        let found = seats(&[exempt, level(100, 50, 100), level(100, 50, 100)]);
        assert_eq!(found, [150, 50, 50]);
    }
}

//! How far a recommendation is followed at once: stabilization, rates of change, bounds. No I/O.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
};
use tokio::time::Instant;

/// What is remembered of one autoscaler.
#[derive(Debug, Default)]
pub struct History {
    recommendations: Vec<(Instant, i32)>,
    ups: Vec<(Instant, i32)>,
    downs: Vec<(Instant, i32)>,
}

/// The bounds of one decision.
pub struct Limits<'a> {
    /// How fast it may go, if the autoscaler says.
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// The fewest replicas.
    pub min: i32,
    /// The most replicas.
    pub max: i32,
    /// Replicas now.
    pub current: i32,
    /// How long a lower recommendation must stand where nothing else is said.
    pub downscale_window: Duration,
}

/// A decision with what is to be said about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Paced {
    /// The replicas to have.
    pub replicas: i32,
    /// Reason and message for AbleToScale.
    pub able: (&'static str, &'static str),
    /// Whether it was limited, with reason and message for ScalingLimited.
    pub limited: (bool, &'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: (&str, &str) = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: (&str, &str) = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const FAST_UP: (&str, &str) = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const FAST_DOWN: (&str, &str) = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

fn default_rules(up: bool) -> HPAScalingRules {
    let policy = |kind: &str, value: i32| HPAScalingPolicy {
        type_: kind.to_owned(),
        value,
        period_seconds: 15,
    };
    HPAScalingRules {
        policies: Some(if up {
            vec![policy("Pods", 4), policy("Percent", 100)]
        } else {
            vec![policy("Percent", 100)]
        }),
        ..HPAScalingRules::default()
    }
}

fn seconds(count: i32) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl History {
    /// Notes where it began, so that the first look does not scale down at once.
    pub fn begin(&mut self, replicas: i32, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    /// Decides how far `desired` is followed.
    pub fn pace(&mut self, limits: &Limits<'_>, desired: i32, now: Instant) -> Paced {
        match limits.behavior {
            None => self.plain(limits, desired, now),
            Some(behavior) => {
                let up = behavior
                    .scale_up
                    .clone()
                    .unwrap_or_else(|| default_rules(true));
                let down = behavior
                    .scale_down
                    .clone()
                    .unwrap_or_else(|| default_rules(false));
                self.behaved(limits, (&up, &down), desired, now)
            }
        }
    }

    fn plain(&mut self, limits: &Limits<'_>, desired: i32, now: Instant) -> Paced {
        let window = limits.downscale_window;
        self.recommendations
            .retain(|(at, _)| now.duration_since(*at) <= window);
        let recent = self.recommendations.iter().map(|(_, replicas)| *replicas);
        let stable = recent.max().unwrap_or(desired).max(desired);
        self.recommendations.push((now, desired));
        let fastest = (limits.current.saturating_mul(2)).max(4);
        let (most, why) = if limits.max > fastest {
            (fastest, FAST_UP)
        } else {
            (limits.max, TOO_MANY)
        };
        let (replicas, why) = if stable < limits.min {
            (limits.min, TOO_FEW)
        } else if stable > most {
            (most, why)
        } else {
            (stable, WITHIN)
        };
        Paced {
            replicas,
            able: if stable == desired { READY } else { DOWN },
            limited: (replicas != stable, why.0, why.1),
        }
    }

    fn behaved(
        &mut self,
        limits: &Limits<'_>,
        (up, down): (&HPAScalingRules, &HPAScalingRules),
        desired: i32,
        now: Instant,
    ) -> Paced {
        let up_window = seconds(up.stabilization_window_seconds.unwrap_or(0));
        let down_window = down
            .stabilization_window_seconds
            .map_or(limits.downscale_window, seconds);
        let (mut lowest, mut highest) = (desired, desired);
        for (at, replicas) in &self.recommendations {
            let age = now.duration_since(*at);
            if age < up_window {
                lowest = lowest.min(*replicas);
            }
            if age < down_window {
                highest = highest.max(*replicas);
            }
        }
        let longest = up_window.max(down_window);
        self.recommendations
            .retain(|(at, _)| now.duration_since(*at) <= longest);
        self.recommendations.push((now, desired));
        let stable = limits.current.max(lowest).min(highest);
        let held = if desired >= limits.current { UP } else { DOWN };
        let (replicas, why) = self.rate(limits, (up, down), stable, now);
        Paced {
            replicas,
            able: if stable == desired { READY } else { held },
            limited: (replicas != stable, why.0, why.1),
        }
    }

    fn rate(
        &self,
        limits: &Limits<'_>,
        (up, down): (&HPAScalingRules, &HPAScalingRules),
        stable: i32,
        now: Instant,
    ) -> (i32, (&'static str, &'static str)) {
        let current = limits.current;
        if stable > current {
            let fastest = self.bound(up, current, 1, now).max(current);
            let (most, why) = if limits.max > fastest {
                (fastest, FAST_UP)
            } else {
                (limits.max, TOO_MANY)
            };
            if stable > most {
                return (most, why);
            }
        } else if stable < current {
            let fastest = self.bound(down, current, -1, now).min(current);
            let (least, why) = if limits.min < fastest {
                (fastest, FAST_DOWN)
            } else {
                (limits.min, TOO_FEW)
            };
            if stable < least {
                return (least, why);
            }
        }
        (stable, WITHIN)
    }

    /// How far the rules let it go in one direction.
    fn bound(&self, rules: &HPAScalingRules, current: i32, direction: i32, now: Instant) -> i32 {
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let within = |events: &[(Instant, i32)], period: i32| -> i32 {
            events
                .iter()
                .filter(|(at, _)| now.duration_since(*at) < seconds(period))
                .map(|(_, change)| *change)
                .sum()
        };
        let proposals = rules.policies.iter().flatten().map(|policy| {
            let start = current - within(&self.ups, policy.period_seconds)
                + within(&self.downs, policy.period_seconds);
            if policy.type_ == "Pods" {
                return start + direction * policy.value;
            }
            let part = f64::from(policy.value) / 100.0;
            let next = f64::from(start) * (1.0 + f64::from(direction) * part);
            #[allow(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
            if direction > 0 {
                next.ceil() as i32
            } else {
                next as i32
            }
        });
        // The most change is the highest number upwards, and the lowest downwards.
        let highest = (select == "Min") != (direction > 0);
        let chosen = if highest {
            proposals.max()
        } else {
            proposals.min()
        };
        chosen.unwrap_or(current)
    }

    /// Notes a change that was made.
    pub fn scaled(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        from: i32,
        to: i32,
        now: Instant,
    ) {
        let Some(behavior) = behavior else { return };
        let longest = |rules: &Option<HPAScalingRules>| {
            let policies = rules
                .iter()
                .flat_map(|rules| rules.policies.iter().flatten());
            seconds(
                policies
                    .map(|policy| policy.period_seconds)
                    .max()
                    .unwrap_or(15),
            )
        };
        let (events, keep) = if to > from {
            (&mut self.ups, longest(&behavior.scale_up))
        } else {
            (&mut self.downs, longest(&behavior.scale_down))
        };
        events.retain(|(at, _)| now.duration_since(*at) <= keep);
        events.push((now, (to - from).abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits(behavior: Option<&HorizontalPodAutoscalerBehavior>, current: i32) -> Limits<'_> {
        Limits {
            behavior,
            min: 2,
            max: 10,
            current,
            downscale_window: Duration::from_secs(300),
        }
    }

    #[test]
    fn without_behaviour_it_doubles_at_most_and_falls_slowly() {
        let now = Instant::now();
        let mut history = History::default();
        history.begin(3, now);
        let paced = history.pace(&limits(None, 3), 20, now);
        assert_eq!((paced.replicas, paced.limited.1), (6, "ScaleUpLimit"));
        let later = now + Duration::from_secs(60);
        let paced = history.pace(&limits(None, 6), 1, later);
        assert_eq!(
            (paced.replicas, paced.able.0),
            (10, "ScaleDownStabilized"),
            "the highest of late, bounded by the maximum"
        );
        let much_later = later + Duration::from_secs(400);
        let paced = history.pace(&limits(None, 6), 1, much_later);
        assert_eq!((paced.replicas, paced.limited.1), (2, "TooFewReplicas"));
    }

    #[test]
    fn behaviours_limit_rates_and_can_forbid() {
        let now = Instant::now();
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}],
                "selectPolicy": "Min", "stabilizationWindowSeconds": 0},
            "scaleDown": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}], "selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}))
        .unwrap();
        let mut history = History::default();
        let paced = history.pace(&limits(Some(&behavior), 6), 10, now);
        assert_eq!((paced.replicas, paced.limited.1), (8, "ScaleUpLimit"));
        history.scaled(Some(&behavior), 6, 8, now);
        let soon = now + Duration::from_secs(10);
        let paced = history.pace(&limits(Some(&behavior), 8), 10, soon);
        assert_eq!(paced.replicas, 8, "the minute's two are used up");
        let paced = history.pace(&limits(Some(&behavior), 8), 3, soon);
        assert_eq!((paced.replicas, paced.limited.1), (8, "ScaleDownLimit"));
    }
}

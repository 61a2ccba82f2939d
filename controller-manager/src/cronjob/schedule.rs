//! Cron schedules: `minute hour day month weekday`, names, ranges, steps, `@daily` and `@every 1h`. No I/O.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Why a schedule can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unparseable schedule {0:?}: {1}")]
pub struct ScheduleError(String, String);

/// When something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At these minutes, hours, days, months and weekdays.
    Times(Box<Times>),
    /// At these distances.
    Every(SignedDuration),
}

/// Which minutes, hours, days, months and weekdays, as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn number(text: &str, names: &[&str], first: u8) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    let named = names
        .iter()
        .position(|name| *name == lower)
        .and_then(|place| u8::try_from(place).ok());
    named
        .map(|place| place + first)
        .or_else(|| text.parse().ok())
}

/// The bits of one field.
fn field(text: &str, low: u8, high: u8, names: &[&str]) -> Option<u64> {
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u8>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (low, high),
            Some((from, to)) => (number(from, names, low)?, number(to, names, low)?),
            None => {
                let from = number(range, names, low)?;
                // `5/10` means from five on.
                (from, if part.contains('/') { high } else { from })
            }
        };
        if from < low || to > high || from > to {
            return None;
        }
        for value in (from..=to).step_by(usize::from(step)) {
            bits |= 1 << value;
        }
    }
    Some(bits)
}

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let wrong = |why: &str| ScheduleError(text.to_owned(), why.to_owned());
        let text = text.trim();
        let spelled = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(every) = spelled.strip_prefix("@every ") {
            let every = crate::options::duration(every.trim()).map_err(|error| wrong(&error))?;
            let seconds = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
            return Ok(Self::Every(SignedDuration::from_secs(seconds)));
        }
        let fields: Vec<_> = spelled.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(wrong(&format!(
                "expected exactly 5 fields, found {}",
                fields.len()
            )));
        };
        let read = |text: &str, low, high, names: &[&str]| {
            field(text, low, high, names).ok_or_else(|| wrong(&format!("bad field {text:?}")))
        };
        let weekday = read(weekdays, 0, 7, &WEEKDAYS)?;
        Ok(Self::Times(Box::new(Times {
            minutes: read(minutes, 0, 59, &[])?,
            hours: read(hours, 0, 23, &[])?,
            days: read(days, 1, 31, &[])?,
            months: read(months, 1, 12, &MONTHS)?,
            // Sunday may be written as seven.
            weekdays: (weekday | weekday >> 7) & 0x7f,
            any_day: days.starts_with(['*', '?']),
            any_weekday: weekdays.starts_with(['*', '?']),
        })))
    }

    /// The first time after this one.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => after.checked_add(*every).ok(),
            Self::Times(times) => times.next(after, zone),
        }
    }
}

impl Times {
    fn on(&self, date: Date) -> bool {
        let day = self.days & 1 << date.day() != 0;
        let weekday = self.weekdays & 1 << date.weekday().to_sunday_zero_offset() != 0;
        let month = self.months & 1 << date.month() != 0;
        // If both are restricted, either will do.
        month
            && if self.any_day || self.any_weekday {
                day && weekday
            } else {
                day || weekday
            }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let mut date = start.date();
        // A day that comes at all (29 February on a Monday) comes within 28 years, or 40 around the end of a century.
        for _ in 0..366 * 40 {
            if self.on(date)
                && let Some(found) = self.within(date, after, zone)
            {
                return Some(found);
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn within(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        for hour in (0..24i8).filter(|hour| self.hours & 1 << hour != 0) {
            for minute in (0..60i8).filter(|minute| self.minutes & 1 << minute != 0) {
                let wall = DateTime::from_parts(date, Time::new(hour, minute, 0, 0).ok()?);
                // A time that the clocks skip doesn't happen; one that comes twice happens at its first coming.
                let Ok(at) = zone.to_ambiguous_zoned(wall).compatible() else {
                    continue;
                };
                if at.datetime() == wall && at.timestamp() > after {
                    return Some(at.timestamp());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() {
        for (schedule, after, expected) in [
            (
                "*/5 * * * *",
                "2026-01-01T00:03:20Z",
                "2026-01-01T00:05:00Z",
            ),
            (
                "0 9-17/4 * * MON-FRI",
                "2026-01-02T17:00:00Z",
                "2026-01-05T09:00:00Z",
            ),
            (
                "30 2 29 feb *",
                "2026-01-01T00:00:00Z",
                "2028-02-29T02:30:00Z",
            ),
            ("0 0 13 * 5", "2026-02-01T00:00:00Z", "2026-02-06T00:00:00Z"),
            ("@monthly", "2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
        ] {
            let next = Schedule::parse(schedule)
                .unwrap()
                .next(after.parse().unwrap(), &TimeZone::UTC);
            assert_eq!(next, Some(expected.parse().unwrap()), "{schedule}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(
            never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC),
            None
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for schedule in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@sometimes",
            "@every x",
        ] {
            assert!(Schedule::parse(schedule).is_err(), "{schedule}");
        }
    }
}

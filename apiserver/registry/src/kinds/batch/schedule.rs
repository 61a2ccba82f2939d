//! Schedules in cron's notation: whether one is well-formed.

/// The names and bounds of the five fields.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (
        1,
        12,
        &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    ),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const DESCRIPTORS: &[&str] = &[
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// What is wrong with a schedule.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let mut rest = schedule;
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        let (zone, after) = rest
            .split_once(' ')
            .ok_or_else(|| format!("provided bad location {schedule}"))?;
        let name = zone.split_once('=').map_or("", |(_, n)| n);
        jiff::tz::TimeZone::get(name)
            .map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?;
        rest = after.trim();
    }
    if rest.starts_with('@') {
        return match rest.strip_prefix("@every ") {
            Some(every) if is_duration(every) => Ok(()),
            Some(every) => Err(format!(
                "failed to parse duration @every {every}: time: invalid duration \"{every}\""
            )),
            None if DESCRIPTORS.contains(&rest) => Ok(()),
            None => Err(format!("unrecognized descriptor: {rest}")),
        };
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    for (field, bounds) in fields.iter().zip(FIELDS) {
        for range in field.split(',').filter(|r| !r.is_empty()) {
            check_range(range, bounds)?;
        }
    }
    Ok(())
}

fn is_duration(text: &str) -> bool {
    let mut rest = text;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        if digits == 0 {
            return false;
        }
        let Some(unit) = ["ms", "us", "ns", "h", "m", "s"]
            .iter()
            .find(|u| rest[digits..].starts_with(**u))
        else {
            return false;
        };
        rest = &rest[digits + unit.len()..];
        any = true;
    }
    any
}

fn check_range(text: &str, (low, high, names): (u32, u32, &[&str])) -> Result<(), String> {
    let parse = |value: &str| -> Result<u32, String> {
        if let Some(i) = names.iter().position(|n| n.eq_ignore_ascii_case(value)) {
            return Ok(low + u32::try_from(i).unwrap_or_default());
        }
        value.parse::<u32>().map_err(|_| format!("failed to parse int from {value}: strconv.Atoi: parsing \"{value}\": invalid syntax"))
    };
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 2 {
        return Err(format!("too many slashes: {text}"));
    }
    let (start, end) = match parts[0] {
        "*" | "?" => (low, high),
        range => match range.split('-').collect::<Vec<_>>().as_slice() {
            [one] => (
                parse(one)?,
                if parts.len() == 2 { high } else { parse(one)? },
            ),
            [a, b] => (parse(a)?, parse(b)?),
            _ => return Err(format!("too many hyphens: {text}")),
        },
    };
    if parts.len() == 2 && parse(parts[1])? == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    if start < low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({low}): {text}"
        ));
    }
    if end > high {
        return Err(format!(
            "end of range ({end}) above maximum ({high}): {text}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {text}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-3 1,15 jan-mar MON",
            "@hourly",
            "@every 1h30m",
            "0 0 ? * 6",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(
            check("* * * *").unwrap_err(),
            "expected exactly 5 fields, found 4: [* * * *]"
        );
        for bad in [
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "*/0 * * * *",
            "@never",
            "5-1 * * * *",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}

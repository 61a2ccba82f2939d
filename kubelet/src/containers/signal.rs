//! Signal names of images and pods.

/// The number of `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
pub fn parse(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The kernel's numbers as glibc shows them: the first two real-time signals are its own.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    if let Some(rest) = short.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+')?.parse().ok()?
        };
        return (0..=RTMAX - RTMIN)
            .contains(&offset)
            .then_some(RTMIN + offset);
    }
    if let Some(rest) = short.strip_prefix("RTMAX") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('-')?.parse().ok()?
        };
        return (0..=RTMAX - RTMIN)
            .contains(&offset)
            .then_some(RTMAX - offset);
    }
    format!("SIG{short}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("SIGRTMIN+-1", None),
            ("0", None),
            ("nonsense", None),
        ] {
            assert_eq!(parse(name), number, "{name}");
        }
    }
}

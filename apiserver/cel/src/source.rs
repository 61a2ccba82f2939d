//! Where in an expression something is, and the faults that are found there, in cel-go's form.

use std::fmt;

/// How many faults are told.
const MAX_FAULTS: usize = 100;
/// The longest line that is shown.
const MAX_SNIPPET: usize = 16384;

/// A place: line from 1, column from 0 in code points; -1 for nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub line: i64,
    pub column: i64,
}

/// Nowhere in particular.
pub(crate) const NOWHERE: Location = Location {
    line: -1,
    column: -1,
};

/// One thing that is wrong with an expression.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub location: Location,
    pub message: String,
}

/// Why an expression is refused; displays as cel-go's issues do.
#[derive(Debug, Clone, thiserror::Error)]
pub struct CompileError {
    text: String,
    first: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CompileError {
    /// The first fault's message, without its place.
    pub fn first_message(&self) -> &str {
        &self.first
    }

    pub(crate) fn new(source: &str, mut faults: Vec<Fault>) -> CompileError {
        let first = faults
            .first()
            .map(|fault| fault.message.clone())
            .unwrap_or_default();
        let count = faults.len();
        faults.truncate(MAX_FAULTS);
        faults.sort_by_key(|fault| fault.location);
        let mut lines: Vec<String> = faults.iter().map(|fault| display(source, fault)).collect();
        if count > MAX_FAULTS {
            lines.push(format!("{} more errors were truncated", count - MAX_FAULTS));
        }
        CompileError {
            text: lines.join("\n"),
            first,
        }
    }
}

fn display(source: &str, fault: &Fault) -> String {
    let Location { line, column } = fault.location;
    let mut text = format!("ERROR: <input>:{line}:{}: {}", column + 1, fault.message);
    let snippet = usize::try_from(line - 1)
        .ok()
        .and_then(|line| source.split('\n').nth(line));
    if let Some(snippet) = snippet.filter(|s| s.len() <= MAX_SNIPPET) {
        let snippet = snippet.replace('\t', " ");
        text.push_str("\n | ");
        text.push_str(&snippet);
        text.push_str("\n | ");
        let wide = |c: char| c.len_utf8() > 1;
        let mut rest = snippet.chars();
        for _ in 0..column.max(0) {
            match rest.next() {
                Some(c) => text.push(if wide(c) { '\u{ff0e}' } else { '.' }),
                None => break,
            }
        }
        text.push(if rest.next().is_some_and(wide) {
            '\u{ff3e}'
        } else {
            '^'
        });
    }
    text
}

/// The places of the offsets of an expression.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub fn new(source: &[char]) -> Lines {
        let ends = source
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == '\n')
            .map(|(i, _)| i + 1)
            .collect();
        Lines { ends }
    }

    /// The place of an offset in code points.
    pub fn at(&self, offset: usize) -> Location {
        let line = self.ends.partition_point(|end| *end <= offset);
        let start = if line == 0 { 0 } else { self.ends[line - 1] };
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        Location {
            line: number(line + 1),
            column: number(offset - start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_point_at_their_place() {
        let source = "a &&\n\tb + ü";
        let lines = Lines::new(&source.chars().collect::<Vec<_>>());
        assert_eq!(lines.at(6), Location { line: 2, column: 1 });
        let fault = Fault {
            location: lines.at(10),
            message: "wrong".into(),
        };
        assert_eq!(
            CompileError::new(source, vec![fault]).to_string(),
            "ERROR: <input>:2:6: wrong\n |  b + ü\n | .....\u{ff3e}"
        );
        let nowhere = Fault {
            location: NOWHERE,
            message: "deep".into(),
        };
        assert_eq!(
            CompileError::new(source, vec![nowhere]).to_string(),
            "ERROR: <input>:-1:0: deep"
        );
    }
}

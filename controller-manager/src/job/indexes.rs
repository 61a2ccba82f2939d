//! Sets of completion indexes and their text form, such as `0,2-4`. No I/O.

use std::collections::BTreeSet;
use std::fmt::Write;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(pub BTreeSet<i32>);

/// The largest number of completions that the API server takes; a text that claims more is not believed.
const MOST: i32 = 100_000;

impl Indexes {
    /// Reads the text form; what is beyond `completions` or makes no sense is left out.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                set.extend(first.max(0)..=last.min(completions.min(MOST) - 1));
            }
        }
        Self(set)
    }

    /// The text form: runs of three and more with a dash.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut rest = self.0.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek() == Some(&(last + 1)) {
                last += 1;
                rest.next();
            }
            if !text.is_empty() {
                text.push(',');
            }
            // Writing to a string cannot fail.
            let _ = match last - first {
                0 => write!(text, "{first}"),
                1 => write!(text, "{first},{last}"),
                _ => write!(text, "{first}-{last}"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,1,3"] {
            assert_eq!(Indexes::parse(text, 10).text(), text);
        }
        assert_eq!(Indexes::parse("0-99,x", 3).text(), "0-2");
    }
}

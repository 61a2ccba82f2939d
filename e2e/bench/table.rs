//! The figures, row by row, ours beside upstream's.

use std::collections::BTreeMap;

/// Figures by what was measured; rows in the order in which they came.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<(String, &'static str)>,
    values: BTreeMap<(String, &'static str), f64>,
}

impl Table {
    /// Notes a figure and shows it at once.
    pub fn put(&mut self, row: &str, unit: &'static str, side: &'static str, value: f64) {
        eprintln!("   {side}: {row}: {} {unit}", short(value));
        if !self.rows.iter().any(|(have, _)| have == row) {
            self.rows.push((row.to_owned(), unit));
        }
        self.values.insert((row.to_owned(), side), value);
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("| | unit | ours | upstream | ours : upstream |");
        println!("| --- | --- | ---: | ---: | ---: |");
        for (row, unit) in &self.rows {
            let value = |side| self.values.get(&(row.clone(), side)).copied();
            let (ours, theirs) = (value("ours"), value("upstream"));
            let show = |v: Option<f64>| v.map(short).unwrap_or_default();
            let ratio = match (ours, theirs) {
                (Some(ours), Some(theirs)) if theirs > 0.0 => short(ours / theirs),
                _ => String::new(),
            };
            println!(
                "| {row} | {unit} | {} | {} | {ratio} |",
                show(ours),
                show(theirs)
            );
        }
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle of some measurements.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_medians_in_the_middle() {
        assert_eq!(
            [1234.5, 12.345, 1.2345, 0.01234].map(short),
            ["1234", "12.3", "1.23", "0.0123"]
        );
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}

//! What the demo says: plain text, aligned, no colour.

use std::io::{self, Write as _};
use std::time::Duration;

/// Is the width of the first column, which names what a paragraph is about.
const LABEL_WIDTH: usize = 12;

/// Writes to standard output; a reader that goes early is no failure.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// Writes a paragraph: its label, and its lines beside it.
pub(super) fn paragraph(label: &str, lines: &[String]) {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    let text: String = labels.zip(lines).map(|(label, line)| format!("{label:LABEL_WIDTH$}{line}\n")).collect();
    say(&text);
}

/// Sorts latencies and reads from them.
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Takes the latencies, in any order.
    pub(super) fn new(latencies: impl Iterator<Item = Duration>) -> Self {
        let mut latencies: Vec<Duration> = latencies.collect();
        latencies.sort_unstable();
        Self(latencies)
    }

    /// Says whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the least latency that so many percent do not exceed; none where there are no latencies.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    /// Writes a row of the table: the count, p50, p99 and the longest.
    pub(super) fn row(&self, label: &str) -> String {
        let cells = [50, 99, 100].map(|percent| self.percentile(percent).map_or_else(String::new, milliseconds));
        format!("{label:26}{:>8}{}", grouped(self.0.len()), cells.map(|cell| format!("{cell:>12}")).concat())
    }

    /// Writes the heading over the rows.
    pub(super) fn heading() -> String {
        format!("{:26}{:>8}{:>12}{:>12}{:>12}", "until the ACK was back", "count", "p50", "p99", "longest")
    }
}

/// Writes a duration in milliseconds, with three digits or so.
pub(super) fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    let decimals = if milliseconds < 10.0 { 2 } else { usize::from(milliseconds < 100.0) };
    format!("{milliseconds:.decimals$} ms")
}

/// Writes a number with a comma at each thousand.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && position % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a size in megabytes.
pub(super) fn megabytes(bytes: usize) -> String {
    let tenths = (bytes + 50_000) / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latencies = Latencies::new((1..=200).rev().map(Duration::from_millis));
        assert_eq!(latencies.percentile(50), Some(Duration::from_millis(100)));
        assert_eq!(latencies.percentile(99), Some(Duration::from_millis(198)));
        assert_eq!(latencies.percentile(100), Some(Duration::from_millis(200)));
        assert_eq!(Latencies::new(std::iter::once(Duration::ZERO)).percentile(50), Some(Duration::ZERO));
        assert_eq!(Latencies::new(std::iter::empty()).percentile(99), None);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 12_345, 1_234_567].map(grouped), ["0", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!([0, 149_999, 14_150_000].map(megabytes), ["0.0 MB", "0.1 MB", "14.2 MB"]);
        let durations = [420, 12_340, 123_400].map(Duration::from_micros).map(milliseconds);
        assert_eq!(durations, ["0.42 ms", "12.3 ms", "123 ms"]);
    }

    #[test]
    fn columns_stand_under_their_heading() {
        let row = Latencies::new(std::iter::once(Duration::from_millis(3))).row("ORM order");
        assert_eq!(row.len(), Latencies::heading().len());
    }
}

//! Durations and sizes with their units (`"50 ms"`, `"2 GiB"`). Pure: text in, number out.

use std::time::Duration;

const DURATIONS: [(&str, f64); 8] = [
    ("us", 1.0),
    ("µs", 1.0),
    ("ms", 1e3),
    ("s", 1e6),
    ("min", 6e7),
    ("m", 6e7),
    ("h", 3.6e9),
    ("d", 8.64e10),
];
const SIZES: [(&str, f64); 8] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];
/// Doubles count whole numbers exactly up to here.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a duration; `None` if it is none, or longer than 285 years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_micros)
}

/// Reads a size in bytes; `None` if it is none, or larger than 8 PiB.
pub(super) fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

fn quantity(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.trim().parse().ok()?;
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let whole = (number * factor).round();
    (0.0..EXACT).contains(&whole).then_some(whole as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_units() {
        for (text, us) in [
            ("500 ms", Some(500_000)),
            ("1s", Some(1_000_000)),
            ("1.5 s", Some(1_500_000)),
            ("10 min", Some(600_000_000)),
            ("7 d", Some(604_800_000_000)),
            ("0 ms", Some(0)),
            ("5", None),
            ("s", None),
            ("-1 s", None),
            ("1 fortnight", None),
            ("1e300 s", None),
            ("", None),
        ] {
            assert_eq!(duration(text), us.map(Duration::from_micros), "{text:?}");
        }
        for (text, bytes) in [
            ("2 GiB", Some(2 << 30)),
            ("512 MiB", Some(512 << 20)),
            ("10 MB", Some(10_000_000)),
            ("100 B", Some(100)),
            ("2 gib", None),
            ("NaN GiB", None),
            ("2", None),
        ] {
            assert_eq!(size(text), bytes, "{text:?}");
        }
    }
}

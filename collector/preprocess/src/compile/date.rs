//! Times as attribute files write them: a date, or a date and time in UTC or with an offset.

/// Reads `2026-03-01`, `2026-03-01T06:00:00Z`, `2026-03-01 06:00:00+01:00`.
/// *Units*: microseconds since 1970-01-01 UTC.
///
/// *Source*: RFC 3339; days by Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`.
pub(super) fn parse_us(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut parts = date.split('-');
    let year: i64 = digits(parts.next()?, 4)?;
    let month: i64 = digits(parts.next()?, 2)?;
    let day: i64 = digits(parts.next()?, 2)?;
    if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (time, offset_s) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => match time.rfind(['+', '-']) {
            Some(at) => {
                let (time, offset) = time.split_at(at);
                let (hours, minutes) = offset.get(1..)?.split_once(':')?;
                let s = digits(hours, 2)? * 3600 + digits(minutes, 2)? * 60;
                (time, if offset.starts_with('-') { -s } else { s })
            }
            None => (time, 0),
        },
    };
    let mut parts = time.split(':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |s| digits(s.split('.').next()?, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second - offset_s) * 1_000_000)
}

fn digits(text: &str, length: usize) -> Option<i64> {
    (text.len() == length && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_utc() {
        let cases = [
            ("1970-01-01", Some(0)),
            ("2024-03-01T00:00:00Z", Some(1_709_251_200_000_000)),
            ("2024-03-01 01:00:00+01:00", Some(1_709_251_200_000_000)),
            ("2024-02-29T23:59:59Z", Some(1_709_251_199_000_000)),
            ("2024-3-1", None),
            ("2024-13-01", None),
            ("yesterday", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_us(text), expected, "{text}");
        }
    }
}

//! Numbers as people read them. Exact ones are in the JSON output.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `512 B`, `12.3 KiB`, `65.25 MiB`, `12.00 GiB`; gibibytes from ten on, so that most sizes of one
/// table have one unit.
pub(crate) fn bytes(n: u64) -> String {
    let of = |unit: u64| n as f64 / unit as f64;
    match n {
        0..KIB => format!("{n} B"),
        KIB..MIB => format!("{:.1} KiB", of(KIB)),
        _ if n < 10 * GIB => format!("{:.2} MiB", of(MIB)),
        _ => format!("{:.2} GiB", of(GIB)),
    }
}

/// The least tenth of a mebibyte that holds `n` bytes, as `--memory-budget` reads it: `40.3MiB`.
pub(crate) fn budget(n: u64) -> String {
    let tenths = (u128::from(n) * 10).div_ceil(u128::from(MIB));
    format!("{}.{}MiB", tenths / 10, tenths % 10)
}

/// `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, which takes an s unless it is one.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `45 s`, `2 min 10 s`, `1 h 05 min`.
pub(crate) fn time(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.round()).unwrap_or_default().as_secs();
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A short time with its digits: `0.0123 s`, `1.23 s`, `12.3 s`.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{s:.4} s"),
        s if s < 10.0 => format!("{s:.2} s"),
        s => format!("{s:.1} s"),
    }
}

/// `412 tokens/s`, `4.2 tokens/s`.
pub(crate) fn rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        rate if rate < 99.95 => format!("{rate:.1} tokens/s"),
        rate => format!("{} tokens/s", count(rate.round() as u64)),
    }
}

/// The share of a part in a whole: `35.7 %`.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 { 100.0 * part / whole } else { 0.0 };
    format!("{share:.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (MIB, "1.00 MiB"),
            (42_257_408, "40.30 MiB"),
            (3 * GIB, "3072.00 MiB"),
            (12 * GIB, "12.00 GiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn budgets_round_up() {
        let cases = [(0, "0.0MiB"), (1, "0.1MiB"), (MIB, "1.0MiB"), (MIB + 1, "1.1MiB")];
        for (n, text) in cases {
            assert_eq!(budget(n), text);
        }
    }

    #[test]
    fn counts_and_nouns() {
        let texts = [0, 12, 123, 1234, 123_456, 1_234_567].map(count);
        assert_eq!(texts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
        assert_eq!([0, 1, 2].map(|n| counted(n, "token")), ["0 tokens", "1 token", "2 tokens"]);
    }

    #[test]
    fn times_and_rates() {
        let texts = [0.4, 59.6, 130.0, 3900.0, f64::INFINITY, f64::NAN].map(time);
        assert_eq!(texts, ["0 s", "1 min 00 s", "2 min 10 s", "1 h 05 min", "0 s", "0 s"]);
        assert_eq!([0.01234, 1.234, 12.34].map(seconds), ["0.0123 s", "1.23 s", "12.3 s"]);
        let texts = [4.21, 99.97, 1234.5].map(rate);
        assert_eq!(texts, ["4.2 tokens/s", "100 tokens/s", "1,235 tokens/s"]);
        assert_eq!([percent(1.0, 3.0), percent(1.0, 0.0)], ["33.3 %", "0.0 %"]);
    }
}

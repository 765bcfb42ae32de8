//! Numbers as a page shows them: three significant digits, units that people read.

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * 1024.0;
const GIB: f64 = MIB * 1024.0;

/// What stands where nothing was measured.
pub const NONE: &str = "–";

/// `512 B`, `12.3 KiB`, `165 MiB`, `1.02 GiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let (unit, name) = unit(n);
    match name {
        "B" => format!("{n} B"),
        name => format!("{} {name}", three(n as f64 / unit)),
    }
}

/// The unit that a size of `n` bytes is told in, and its name.
pub(super) fn unit(n: u64) -> (f64, &'static str) {
    match n as f64 {
        // A size that would be rounded up to 1024 of a unit is told in the next.
        n if n < KIB => (1.0, "B"),
        n if n < MIB - KIB / 2.0 => (KIB, "KiB"),
        n if n < GIB - MIB / 2.0 => (MIB, "MiB"),
        _ => (GIB, "GiB"),
    }
}

/// Three significant digits, whole numbers from a hundred on.
#[must_use]
pub fn three(x: f64) -> String {
    match x.abs() {
        _ if !x.is_finite() => NONE.into(),
        a if a < 9.995 => format!("{x:.2}"),
        a if a < 99.95 => format!("{x:.1}"),
        _ => count(x.round().abs() as u64, x < 0.0),
    }
}

/// A loss: three digits behind the point.
pub(super) fn loss(x: f64) -> String {
    if x.is_finite() { format!("{x:.3}") } else { NONE.into() }
}

/// `1,234,567`.
#[must_use]
pub fn whole(n: u64) -> String {
    count(n, false)
}

fn count(n: u64, negative: bool) -> String {
    let digits = n.to_string();
    let mut text = String::from(if negative { "−" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.45 s`, `12.3 s`, `2 min 10 s`, `1 h 05 min`.
pub(super) fn time(seconds: f64) -> String {
    if !(seconds.is_finite() && seconds >= 0.0) {
        return NONE.into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{} s", three(seconds)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// `0.45 J`, `12.3 kJ`, `1.20 MJ`.
pub(super) fn joules(n: f64) -> String {
    match n {
        n if n < 999.5 => format!("{} J", three(n)),
        n if n < 999.5e3 => format!("{} kJ", three(n / 1e3)),
        n => format!("{} MJ", three(n / 1e6)),
    }
}

/// A change as a share: `−12.3 %`.
pub(super) fn change(before: f64, after: f64) -> Option<String> {
    let share = 100.0 * (after - before) / before;
    let sign = if share < 0.0 { "−" } else { "+" };
    share.is_finite().then(|| format!("{sign}{:.1} %", share.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (12_595, "12.3 KiB"),
            (1_048_575, "1.00 MiB"),
            (172_900_000, "165 MiB"),
            (1_073_700_000, "1.00 GiB"),
            (3 << 30, "3.00 GiB"),
            (u64::MAX, "17,179,869,184 GiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
    }

    #[test]
    fn numbers_times_and_changes() {
        let cases = [(0.0, "0.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100")];
        for (x, text) in cases {
            assert_eq!(three(x), text);
        }
        assert_eq!(three(-1234.4), "−1,234");
        assert_eq!([three(f64::NAN), loss(f64::INFINITY)], [NONE, NONE]);
        assert_eq!(loss(2.34567), "2.346");
        assert_eq!(whole(1_234_567), "1,234,567");
        let times = [0.4567, 12.34, 59.6, 130.0, 3900.0, f64::NAN, -1.0].map(time);
        assert_eq!(
            times,
            ["0.46 s", "12.3 s", "1 min 00 s", "2 min 10 s", "1 h 05 min", NONE, NONE]
        );
        assert_eq!([0.25, 999.6, 1.2e6].map(joules), ["0.25 J", "1.00 kJ", "1.20 MJ"]);
        assert_eq!(change(2.0, 1.5).as_deref(), Some("−25.0 %"));
        assert_eq!(change(2.0, 3.0).as_deref(), Some("+50.0 %"));
        assert_eq!(change(0.0, 1.0), None);
    }
}

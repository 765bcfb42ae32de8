//! Sizes in bytes, as people write them.

/// A size in bytes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no size: expected a number with B, KB, MB, GB (powers of ten) or KiB, MiB, GiB"
)]
pub struct BudgetError {
    /// What was given.
    pub text: String,
}

/// Reads a size such as `256MiB`, `1.5 GB` or `4096`. KB, MB and GB are powers of ten; KiB, MiB and
/// GiB powers of two.
///
/// # Errors
/// [`BudgetError`] when the text is no such size.
pub fn parse_bytes(text: &str) -> Result<u64, BudgetError> {
    let bad = || BudgetError { text: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(bad()),
    };
    let bytes = number * factor as f64;
    if bytes.is_finite() && bytes < 2f64.powi(63) { Ok(bytes as u64) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_read_decimal_and_binary_units() {
        let read = |text| parse_bytes(text).ok();
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("256MiB"), Some(256 << 20));
        assert_eq!(read("130 MB"), Some(130_000_000));
        assert_eq!(read("1.5gib"), Some(3 << 29));
        for bad in ["", "MiB", "12 parsecs", "1e400GB", "-1", "..", "99999999999999999999GB"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

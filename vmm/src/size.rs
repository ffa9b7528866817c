//! Human-readable sizes: `268435456`, `256M`, `1.5G`.

use crate::layout::{GIB, KIB, MIB};

/// Suffixes and their values in bytes: powers of 1024, as in all virtual machine monitors.
const UNITS: [(&str, u64); 4] = [("T", GIB * 1024), ("G", GIB), ("M", MIB), ("K", KIB)];

/// Parses a size: a decimal number of bytes, or of KiB, MiB, GiB or TiB if K, M, G or T follows (or
/// `MiB`, `mb`).
///
/// The error says what is expected. The caller adds the invalid value.
pub fn parse(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_uppercase();
    let bare = lower
        .strip_suffix("IB")
        .or_else(|| lower.strip_suffix('B'))
        .unwrap_or(&lower);
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| bare.strip_suffix(suffix).map(|number| (number, *unit)))
        .unwrap_or((bare, 1));
    // `512B` means bytes; `512iB` is a typing error.
    let slip = unit == 1 && lower.ends_with("IB");
    (!slip)
        .then(|| exact(number, unit))
        .flatten()
        .ok_or_else(|| "expected a size such as 256M, 1.5G or a number of bytes".into())
}

/// Returns `number` (decimal, with an optional fraction) times `unit`, if that is a whole number of
/// bytes below 2^64.
fn exact(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled = whole
        .parse::<u128>()
        .ok()?
        .checked_mul(scale)?
        .checked_add(fraction.parse().ok()?)?
        .checked_mul(u128::from(unit))?;
    (scaled % scale == 0)
        .then(|| u64::try_from(scaled / scale).ok())
        .flatten()
}

/// Formats a size in the largest unit that needs no fraction: `256M`, `1536M`, `1000`.
pub fn show(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || bytes.to_string(),
            |(suffix, unit)| format!("{}{suffix}", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("16K", 16 << 10),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("0.25M", 256 << 10),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_or_no_whole_number_of_bytes_is_refused() {
        for text in [
            "",
            "M",
            "-1M",
            "+1M",
            "1.M",
            ".5M",
            "1.5",
            "0.3K",
            "1e3",
            "1 M",
            "12iB",
            "0x10",
            "1MM",
            "١M",
            "99999999999999999999",
            "99999999999T",
            "1.00000000000000000000000000000000000000000001G",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back_as_the_same_size() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (3 << 29, "1536M"),
            (2 << 40, "2T"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(show(bytes), text);
            assert_eq!(parse(text), Ok(bytes));
        }
    }
}

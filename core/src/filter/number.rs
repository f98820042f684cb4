//! Decimal numbers as they are written, compared without rounding.

use std::cmp::Ordering;

/// A number taken apart: `0.DIGITS` times ten to the power of `point`.
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    /// Leading zeros of the digits.
    skip: usize,
    point: i64,
}

impl<'a> Decimal<'a> {
    fn of(text: &'a str) -> Self {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') {
            i64::MIN / 2
        } else {
            i64::MAX / 2
        });
        let exponent = exponent.clamp(i64::MIN / 2, i64::MAX / 2);
        let mut decimal = Self {
            is_negative,
            whole: whole.as_bytes(),
            fraction: fraction.as_bytes(),
            skip: 0,
            point: 0,
        };
        decimal.skip = decimal.all().take_while(|digit| *digit == b'0').count();
        decimal.point = exponent + whole.len() as i64 - decimal.skip as i64;
        decimal
    }

    fn all(&self) -> impl Iterator<Item = u8> + 'a {
        self.whole.iter().chain(self.fraction).copied()
    }

    /// Without leading zeros.
    fn digits(&self) -> impl Iterator<Item = u8> + 'a {
        self.all().skip(self.skip)
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.digits().next(), self.is_negative) {
            (None, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        }
    }
}

/// Compares two JSON numbers by their value, whatever their size and spelling.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (Decimal::of(left), Decimal::of(right));
    let signs = left.sign().cmp(&right.sign());
    if signs.is_ne() || left.sign() == 0 {
        return signs;
    }
    let magnitude = left.point.cmp(&right.point).then_with(|| {
        let (mut left, mut right) = (left.digits(), right.digits());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                (left, right) => match left.unwrap_or(b'0').cmp(&right.unwrap_or(b'0')) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                },
            }
        }
    });
    if left.is_negative { magnitude.reverse() } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_values_not_spellings() {
        let check = |left: &str, right: &str, expect: Ordering| {
            assert_eq!(compare(left, right), expect, "{left} {right}");
            assert_eq!(compare(right, left), expect.reverse(), "{right} {left}");
        };
        check("1", "1.0", Ordering::Equal);
        check("100", "1e2", Ordering::Equal);
        check("0.1", "1E-1", Ordering::Equal);
        check("-0", "0.00e9", Ordering::Equal);
        check("1e+2", "100.0", Ordering::Equal);
        check("9007199254740993", "9007199254740992", Ordering::Greater);
        check("-2", "-1", Ordering::Less);
        check("-2", "1", Ordering::Less);
        check("10", "9", Ordering::Greater);
        check("0.09", "0.1", Ordering::Less);
        check("1e400", "1e399", Ordering::Greater);
        check("1e99999999999999999999", "1", Ordering::Greater);
        check("1e-99999999999999999999", "0", Ordering::Greater);
        check("1e-99999999999999999999", "1e-5", Ordering::Less);
    }
}

//! Money in exact decimals: a decimal string and a currency code, per hour.
use crate::error::Fault;
use crate::names::Currency;
use crate::units::Millis;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount per hour: not negative, at most 12 digits before the point and 9 behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Amount(Decimal);

impl Amount {
    pub const ZERO: Amount = Amount(Decimal::ZERO);
    const MOST: i64 = 1_000_000_000_000;
    /// A century: beyond any lease, and the largest amount times it is still a decimal.
    const LONGEST: Millis = Millis::secs(100 * 366 * 86_400);

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
    pub fn decimal(self) -> Decimal {
        self.0
    }
    /// What this hourly amount comes to over a time, exactly.
    pub fn over(self, time: Millis) -> Decimal {
        // 3,600,000 ms an hour; both factors are bounded, so the product fits 96 bits after rounding to 12 places.
        (self.0 * Decimal::from(time.0.min(Self::LONGEST.0)) / Decimal::from(3_600_000)).round_dp(12)
    }
}
impl FromStr for Amount {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::invalid(format!("'{}' is not an amount of money", text.chars().take(40).collect::<String>()))
                .hint("use a decimal number such as 0.02; it may not be negative")
        };
        let amount = Decimal::from_str_exact(text).map_err(|_| bad())?;
        if amount.is_sign_negative() && !amount.is_zero() || amount >= Decimal::from(Self::MOST) || amount.scale() > 9 {
            return Err(bad());
        }
        Ok(Amount(amount.normalize()))
    }
}
impl TryFrom<String> for Amount {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}
impl From<Amount> for String {
    fn from(amount: Amount) -> String {
        amount.to_string()
    }
}
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A price per hour with its currency.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Price {
    pub per_hour: Amount,
    pub currency: Currency,
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/h", self.per_hour, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!("0.020".parse::<Amount>().unwrap().to_string(), "0.02");
        assert!("0".parse::<Amount>().unwrap().is_zero());
        for bad in ["", "-1", "1e3", "NaN", "1,5", "1000000000000", "0.0000000001", "1 EUR"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
        assert_eq!("0.02".parse::<Amount>().unwrap().over(Millis::secs(1800)).to_string(), "0.01");
        // The largest of both must not overflow.
        assert!("999999999999.999999999".parse::<Amount>().unwrap().over(Millis(u64::MAX)) > Decimal::ZERO);
    }
}

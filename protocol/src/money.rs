//! Money in exact decimals: a decimal string and a currency code, per hour.
use crate::error::Fault;
use crate::names::Currency;
use crate::units::Millis;
use rust_decimal::{Decimal, RoundingStrategy};
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
    /// The most that an hour may cost for so much time to come to no more than this.
    pub fn an_hour_of(self, time: Millis) -> Amount {
        let whole = self.0 * Decimal::from(3_600_000) / Decimal::from(time.0.clamp(1, Self::LONGEST.0));
        let hour = whole.round_dp_with_strategy(9, RoundingStrategy::ToZero);
        Amount(hour.min(Decimal::from(Self::MOST - 1)).normalize())
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

/// An amount that has come together, exact to 12 places behind the point: not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(Decimal);

impl Sum {
    pub const ZERO: Sum = Sum(Decimal::ZERO);
    /// 10^16: with 12 places behind the point it still fits a decimal's 96 bits. Beyond it nothing is added.
    const MOST: Decimal = Decimal::from_parts(0x6FC1_0000, 0x0023_86F2, 0, false, 0);
    const PLACES: u32 = 12;

    /// A price over so many seconds.
    pub fn of(price: &Price, seconds: u64) -> Sum {
        Sum::within(price.per_hour.over(Millis::secs(seconds.min(Amount::LONGEST.as_secs()))))
    }
    fn within(decimal: Decimal) -> Sum {
        Sum(decimal.clamp(Decimal::ZERO, Self::MOST).normalize())
    }
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
    pub fn plus(self, other: Sum) -> Sum {
        Sum::within(self.0 + other.0)
    }
    /// What is left, if anything is.
    pub fn minus(self, other: Sum) -> Sum {
        Sum::within(self.0 - other.0)
    }
    /// How long it lasts at so much an hour.
    pub fn lasts_at(self, per_hour: Sum) -> Millis {
        let hours = if per_hour.is_zero() { None } else { self.0.checked_div(per_hour.0) };
        let millis = hours.and_then(|hours| hours.checked_mul(Decimal::from(3_600_000)));
        let millis = millis.and_then(|millis| u64::try_from(millis.trunc()).ok());
        Millis(millis.unwrap_or(Amount::LONGEST.0).min(Amount::LONGEST.0))
    }
}
impl FromStr for Sum {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let bad = || {
            Fault::invalid(format!("'{}' is not an amount of money", text.chars().take(40).collect::<String>()))
                .hint("use a decimal number such as 12.50; it may not be negative")
        };
        let sum = Decimal::from_str_exact(text).map_err(|_| bad())?;
        let fits = (Decimal::ZERO..=Self::MOST).contains(&sum) && sum.scale() <= Self::PLACES;
        if fits { Ok(Sum(sum.normalize())) } else { Err(bad()) }
    }
}
impl TryFrom<String> for Sum {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}
impl From<Sum> for String {
    fn from(sum: Sum) -> String {
        sum.to_string()
    }
}
impl fmt::Display for Sum {
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

    #[test]
    fn a_budget_is_never_exceeded() {
        let hour = |budget: &str, time: Millis| budget.parse::<Amount>().unwrap().an_hour_of(time);
        assert_eq!(hour("1", Millis::secs(7200)).to_string(), "0.5");
        assert_eq!(hour("1", Millis::secs(3 * 3600)).to_string(), "0.333333333", "rounded down");
        assert_eq!(hour("0.01", Millis::secs(60)).to_string(), "0.6");
        assert!(hour("0", Millis::secs(60)).is_zero());
        for time in [Millis(0), Millis(u64::MAX)] {
            let most = hour("999999999999.999999999", time);
            assert_eq!(most.to_string().parse::<Amount>().unwrap(), most, "it is an amount itself");
        }
    }

    #[test]
    fn sums_are_exact_and_bounded() {
        let price = |per_hour: &str| Price { per_hour: per_hour.parse().unwrap(), currency: "EUR".parse().unwrap() };
        let third = Sum::of(&price("0.01"), 1);
        assert_eq!(third.to_string(), "0.000002777778");
        assert_eq!(Sum::of(&price("0.01"), 3600).to_string(), "0.01");
        assert_eq!("1.5".parse::<Sum>().unwrap().minus("2".parse().unwrap()), Sum::ZERO);
        assert_eq!("1.5".parse::<Sum>().unwrap().lasts_at("3".parse().unwrap()), Millis::secs(1800));
        assert_eq!(Sum::ZERO.lasts_at(Sum::ZERO), Amount::LONGEST);
        let most = Sum(Sum::MOST);
        assert_eq!(most.to_string(), "10000000000000000");
        assert_eq!(most.plus(most), most);
        assert!(Sum::of(&price("999999999999.999999999"), u64::MAX) <= most);
        for bad in ["-1", "1e3", "", "0.0000000000001", "10000000000000001"] {
            assert!(bad.parse::<Sum>().is_err(), "{bad}");
        }
    }
}

//! How long a message takes from one node to another.
use crate::rng::Dice;
use serde::{Deserialize, Serialize};

/// Cities with many hosts: name, latitude, longitude, and the country that adverts from there name.
const CITIES: [(&str, f64, f64, &str); 24] = [
    ("Frankfurt", 50.11, 8.68, "DE"),
    ("Amsterdam", 52.37, 4.90, "NL"),
    ("London", 51.51, -0.13, "GB"),
    ("Paris", 48.86, 2.35, "FR"),
    ("Helsinki", 60.17, 24.94, "FI"),
    ("Warsaw", 52.23, 21.01, "PL"),
    ("Madrid", 40.42, -3.70, "ES"),
    ("Milan", 45.46, 9.19, "IT"),
    ("Stockholm", 59.33, 18.07, "SE"),
    ("Zurich", 47.37, 8.54, "CH"),
    ("New York", 40.71, -74.01, "US"),
    ("Ashburn", 39.04, -77.49, "US"),
    ("Chicago", 41.88, -87.63, "US"),
    ("Dallas", 32.78, -96.80, "US"),
    ("San Jose", 37.34, -121.89, "US"),
    ("Toronto", 43.65, -79.38, "CA"),
    ("Sao Paulo", -23.55, -46.63, "BR"),
    ("Tokyo", 35.68, 139.69, "JP"),
    ("Seoul", 37.57, 126.98, "KR"),
    ("Singapore", 1.35, 103.82, "SG"),
    ("Mumbai", 19.08, 72.88, "IN"),
    ("Sydney", -33.87, 151.21, "AU"),
    ("Johannesburg", -26.20, 28.05, "ZA"),
    ("Dubai", 25.20, 55.27, "AE"),
];
/// Earth's mean radius.
const EARTH_KM: f64 = 6371.0;
/// Light in fibre: 204 km a millisecond (refractive index 1.47).
const KM_PER_MS: f64 = 204.0;
/// Fibre does not follow great circles, and packets do not follow the shortest fibre: round trips between data centres
/// are about twice what the distance would allow.
const DETOUR: f64 = 2.0;
/// Within one city, and from a host to the edge of its network.
const LAST_MILE_MS: f64 = 2.0;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Delays {
    /// By the distance between two of a set of cities.
    #[default]
    Cities,
    /// The same chance for all between these, in milliseconds; always the same for the same two nodes.
    Uniform { least: u16, most: u16 },
}

pub struct Links {
    delays: Delays,
    between: Vec<Vec<u16>>,
    /// In percent, beyond the delay.
    jitter: u64,
    /// In percent: a message that is lost comes with the next retransmission.
    loss: u32,
}

fn distance_km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let ((lat_a, lon_a), (lat_b, lon_b)) = ((a.0.to_radians(), a.1.to_radians()), (b.0.to_radians(), b.1.to_radians()));
    let half = |x: f64| (x / 2.0).sin().powi(2);
    // The haversine formula.
    let h = half(lat_b - lat_a) + lat_a.cos() * lat_b.cos() * half(lon_b - lon_a);
    2.0 * EARTH_KM * h.sqrt().asin()
}

/// A lost segment is sent again after this, when nothing is known of the path (RFC 6298 has 1 s; Linux's least is 0.2).
const RETRANSMIT_MS: u64 = 300;

impl Links {
    pub fn new(delays: Delays, jitter: u64, loss: u32) -> Self {
        let one_way = |a: &(&str, f64, f64, &str), b: &(&str, f64, f64, &str)| {
            (distance_km((a.1, a.2), (b.1, b.2)) * DETOUR / KM_PER_MS + LAST_MILE_MS).round() as u16
        };
        let between = CITIES.iter().map(|a| CITIES.iter().map(|b| one_way(a, b)).collect()).collect();
        Links { delays, between, jitter, loss }
    }
    pub fn cities() -> usize {
        CITIES.len()
    }
    pub fn country(city: u16) -> &'static str {
        CITIES[usize::from(city) % CITIES.len()].3
    }

    /// One way, without chance.
    pub fn usual(&self, a: (u32, u16), b: (u32, u16)) -> u64 {
        match self.delays {
            Delays::Cities => u64::from(self.between[usize::from(a.1)][usize::from(b.1)]),
            Delays::Uniform { least, most } => {
                let (low, high) = (a.0.min(b.0), a.0.max(b.0));
                let mixed = (u64::from(low) << 32 | u64::from(high)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                u64::from(least) + (mixed >> 32) % u64::from(most.saturating_sub(least).max(1))
            }
        }
    }
    pub fn delay(&self, dice: &mut Dice, a: (u32, u16), b: (u32, u16)) -> u64 {
        let usual = self.usual(a, b);
        let jitter = if self.jitter == 0 { 0 } else { dice.within(0..(usual * self.jitter / 100).max(1)) };
        let lost = if self.loss > 0 && dice.percent(self.loss) { RETRANSMIT_MS } else { 0 };
        usual + jitter + lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_what_the_distance_says() {
        let links = Links::new(Delays::Cities, 0, 0);
        let city = |name: &str| CITIES.iter().position(|city| city.0 == name).map_or(0, |n| n as u16);
        let between = |a, b| links.usual((0, city(a)), (1, city(b)));
        // Half the round trips that operators publish: about 80, 160 and 10 ms.
        for (a, b, least, most) in [
            ("London", "New York", 50, 65),
            ("Frankfurt", "Singapore", 95, 115),
            ("Frankfurt", "Amsterdam", 4, 8),
            ("Tokyo", "Tokyo", 2, 2),
        ] {
            let ms = between(a, b);
            assert!((least..=most).contains(&ms), "{a}–{b}: {ms} ms");
            assert_eq!(ms, between(b, a));
        }
    }

    #[test]
    fn a_drawn_link_is_the_same_both_ways_and_each_time() {
        let links = Links::new(Delays::Uniform { least: 20, most: 50 }, 0, 0);
        let drawn: std::collections::BTreeSet<u64> = (1..200).map(|n| links.usual((0, 0), (n, 0))).collect();
        assert!(drawn.len() > 20 && drawn.iter().all(|ms| (20..50).contains(ms)));
        assert_eq!(links.usual((3, 0), (9, 0)), links.usual((9, 0), (3, 0)));
    }
}

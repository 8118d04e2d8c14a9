//! Keys: choice of the key for the next request.
//!
//! Source of the distributions: the workloads of YCSB (Cooper et al., "Benchmarking Cloud Serving
//! Systems with YCSB", 2010). Unlike in YCSB, the rank of a key is not scrambled: it is the number
//! of the key, because the router's hash distributes consecutive keys over all shards.
//!
//! **Invariant:** every drawn number is less than the current number of keys.
//! **Not here:** the spelling of a key (`keyspace`), the request (`requests`).

use std::fmt;
use std::str::FromStr;

use rand_distr::{Distribution, Zipf};

use crate::random::Random;

/// Percentage of the draws that are hot keys.
const HOT_DRAWS_PERCENT: u32 = 90;
/// Exponent of the distribution `latest`, as in YCSB.
const LATEST_EXPONENT: f64 = 0.99;
/// Maximum exponent of a Zipf distribution: at 5, the first key gets nineteen of twenty draws.
const EXPONENT_MAX: f64 = 5.0;

/// Distribution of draws over the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dist {
    /// All keys are equally likely.
    Uniform,
    /// The probability of key n is proportional to 1 / (n + 1)^θ.
    Zipf(f64),
    /// The given percentage of the keys (the hot keys) gets 90 % of the draws.
    Hot(f64),
    /// Zipf distribution in which the newest key is the most likely.
    Latest,
}

impl FromStr for Dist {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "latest" => Ok(Self::Latest),
            Some(("zipf", exponent)) => match number(exponent) {
                Some(exponent) if exponent > 0.0 && exponent <= EXPONENT_MAX => {
                    Ok(Self::Zipf(exponent))
                }
                _ => Err(format!(
                    "zipf takes an exponent above 0, at most {EXPONENT_MAX}: zipf:0.99"
                )),
            },
            Some(("hot", share)) => {
                match share.strip_suffix('%').and_then(number) {
                    Some(share) if share > 0.0 && share < 100.0 => Ok(Self::Hot(share)),
                    _ => Err("hot takes a share of the keys above 0 % and below 100 %: hot:1%"
                        .to_owned()),
                }
            }
            None | Some(_) => Err("one of uniform, zipf:0.99, hot:1%, latest".to_owned()),
        }
    }
}

impl fmt::Display for Dist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Hot(share) => write!(f, "hot:{share}%"),
            Self::Latest => f.write_str("latest"),
        }
    }
}

/// Draws numbers of keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyChooser(Draw);

#[derive(Clone, Debug)]
enum Draw {
    Uniform,
    Zipf(Zipf<f64>),
    /// Number of hot keys.
    Hot(u32),
    Latest(Zipf<f64>),
}

impl KeyChooser {
    /// Creates a chooser for `keys` keys; `keys` must be at least 1.
    pub(crate) fn new(dist: Dist, keys: u32) -> anyhow::Result<Self> {
        let zipf = |exponent| Zipf::new(f64::from(keys), exponent);
        Ok(Self(match dist {
            Dist::Uniform => Draw::Uniform,
            Dist::Zipf(exponent) => Draw::Zipf(zipf(exponent)?),
            Dist::Hot(share) => {
                Draw::Hot(((f64::from(keys) * share / 100.0).round() as u32).clamp(1, keys))
            }
            Dist::Latest => Draw::Latest(zipf(LATEST_EXPONENT)?),
        }))
    }

    /// Returns the number of a key, which is less than `keys`. `keys` may have grown since the
    /// chooser was created.
    pub(crate) fn next(&self, random: &mut Random, keys: u32) -> u32 {
        match &self.0 {
            Draw::Uniform => random.below(keys),
            Draw::Zipf(zipf) => rank(zipf, random).min(keys - 1),
            Draw::Hot(hot) if random.below(100) < HOT_DRAWS_PERCENT || *hot == keys => {
                random.below(*hot)
            }
            Draw::Hot(hot) => hot + random.below(keys - hot),
            Draw::Latest(zipf) => keys - 1 - rank(zipf, random).min(keys - 1),
        }
    }
}

/// Returns a random rank, counted from 0; the distribution itself counts from 1.
fn rank(zipf: &Zipf<f64>, random: &mut Random) -> u32 {
    (zipf.sample(random) as u32).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u32 = 1_000;

    fn draws(dist: &str) -> Vec<u32> {
        let chooser = KeyChooser::new(dist.parse().unwrap(), KEYS).unwrap();
        let mut random = Random::of_user(1, 0);
        (0..100_000).map(|_| chooser.next(&mut random, KEYS)).collect()
    }

    fn share(draws: &[u32], wanted: impl Fn(u32) -> bool) -> f64 {
        draws.iter().filter(|&&key| wanted(key)).count() as f64 / draws.len() as f64
    }

    #[test]
    fn draws_have_the_requested_distribution() {
        assert!((0.09..0.11).contains(&share(&draws("uniform"), |key| key < 100)));
        // The expected share of the first key is 1 divided by the sum of 1/n for n from 1 to 1000,
        // which is 0.1336.
        assert!((0.12..0.15).contains(&share(&draws("zipf:1"), |key| key == 0)));
        assert!((0.12..0.15).contains(&share(&draws("latest"), |key| key == KEYS - 1)));
        assert!((0.89..0.91).contains(&share(&draws("hot:1%"), |key| key < 10)));
        for dist in ["uniform", "zipf:0.5", "zipf:5", "hot:0.01%", "hot:99.99%", "latest"] {
            assert!(draws(dist).iter().all(|&key| key < KEYS), "{dist}");
        }
    }

    #[test]
    fn latest_follows_keys_that_are_made_meanwhile() {
        let chooser = KeyChooser::new(Dist::Latest, 10).unwrap();
        let mut random = Random::of_user(1, 0);
        let draws: Vec<_> = (0..1_000).map(|_| chooser.next(&mut random, 500)).collect();
        assert!(draws.iter().all(|&key| (490..500).contains(&key)));
    }

    #[test]
    fn a_distribution_is_written_as_it_is_read() {
        for text in ["uniform", "zipf:0.99", "hot:1%", "latest"] {
            assert_eq!(text.parse::<Dist>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "zipf",
            "zipf:",
            "zipf:0",
            "zipf:-1",
            "zipf:NaN",
            "zipf:9",
            "hot:1",
            "hot:0%",
            "hot:100%",
            "normal",
            "uniform:1",
        ] {
            assert!(bad.parse::<Dist>().is_err(), "{bad}");
        }
    }
}

//! Axis: converts numbers to coordinates in a graph, and chooses the ticks of the axis.
//!
//! **Invariant:** a coordinate is finite and within the graph, and there are few ticks, whatever
//! the numbers are.
//! **Not here:** drawing (`frame`).

/// Ratio of the largest to the smallest value above which an axis is logarithmic: on a linear one,
/// small values would be flat.
const WIDE_SPREAD: f64 = 20.0;
/// Approximate number of ticks of a linear axis.
const TICKS: f64 = 5.0;
const TIME_TICKS: f64 = 9.0;
/// Steps between ticks, as multiples of powers of ten.
const NICE: [f64; 3] = [1.0, 2.0, 5.0];
/// Factor by which a computed power of ten may be wrong.
const SLACK: f64 = 1.0001;
/// Ratio of the ends of a logarithmic axis up to which there is room for more than powers of ten.
const FEW_DECADES: f64 = 5e3;
/// Steps between the ticks of a time axis, in seconds.
const TIME_STEPS: [f64; 19] = [
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0,
    3_600.0, 7_200.0, 14_400.0, 21_600.0,
];

/// A vertical axis.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// Equal steps are equal differences.
    Linear {
        /// End of the axis, which begins with 0.
        max: f64,
    },
    /// Equal steps are equal ratios.
    Logarithmic {
        /// Start of the axis.
        min: f64,
        /// End of the axis.
        max: f64,
    },
}

impl Scale {
    /// Creates an axis from 0 to `max` or a little more.
    pub fn linear(max: f64) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = step(max);
        Self::Linear { max: (max / step).ceil() * step }
    }

    /// Creates an axis for these values: logarithmic if they are far apart, else linear.
    pub fn fitting(values: impl Iterator<Item = f64>) -> Self {
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            (min, max) = (min.min(value), max.max(value));
        }
        if max > min * WIDE_SPREAD {
            return Self::Logarithmic { min: nice_below(min), max: nice_above(max) };
        }
        Self::linear(max)
    }

    /// Returns the height of a value: 0 to 1.
    pub fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear { max } => value / max,
            Self::Logarithmic { min, max } => (value.max(min) / min).ln() / (max / min).ln(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Returns the values that are written beside the axis.
    pub fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { max } => {
                let step = step(max);
                (0..=(max / step).round() as u32).map(|tick| f64::from(tick) * step).collect()
            }
            Self::Logarithmic { min, max } => logarithmic_ticks(min, max),
        }
    }

    /// Returns true if equal steps are equal ratios.
    pub fn is_logarithmic(self) -> bool {
        match self {
            Self::Linear { .. } => false,
            Self::Logarithmic { .. } => true,
        }
    }
}

/// Returns the step of a linear axis.
fn step(max: f64) -> f64 {
    nice_above(max / TICKS)
}

/// Returns the ticks of a logarithmic axis: powers of ten; where there are few, twice and five
/// times them as well.
fn logarithmic_ticks(min: f64, max: f64) -> Vec<f64> {
    let steps: &[f64] = if max / min > FEW_DECADES { &[1.0] } else { &NICE };
    let (first, last) = (min.log10().floor() as i32, max.log10().ceil() as i32);
    let powers = (first..=last).map(|power| 10_f64.powi(power));
    let ticks = powers.flat_map(|power| steps.iter().map(move |step| step * power));
    ticks.filter(|tick| (min * 0.999..=max * 1.001).contains(tick)).collect()
}

/// Returns the largest number of the form 1, 2 or 5 times a power of ten that is not above the
/// value.
fn nice_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let below = NICE.iter().rev().find(|nice| *nice * power <= value * SLACK);
    below.unwrap_or(&1.0) * power
}

/// Returns the smallest number of the form 1, 2 or 5 times a power of ten that is not below the
/// value.
fn nice_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let above = NICE.iter().find(|nice| value <= *nice * power * SLACK);
    above.unwrap_or(&10.0) * power
}

/// Returns the ticks of the time axis of a run, in seconds since its start.
pub fn time_ticks(seconds: f64) -> Vec<f64> {
    let fits = |step: &&f64| seconds / **step <= TIME_TICKS;
    let longest = TIME_STEPS[TIME_STEPS.len() - 1];
    let step = TIME_STEPS.iter().find(fits).copied();
    let step = step.unwrap_or_else(|| (seconds / TIME_TICKS / longest).ceil() * longest);
    (0..=(seconds / step).floor() as u32).map(|tick| f64::from(tick) * step).collect()
}

/// Formats a moment of a run as `0.5 s`, `12 s`, `2:30` or `1:00:00`, depending on the length of
/// the run.
pub fn moment(at_s: f64, run_s: f64) -> String {
    if run_s < 2.0 {
        return format!("{at_s:.1} s");
    }
    let seconds = at_s.max(0.0).round() as u64;
    match run_s {
        ..120.0 => format!("{seconds} s"),
        ..3_600.0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_within_the_graph_and_ticks_are_few() {
        for values in
            [&[][..], &[0.0], &[0.02], &[5.0, 7.0], &[0.1, 74_000.0], &[1.0, 21.0], &[1e12]]
        {
            let scale = Scale::fitting(values.iter().copied());
            let ticks = scale.ticks();
            assert!((2..=12).contains(&ticks.len()), "{values:?}: {ticks:?}");
            for value in values.iter().chain(&ticks) {
                assert!((0.0..=1.0).contains(&scale.place(*value)), "{values:?}: {value}");
            }
        }
        assert!(Scale::fitting([1.0, 21.0].into_iter()).is_logarithmic());
        assert_eq!(Scale::linear(940.0).ticks(), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
    }

    #[test]
    fn times_are_written_as_people_count_them() {
        for seconds in [0.1, 1.0, 15.0, 59.9, 3_600.0, 86_400.0, 1e7] {
            let ticks = time_ticks(seconds);
            assert!((1..=11).contains(&ticks.len()), "{seconds}: {ticks:?}");
        }
        let report = |at, run| moment(at, run);
        assert_eq!(
            [report(0.5, 1.0), report(12.0, 15.0), report(150.0, 600.0), report(3_661.0, 7_200.0)],
            ["0.5 s", "12 s", "2:30", "1:01:01"]
        );
    }
}

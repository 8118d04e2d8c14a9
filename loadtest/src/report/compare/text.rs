//! Text: the comparison as text for a terminal.

use std::fmt::{Result, Write};

use super::{Comparison, Metric};

pub(crate) fn write(comparison: &Comparison, out: &mut String) -> Result {
    let Comparison { with, with_ended_at, warnings, metrics, .. } = comparison;
    writeln!(out, "  compared with {with}, which ended {with_ended_at}")?;
    for warning in warnings {
        writeln!(out, "    warning  {warning}")?;
    }
    writeln!(
        out,
        "    {:<8} {:<8}{:>12}{:>12}{:>12}{:>12}",
        "", "metric", "before", "now", "change", "bound"
    )?;
    let mut of_before = "";
    for Metric { of, measure, before, now, change_percent, bound_percent, outcome } in metrics {
        let name = if of == of_before { "" } else { of };
        of_before = of;
        let change =
            change_percent.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1} %"));
        writeln!(
            out,
            "    {name:<8} {:<8}{:>12}{:>12}{change:>12}{:>12}  {}",
            measure.name(),
            measure.format(*before),
            measure.format(*now),
            format!("{bound_percent:.1} %"),
            outcome.name()
        )?;
    }
    writeln!(out, "    {}", comparison.summary())
}

// Span: the time that charts show, and what of it was measured. What was before is not zero: nobody knows it.

/**
 * Of the figures: `from` and `to`, the `times` in between that were measured and are over, for the running one is still
 * being counted; `cut` brings a series in line with them.
 */
export function spanOf(m) {
  const { t, step_s: step } = m.series;
  const at = Date.parse(m.at) / 1000;
  const end = t.findLastIndex((second) => second + step <= at) + 1;
  const known = t.findIndex((second) => second + step > m.history.oldest);
  const first = known < 0 ? end : known;
  const to = end > 0 ? t[end - 1] + step : Math.floor(at);
  const cut = (values) => (values ?? []).slice(first, end);
  // No request takes no time at all: 0 is how the figures write that there was none.
  const latencies = (values) => cut(values).map((value) => (value > 0 ? value : null));
  return { from: to - m.window_s, to, step, times: cut(t), cut, latencies };
}

// Span: the time that charts show, and the measured part of it. A time that was not measured is unknown, not zero.

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
  const to = Math.floor(at / step) * step;
  const cut = (values) => (values ?? []).slice(first, end);
  // A latency of 0 in the figures means that there was no request.
  const latencies = (values) => cut(values).map((value) => (value > 0 ? value : null));
  return { from: to - m.window_s, to, step, times: cut(t), cut, latencies };
}

/** The places of points that follow upon each other without a gap, run by run. */
export function runsOf(times, step) {
  const runs = [];
  times.forEach((time, place) => {
    const follows = place > 0 && time - times[place - 1] <= step * 1.5;
    if (follows) runs.at(-1).push(place);
    else runs.push([place]);
  });
  return runs;
}

// Numbers: the row of figures at the top, which shows the state at a glance.

import { element, setText } from "./element.js";
import { isTooFew, judge, LIMITS, word } from "./judgement.js";
import { spanOf } from "./span.js";
import {
  count,
  duration,
  isNumber,
  milliseconds,
  NOTHING,
  percent,
  ratio,
  rate,
  time,
  trend,
} from "./units.js";

/** Id, name, and what stands there: a value, its unit, a note, a level and the limits that it was judged by. */
const FIGURES = [
  ["rate", "Requests", (m) => [rate(m.throughput), "/s", flow(m), "normal"]],
  ["errors", "Errors", errors],
  ["p50", "p50", (m) => [...latency(m, m.latency_ms.p50), "half are faster", "normal"]],
  ["p99", "p99", slow],
  ["in-flight", "In flight", (m) => [count(m.in_flight), "", "being answered", "normal"]],
  ["cache", "Cache hits", cache],
  ["lag", "Worst lag", (m, shards) => lag(shards)],
  ["skew", "Skew", skew],
];

/** Number of seconds that count as the last ones. */
const LAST_S = 10;

/** The last seconds compared with the whole window, and the trend. */
function flow(m) {
  const span = spanOf(m);
  const rates = span.cut(m.series.rps);
  const from = (span.times.at(-1) ?? 0) + span.step - LAST_S;
  const last = rates.filter((value, place) => isNumber(value) && span.times[place] >= from);
  const mean = last.reduce((sum, value) => sum + value, 0) / last.length;
  // Of longer points none is only of the last seconds.
  const now = last.length > 0 && span.step <= LAST_S ? `${rate(mean)}/s in the last ${LAST_S} s` : "";
  return [now, trend(rates)].filter(Boolean).join(" · ");
}

function errors(m) {
  const note = `${count(m.errors)} of ${count(m.total)}`;
  return [percent(m.error_rate), "%", note, judge(m.error_rate, LIMITS.errors), LIMITS.errors];
}

function latency(m, value) {
  return milliseconds(m.total > 0 ? value : null);
}

function slow(m) {
  const note = m.total > 0 && isNumber(m.latency_ms.max) ? `slowest ${time(m.latency_ms.max)}` : "";
  return [...latency(m, m.latency_ms.p99), note, judge(m.latency_ms.p99, LIMITS.p99), LIMITS.p99];
}

function cache({ cache }) {
  if (!cache?.enabled) return ["off", "", "reads go to shards", "normal"];
  return [percent(cache.hit_rate), "%", `${count(cache.hits)} hits`, "normal"];
}

function lag(shards) {
  const known = shards.filter((shard) => isNumber(shard.lag_ms));
  if (known.length === 0) {
    const some = shards.some((shard) => shard.nodes.some((node) => node.role === "replica"));
    return [NOTHING, "", some ? "not reported" : "no replicas", "normal"];
  }
  const worst = known.reduce((most, shard) => (shard.lag_ms > most.lag_ms ? shard : most));
  const note = worst.lag_ms === 0 ? "all have all" : worst.shard;
  return [...milliseconds(worst.lag_ms), note, judge(worst.lag_ms, LIMITS.lag), LIMITS.lag];
}

function skew(m, shards) {
  if (shards.length < m.shards.length) return [NOTHING, "", "of one shard", "normal"];
  if (!(m.skew.requests > 0)) return [NOTHING, "", `rows ${ratio(m.skew.rows)}`, "normal"];
  const rows = `rows ${ratio(m.skew.rows)}`;
  if (isTooFew(m)) return [NOTHING, "", `too few requests · ${rows}`, "normal"];
  const [value, unit] = ratio(m.skew.requests).split(" ");
  return [value, unit, rows, judge(m.skew.requests, LIMITS.skew), LIMITS.skew];
}

export class Numbers {
  constructor(place) {
    this.tiles = new Map();
    for (const [id, name] of FIGURES) {
      const value = element("span", { class: "value", text: NOTHING });
      const unit = element("span", { class: "unit" });
      const note = element("span", { class: "tile-note" });
      const flag = element("span", { class: "flag" });
      place.append(
        element(
          "div",
          { class: "tile", data: { figure: id, level: "normal" } },
          element("dt", {}, name, " ", flag),
          element("dd", {}, element("span", { class: "figure" }, value, " ", unit), note),
        ),
      );
      this.tiles.set(id, { value, unit, note, flag });
    }
  }

  /** The figures of the choice, and the shards that it holds. */
  show(m, shards) {
    for (const [id, , read] of FIGURES) {
      const [value, unit, note, level, limits] = read(m, shards);
      const tile = this.tiles.get(id);
      setText(tile.value, value);
      setText(tile.unit, unit);
      setText(tile.note, level === "normal" ? note : `${note} · ${limits.says}`);
      setText(tile.flag, word(level));
      tile.value.closest(".tile").dataset.level = level;
    }
  }
}

/** The cluster as the header shows it. */
export function facts(m) {
  const { version, backend, epoch, uptime_s: uptime } = m.cluster ?? {};
  return [
    version && `v${version}`,
    backend,
    isNumber(epoch) && `map ${epoch}`,
    isNumber(uptime) && `up ${duration(uptime)}`,
  ].filter(Boolean);
}

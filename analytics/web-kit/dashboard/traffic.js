// Traffic: throughput, latency and parts of the time; of all shards and of each.

import { byId, element, setText } from "./element.js";
import { Chart } from "./chart.js";
import { Heatmap } from "./heatmap.js";
import { ownerColour } from "./palette.js";
import { Parts } from "./parts.js";
import { spanOf } from "./span.js";
import { Table } from "./table.js";
import { WINDOWS } from "./view.js";
import { count, isNumber, rate, time, trend } from "./units.js";

/** Most shards with lines of their own; the others share one. */
const LINES_MAX = 9;
/** With more shards than this, the throughput is shown by reads and writes at first. */
const SHARDS_TOLD_MAX = 24;

/** The text for a window without requests, which differs from one that was not measured. */
const quietly = ({ times }) =>
  times.length > 0 ? "No request in this window." : "Not measured in this window.";

/** A choice of how a chart is drawn, beside its title. */
function choice(plot, name, options, changed) {
  const field = element(
    "fieldset",
    { class: "choice small" },
    element("legend", { class: "unseen", text: `${plot.title}: what is shown` }),
  );
  for (const [value, label] of options) {
    const input = element("input", { type: "radio", name, value, on: { change: () => changed(value) } });
    input.checked = value === options[0][0];
    field.append(element("label", {}, input, element("span", { text: label })));
  }
  plot.head.append(field);
}

export class Traffic {
  constructor(view) {
    this.view = view;
    this.throughput = new Chart(byId("throughput"), {
      title: "Throughput, requests/s",
      format: (value) => `${rate(value)}/s`,
      axis: (value) => (value >= 10_000 ? `${value / 1000}k` : count(value)),
    });
    this.latency = new Chart(byId("latency"), {
      title: "Latency, ms",
      format: time,
      axis: (value) => String(Number(value.toPrecision(3))),
    });
    this.heatmap = new Heatmap(byId("heatmap"), { title: "Response times", height: 220 });
    this.heatmap.legend.append(
      element(
        "li",
        { class: "heat-scale" },
        element("span", { text: "fewer" }),
        element("span", { class: "heat-ramp" }),
        element("span", { text: "more requests" }),
      ),
      element(
        "li",
        { class: "line-1" },
        element("span", { class: "swatch" }),
        element("span", { text: "p50" }),
      ),
      element(
        "li",
        { class: "line-2" },
        element("span", { class: "swatch" }),
        element("span", { text: "p99" }),
      ),
    );
    this.by = null; // Until the first figures show how many shards there are.
    this.of = "p99";
    choice(
      this.throughput,
      "throughput-by",
      [
        ["shard", "by shard"],
        ["kind", "reads, writes"],
      ],
      (value) => this.change({ by: value }),
    );
    choice(
      this.latency,
      "latency-of",
      [
        ["p99", "p99"],
        ["p50", "p50"],
      ],
      (value) => this.change({ of: value }),
    );
    this.makeParts(byId("parts"));
  }

  makeParts(place) {
    this.parts = new Parts();
    this.partsNote = element("p", { class: "summary" });
    place.append(
      element("div", { class: "head" }, element("h3", { text: "Where the time goes" })),
      this.partsNote,
      this.parts.node,
    );
    const routes = element("div", { class: "block" }, element("h3", { text: "Routes" }));
    place.append(routes);
    this.routes = new Table(routes, {
      label: "Routes",
      empty: "No request in this window.",
      most: 6,
      key: (row) => `${row.route} ${row.operation}`,
      columns: [
        { name: "Route", text: (row) => row.route, value: (row) => row.route, class: "mono" },
        { name: "Kind", text: (row) => row.operation, value: (row) => row.operation, wide: true },
        { name: "/s", text: (row) => rate(row.ops_per_s), value: (row) => row.ops_per_s, numeric: true },
        { name: "p50", text: (row) => time(row.p50), value: (row) => row.p50, numeric: true, wide: true },
        { name: "p99", text: (row) => time(row.p99), value: (row) => row.p99, numeric: true },
        { name: "Errors", text: (row) => count(row.errors), value: (row) => row.errors, numeric: true },
      ],
    });
  }

  /** With very many shards each is only a small part of the whole. */
  chooseFirst(all) {
    this.by = all.shards.length > SHARDS_TOLD_MAX ? "kind" : "shard";
    for (const input of this.throughput.head.querySelectorAll("input"))
      input.checked = input.value === this.by;
  }

  change(changes) {
    Object.assign(this, changes);
    if (this.shown) this.show(...this.shown);
  }

  /** `m`: the figures of the choice; `all`: those of all shards. */
  show(m, all) {
    this.shown = [m, all];
    const { shard } = this.view;
    if (this.by === null) this.chooseFirst(all);
    setText(
      byId("traffic-note"),
      `${shard === null ? "All shards" : `Only ${shard}`}, the last ${WINDOWS[this.view.window]}`,
    );
    const span = spanOf(m);
    const lines = shardLines(span, all, shard);
    this.showThroughput(span, lines);
    this.showLatency(span, lines);
    const { series } = m;
    const map = series.heatmap ?? { bounds_ms: [], counts: [] };
    this.heatmap.show({
      ...span,
      bounds: map.bounds_ms.filter(isNumber),
      counts: span.cut(map.counts),
      p50: span.latencies(series.p50),
      p99: span.latencies(series.p99),
    });
    const quiet = m.total === 0;
    this.heatmap.tell(
      quiet
        ? quietly(span)
        : `Half within ${time(m.latency_ms.p50)}, 99 of 100 within ${time(m.latency_ms.p99)}, the slowest ${time(m.latency_ms.max)}.`,
    );
    const parts = m.latency_parts_ms ?? {};
    setText(this.partsNote, quiet ? quietly(span) : `A request takes ${time(m.avgLatency)} on average.`);
    this.parts.show(
      quiet
        ? []
        : [
            ["queue", parts.queue?.avg, "var(--part-3)"],
            ["database", parts.database?.avg, "var(--part-1)"],
            ["the rest", parts.rest?.avg, "var(--part-2)"],
          ],
      time,
    );
    setText(this.routes.empty, quietly(span));
    this.routes.show(m.routes ?? []);
  }

  showThroughput(span, lines) {
    const { series, throughput, total } = this.shown[0];
    const kinds = [
      { name: "reads", colour: "var(--part-1)", values: span.cut(series.reads) },
      { name: "writes", colour: "var(--part-2)", values: span.cut(series.writes) },
    ];
    const shown =
      this.by === "kind" ? kinds : lines.map(({ name, colour, rps }) => ({ name, colour, values: rps }));
    this.throughput.show({ ...span, stacked: true, lines: shown });
    const way = trend(span.cut(series.rps));
    this.throughput.tell(
      total === 0 && span.times.length === 0
        ? quietly(span)
        : `${rate(throughput)} requests/s${way === "" ? "" : `, ${way}`}.`,
    );
  }

  showLatency(span, lines) {
    const [m] = this.shown;
    const shown = lines
      .filter((line) => !line.isRest)
      .map((line) => ({ name: line.name, colour: line.colour, values: line[this.of] }));
    // Below the others: where the slowest shard decides, its line is the same.
    if (shown.length > 1)
      shown.unshift({
        name: "all",
        colour: "var(--line-strong)",
        values: span.latencies(m.series[this.of]),
        width: 3,
      });
    this.latency.show({ ...span, stacked: false, lines: shown });
    const way = trend(span.latencies(m.series[this.of]));
    this.latency.tell(
      m.total === 0
        ? quietly(span)
        : `${this.of} ${time(m.latency_ms[this.of])}${way === "" ? "" : `, ${way}`}.`,
    );
  }
}

/** The lines of the shards that are meant; of many the busiest, and the others as one. */
function shardLines(span, all, chosen) {
  const lines = all.shards.map((shard, index) => {
    const series = all.series.shards?.[shard.shard] ?? {};
    return {
      name: shard.shard,
      colour: ownerColour(index),
      weight: shard.ops_per_s,
      known: series.rps !== undefined,
      rps: span.cut(series.rps),
      p50: span.latencies(series.p50),
      p99: span.latencies(series.p99),
    };
  });
  if (chosen !== null) return lines.filter((line) => line.name === chosen);
  if (lines.length <= LINES_MAX + 1) return lines;
  const busiest = new Set(
    lines
      .filter((line) => line.known)
      .toSorted((a, b) => b.weight - a.weight)
      .slice(0, LINES_MAX)
      .map((line) => line.name),
  );
  const own = lines.filter((line) => busiest.has(line.name));
  const whole = span.cut(all.series.rps);
  const rest = whole.map((value, place) =>
    isNumber(value) ? Math.max(0, value - own.reduce((sum, line) => sum + (line.rps[place] ?? 0), 0)) : null,
  );
  return [
    ...own,
    {
      name: `${lines.length - own.length} others`,
      colour: "var(--line-strong)",
      isRest: true,
      rps: rest,
      p50: [],
      p99: [],
    },
  ];
}

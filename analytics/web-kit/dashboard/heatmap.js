// Heatmap: requests by latency over time. Darker cells have more requests; p50 and p99 are lines across.

import { element } from "./element.js";
import { resolve } from "./palette.js";
import { Plot } from "./plot.js";
import { count, time } from "./units.js";

/** The edge of a bucket: a round number. */
const edge = (ms) => (ms < 1000 ? `${ms} ms` : `${ms / 1000} s`);

export class Heatmap extends Plot {
  /** `data.counts`: for each time how many per bucket; `data.bounds`: their upper edges in ms; `p50`, `p99` in ms. */
  show(data) {
    const filled = data.bounds.map((_, bucket) => data.counts.some((row) => row[bucket] > 0));
    const over = data.counts.some((row) => row[data.bounds.length] > 0);
    const first = filled.indexOf(true);
    const last = over ? data.bounds.length : filled.lastIndexOf(true);
    this.first = first < 0 ? 0 : Math.max(0, first - 1);
    this.last =
      first < 0
        ? Math.min(5, data.bounds.length - 1)
        : Math.min(data.bounds.length, Math.max(last, this.first + 5));
    this.most = Math.max(1, ...data.counts.flat());
    super.show(data);
  }

  /** The position of a bucket's upper edge. */
  edge(bucket) {
    const { top, bottom } = this.area;
    return bottom - ((bucket + 1 - this.first) / (this.last + 1 - this.first)) * (bottom - top);
  }

  /** The position of a time in ms, between the edges of its bucket. */
  y(ms) {
    const { bounds } = this.data;
    let bucket = bounds.findIndex((bound) => ms <= bound);
    if (bucket < 0) return this.edge(this.last);
    const low = bucket === 0 ? 0 : bounds[bucket - 1];
    const part = (ms - low) / (bounds[bucket] - low);
    return Math.min(
      this.area.bottom,
      this.edge(bucket - 1) + part * (this.edge(bucket) - this.edge(bucket - 1)),
    );
  }

  drawData() {
    const { pen, area, data } = this;
    const { times, step, counts, bounds } = data;
    const few = Math.ceil((this.last + 1 - this.first) / 7);
    const shown = bounds
      .map((_, bucket) => bucket)
      .filter((bucket) => bucket >= this.first && bucket <= this.last && (this.last - bucket) % few === 0);
    this.drawLevels(
      shown,
      (bucket) => this.edge(bucket),
      (bucket) => edge(bounds[bucket]),
    );
    pen.fillStyle = resolve("var(--heat)");
    times.forEach((second, place) => {
      const left = this.x(second);
      const width = Math.max(1, this.x(second + step) - left);
      counts[place]?.forEach((number, bucket) => {
        if (number === 0 || bucket < this.first || bucket > this.last) return;
        // The square root makes single slow requests visible.
        pen.globalAlpha = 0.08 + 0.92 * Math.sqrt(number / this.most);
        const [high, low] = [this.edge(bucket), this.edge(bucket - 1)];
        pen.fillRect(
          Math.max(area.left, left),
          high + 0.5,
          Math.min(width, area.right - left) + 0.4,
          low - high - 1,
        );
      });
    });
    pen.globalAlpha = 1;
    this.drawLine(data.p99, resolve("var(--line-2)"));
    this.drawLine(data.p50, resolve("var(--line-1)"));
  }

  drawLine(values, colour) {
    const { pen } = this;
    pen.beginPath();
    for (const run of this.runs(values)) {
      this.course(run).forEach(([x, place], nth) => {
        if (nth === 0) pen.moveTo(x, this.y(values[place]));
        else pen.lineTo(x, this.y(values[place]));
      });
    }
    pen.lineJoin = "round";
    // A rim, so that it is seen on dark cells too.
    pen.strokeStyle = resolve("var(--panel)");
    pen.lineWidth = 3.5;
    pen.stroke();
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.lineWidth = 1;
  }

  read(place) {
    const { bounds, counts, p50, p99 } = this.data;
    const row = (name, value) =>
      element("p", {}, element("span"), element("span", { text: name }), element("b", { text: value }));
    const rows = [row("p50", time(p50[place])), row("p99", time(p99[place]))];
    const filled = (counts[place] ?? [])
      .map((number, bucket) => [number, bucket])
      .filter(([number]) => number > 0);
    for (const [number, bucket] of filled.reverse().slice(0, 10)) {
      const name = bucket >= bounds.length ? `over ${edge(bounds.at(-1))}` : `to ${edge(bounds[bucket])}`;
      rows.push(row(name, count(number)));
    }
    return rows;
  }
}

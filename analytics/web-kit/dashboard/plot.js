// Plot: the common parts of all charts. A canvas that fills its container, sharp on any screen; time from left to
// right; a crosshair by pointer or arrow keys with a readout; a title, and a summary in words for readers who cannot
// see the canvas.

import { element, setText } from "./element.js";
import { resolve } from "./palette.js";
import { clock, isNumber, minute } from "./units.js";

const LEFT = 52;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 22;
/** Most gaps that the summary lists. */
const GAPS_TOLD_MAX = 3;
const UNKNOWN = "not measured";

export class Plot {
  constructor(place, { title, unit, height = 190 }) {
    this.height = height;
    this.unit = unit;
    this.at = null; // Where the crosshair stands: 0 to 1 of the width, or null.
    this.speaksAgain = false;
    this.summary = element("p", { class: "summary" });
    this.head = element("div", { class: "head" }, element("h3", { text: title }));
    this.canvas = element("canvas", { role: "img", tabindex: "0", "aria-label": title });
    this.readout = element("div", { class: "readout", hidden: true });
    this.spoken = element("p", { class: "unseen", role: "status" });
    this.legend = element("ul", { class: "legend" });
    this.frame = element("div", { class: "plot" }, this.canvas, this.readout);
    place.append(this.head, this.summary, this.frame, this.legend, this.spoken);
    this.canvas.style.height = `${height}px`;
    this.pen = this.canvas.getContext("2d");
    this.title = title;
    new ResizeObserver(() => this.draw()).observe(this.frame);
    document.addEventListener("themechange", () => this.draw());
    this.listen();
  }

  listen() {
    const point = (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.point((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT));
    };
    this.canvas.addEventListener("pointermove", point);
    this.canvas.addEventListener("pointerdown", point);
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.canvas.addEventListener("blur", () => this.point(null));
    this.canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (event.key === "Escape") this.point(null);
      if (!(event.key in moves) || !this.data) return;
      event.preventDefault();
      const steps = Math.max(1, (this.data.to - this.data.from) / this.data.step);
      const at = this.at === null ? this.lastMeasured() : this.at + moves[event.key] / steps;
      this.point(Math.min(1, Math.max(0, at)));
      this.speak();
    });
  }

  /** The end of the last measured point, 0 to 1 of the width: the arrow keys begin there. */
  lastMeasured() {
    const { from, to, step, times } = this.data;
    return times.length > 0 ? (times.at(-1) + step - from) / (to - from) : 1;
  }

  /** Gives the readout to screen readers; before the first measured point, again when there is one. */
  speak() {
    this.speaksAgain = this.at !== null && this.data.times.length === 0;
    setText(this.spoken, this.readout.hidden ? "" : this.readout.innerText.replaceAll("\n", ", "));
  }

  point(at) {
    this.at = at === null || at < 0 || at > 1 ? null : at;
    this.draw();
  }

  /** Shows data: `{from, to, step, times}` in s since 1970 and what the kind of chart needs. */
  show(data) {
    this.data = data;
    if (this.speaksAgain && this.at !== null && data.times.length > 0) {
      this.at = Math.min(1, this.lastMeasured());
      this.draw();
      this.speak();
      return;
    }
    this.draw();
  }

  /** Describes the drawing and its gaps in words. */
  tell(summary) {
    const said = `${summary}${this.tellGaps()}`;
    setText(this.summary, said);
    this.canvas.setAttribute("aria-label", `${this.title}: ${said}`);
  }

  tellGaps() {
    const { step, times } = this.data;
    const gaps = times.length > 0 ? this.gaps() : [];
    if (gaps.length === 0) return "";
    const at = (second) => (step < 60 ? clock : minute)(second * 1000);
    const told = gaps.slice(0, GAPS_TOLD_MAX).map(([begin, end]) => `${at(begin)} to ${at(end)}`);
    if (gaps.length > told.length) told.push(`and ${gaps.length - told.length} times more`);
    return ` Not measured: ${told.join(", ")}.`;
  }

  draw() {
    const width = this.frame.clientWidth;
    if (!this.data || width === 0) return;
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * scale), Math.round(this.height * scale)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    this.area = { left: LEFT, right: width - RIGHT, top: TOP, bottom: this.height - BOTTOM };
    this.pen.setTransform(scale, 0, 0, scale, 0, 0);
    this.pen.clearRect(0, 0, width, this.height);
    this.pen.font = "11px Inter, system-ui, sans-serif";
    this.drawTimes();
    this.drawData();
    this.drawUnknown();
    this.drawCrosshair();
  }

  x(second) {
    const { from, to } = this.data;
    return this.area.left + ((second - from) / (to - from)) * (this.area.right - this.area.left);
  }

  drawTimes() {
    const { pen, area } = this;
    const { from, to } = this.data;
    const steps = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
    const room = Math.max(2, Math.floor((area.right - area.left) / 90));
    const step = steps.find((step) => (to - from) / step <= room) ?? 86_400;
    const offset = new Date(to * 1000).getTimezoneOffset() * 60;
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    for (let at = Math.ceil((from - offset) / step) * step + offset; at <= to; at += step) {
      const x = this.x(at);
      if (x < area.left + 14 || x > area.right - 14) continue;
      pen.strokeStyle = resolve("var(--grid)");
      pen.beginPath();
      pen.moveTo(Math.round(x) + 0.5, area.top);
      pen.lineTo(Math.round(x) + 0.5, area.bottom);
      pen.stroke();
      pen.fillStyle = resolve("var(--muted)");
      pen.fillText((step < 60 ? clock : minute)(at * 1000), x, area.bottom + 15);
    }
  }

  /** The times that were not measured: before the first figure, between two figures, and after the last. */
  gaps() {
    const { from, to, step, times } = this.data;
    if (times.length === 0) return [[from, to]];
    const begins = [from, ...times.map((time) => time + step)];
    const ends = [...times, to];
    const gaps = begins.map((begin, place) => [begin, ends[place]]);
    // The first point may begin a little later than what is shown.
    return gaps.filter(([begin, end], place) => end - begin >= (place === 0 ? step * 2 : step / 2));
  }

  /** A time that was not measured is unknown, not zero. */
  drawUnknown() {
    for (const [begin, end] of this.gaps()) this.hatch(this.x(begin), this.x(end));
  }

  hatch(begin, end) {
    const { pen, area } = this;
    pen.save();
    pen.beginPath();
    pen.rect(begin, area.top, end - begin, area.bottom - area.top);
    pen.clip();
    pen.strokeStyle = resolve("var(--line)");
    pen.beginPath();
    // All gaps use the same grid of lines.
    for (let x = area.left - area.bottom; x < end; x += 7) {
      pen.moveTo(x, area.bottom);
      pen.lineTo(x + area.bottom - area.top, area.top);
    }
    pen.stroke();
    pen.restore();
    const text = UNKNOWN;
    if (end - begin > pen.measureText(text).width + 16) {
      const middle = (begin + end) / 2;
      const width = pen.measureText(text).width + 12;
      pen.fillStyle = resolve("var(--panel)");
      pen.fillRect(middle - width / 2, (area.top + area.bottom) / 2 - 10, width, 20);
      pen.fillStyle = resolve("var(--muted)");
      pen.textAlign = "center";
      pen.textBaseline = "alphabetic";
      pen.fillText(text, middle, (area.top + area.bottom) / 2 + 4);
    }
  }

  /** Runs of adjacent points that have a value. */
  *runs(values) {
    const { times, step } = this.data;
    let run = [];
    for (let place = 0; place < times.length; place += 1) {
      const follows = run.length === 0 || times[place] - times[place - 1] <= step * 1.5;
      if (run.length > 0 && (!isNumber(values[place]) || !follows)) {
        yield run;
        run = [];
      }
      if (isNumber(values[place])) run.push(place);
    }
    if (run.length > 0) yield run;
  }

  /** The line of a run: through the middles of its points; from start to end for a single one, to be visible. */
  course(run) {
    const { times, step } = this.data;
    if (run.length > 1) return run.map((place) => [this.x(times[place] + step / 2), place]);
    const [place] = run;
    return [times[place], times[place] + step].map((second) => [this.x(second), place]);
  }

  /** The scale of values at the left: lines and their labels. */
  drawLevels(levels, y, label) {
    const { pen, area } = this;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const level of levels) {
      const at = Math.round(y(level)) + 0.5;
      pen.strokeStyle = resolve("var(--grid)");
      pen.beginPath();
      pen.moveTo(area.left, at);
      pen.lineTo(area.right, at);
      pen.stroke();
      pen.fillStyle = resolve("var(--muted)");
      pen.fillText(label(level), area.left - 8, at);
    }
  }

  /** The second at which the crosshair stands, or null. */
  second() {
    if (this.at === null || !this.data) return null;
    const second = this.data.from + this.at * (this.data.to - this.data.from);
    // Arrow keys go from the end of one point to that of the next, and not past it.
    return Math.round(second * 1000) / 1000;
  }

  /** The index of the time that is nearest to the crosshair, or null if nothing was measured there. */
  pointed(second = this.second()) {
    if (second === null || this.isUnknown(second)) return null;
    let best = null;
    this.data.times.forEach((time, place) => {
      const far = Math.abs(time + this.data.step / 2 - second);
      if (best === null || far < best.far) best = { far, place };
    });
    return best !== null && best.far <= this.data.step * 1.5 ? best.place : null;
  }

  isUnknown(second) {
    const { from } = this.data;
    return this.gaps().some(([begin, end]) => (second > begin || second === from) && second <= end);
  }

  drawCrosshair() {
    const second = this.second();
    const place = this.pointed(second);
    this.readout.hidden = second === null || (place === null && !this.isUnknown(second));
    if (this.readout.hidden) return;
    const { pen, area } = this;
    const { times, step } = this.data;
    const x = this.x(place === null ? second : times[place] + step / 2);
    pen.strokeStyle = resolve("var(--muted)");
    pen.beginPath();
    pen.moveTo(Math.round(x) + 0.5, area.top);
    pen.lineTo(Math.round(x) + 0.5, area.bottom);
    pen.stroke();
    const read = place === null ? [element("p", { text: UNKNOWN })] : this.read(place);
    this.readout.replaceChildren(
      element("p", { class: "readout-time", text: clock((place === null ? second : times[place]) * 1000) }),
      ...read,
    );
    const half = x > (area.left + area.right) / 2;
    this.readout.style.left = half ? "auto" : `${x + 10}px`;
    this.readout.style.right = half ? `${this.frame.clientWidth - x + 10}px` : "auto";
  }
}

// Chart: lines or stacked areas over time. Where nothing was measured, nothing is drawn.

import { element, keep, setStyle, setText } from "./element.js";
import { resolve } from "./palette.js";
import { Plot } from "./plot.js";
import { isNumber } from "./units.js";

/** Round numbers from zero to at least the greatest value. */
function levelsTo(greatest) {
  if (!(greatest > 0)) return [0, 1];
  const rough = greatest / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
  const levels = [];
  for (let at = 0; at < greatest + step; at += step) levels.push(at);
  return levels;
}

export class Chart extends Plot {
  /** `format` writes a value with its unit, `axis` one without. */
  constructor(place, options) {
    super(place, options);
    this.format = options.format;
    this.axis = options.axis;
  }

  /** `data.lines`: `{name, colour, values}` with null where there is no value; `data.stacked`: one upon the other. */
  show(data) {
    super.show(data);
    keep(
      this.legend,
      data.lines.length > 12 ? data.lines.slice(0, 12) : data.lines,
      (line) => line.name,
      () =>
        element(
          "li",
          {},
          element("span", { class: "swatch" }),
          element("span", { class: "legend-name" }),
          element("span", { class: "legend-value" }),
        ),
      (node, line) => {
        setStyle(node, "--owner", line.colour);
        setText(node.children[1], line.name);
        setText(node.children[2], this.format(line.values.findLast(isNumber)));
      },
    );
  }

  drawData() {
    const { lines, stacked, times } = this.data;
    const sums = times.map((_, place) => lines.reduce((sum, line) => sum + (line.values[place] ?? 0), 0));
    const greatest = stacked
      ? Math.max(0, ...sums)
      : lines.reduce((most, line) => Math.max(most, ...line.values.filter(isNumber)), 0);
    const levels = levelsTo(greatest);
    const top = levels.at(-1);
    this.y = (value) => this.area.bottom - (value / top) * (this.area.bottom - this.area.top);
    this.drawLevels(levels, this.y, this.axis);
    if (stacked) this.drawAreas();
    else for (const line of lines) this.drawLine(line.values, resolve(line.colour), line.width ?? 1.5);
  }

  drawLine(values, colour, width) {
    const { pen } = this;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineJoin = "round";
    for (const run of this.runs(values)) {
      pen.beginPath();
      for (const [x, place] of this.course(run)) pen.lineTo(x, this.y(values[place]));
      pen.stroke();
    }
    pen.lineWidth = 1;
  }

  drawAreas() {
    const { pen } = this;
    let floor = this.data.times.map(() => 0);
    for (const line of this.data.lines) {
      const ceiling = floor.map((value, place) => value + (line.values[place] ?? 0));
      pen.fillStyle = resolve(line.colour);
      for (const run of this.runs(line.values)) {
        pen.globalAlpha = 0.82;
        pen.beginPath();
        const course = this.course(run);
        for (const [x, place] of course) pen.lineTo(x, this.y(ceiling[place]));
        for (const [x, place] of course.toReversed()) pen.lineTo(x, this.y(floor[place]));
        pen.fill();
      }
      pen.globalAlpha = 1;
      floor = ceiling;
    }
  }

  read(place) {
    const lines = this.data.stacked ? this.data.lines.toReversed() : this.data.lines;
    const rows = lines.slice(0, 12).map((line) => {
      const row = element(
        "p",
        {},
        element("span", { class: "swatch" }),
        element("span", { text: line.name }),
        element("b", { text: this.format(line.values[place]) }),
      );
      row.style.setProperty("--owner", line.colour);
      return row;
    });
    if (this.data.stacked && lines.length > 1) {
      const sum = lines.reduce((sum, line) => sum + (line.values[place] ?? 0), 0);
      rows.push(
        element(
          "p",
          {},
          element("span"),
          element("span", { text: "together" }),
          element("b", { text: this.format(sum) }),
        ),
      );
    }
    return rows;
  }
}

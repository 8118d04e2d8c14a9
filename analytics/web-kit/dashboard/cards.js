// Cards: state, contents and load of each shard. Pressing a card filters the page.

import { byId, drawing, element, keep, setAttribute, setText } from "./element.js";
import { judge, LIMITS } from "./judgement.js";
import { ownerColour } from "./palette.js";
import { runsOf, spanOf } from "./span.js";
import { bytes, count, isNumber, rate, share, time } from "./units.js";

/** With more shards than this, cards show only the most important values. */
const ROOMY_MAX = 12;
const SPARK = { width: 120, height: 28 };

const ORDERS = {
  rate: (a, b) => b.ops_per_s - a.ops_per_s,
  p99: (a, b) => b.p99 - a.p99,
  rows: (a, b) => (b.rows ?? -1) - (a.rows ?? -1),
};

/** `up`, `partly` (a node is down) or `down` (it takes no writes). */
export function stateOf(shard) {
  // A shard that has retired is listed as long as its requests are in the window.
  if (shard.nodes.length === 0) return "gone";
  if (!shard.up) return "down";
  return shard.nodes.every((node) => node.up && !node.reasons?.length) ? "up" : "partly";
}

export class Cards {
  constructor(view) {
    this.view = view;
    this.place = byId("cards");
    this.order = byId("cards-order-choice");
    byId("all-shards").addEventListener("click", () => view.choose({ shard: null }));
    this.order.addEventListener("change", () => this.m && this.show(this.m));
  }

  show(m) {
    this.m = m;
    this.span = spanOf(m);
    const roomy = m.shards.length <= ROOMY_MAX;
    this.place.dataset.size = roomy ? "roomy" : "dense";
    byId("cards-order").hidden = roomy;
    byId("all-shards").hidden = this.view.shard === null;
    const numbered = m.shards.map((shard, index) => ({ shard, index }));
    const compare = ORDERS[this.order.value];
    if (!roomy && compare) numbered.sort((a, b) => compare(a.shard, b.shard));
    const states = m.shards.map(stateOf);
    const not = (state) => states.filter((one) => one === state).length;
    setText(
      byId("cards-note"),
      `${m.shards.length === 1 ? "1 shard" : `${count(m.shards.length)} shards`}: ${not("down") + not("partly") === 0 ? "all nodes are up" : [not("down") && `${not("down")} down`, not("partly") && `${not("partly")} with a node down`].filter(Boolean).join(", ")}.`,
    );
    keep(
      this.place,
      numbered,
      ({ shard }) => shard.shard,
      ({ shard }) => this.make(shard),
      (card, { shard, index }) => this.update(card, shard, index, m),
    );
  }

  make(shard) {
    const figure = (name, label) =>
      element("div", {}, element("dt", { text: label }), element("dd", { data: { value: name } }));
    const spark = drawing(
      "svg",
      {
        class: "spark",
        viewBox: `0 0 ${SPARK.width} ${SPARK.height}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      drawing("path", { class: "spark-area" }),
      drawing("path", { class: "spark-line" }),
    );
    const button = element("button", {
      type: "button",
      "aria-pressed": "false",
      text: shard.shard,
      on: { click: () => this.view.choose({ shard: this.view.shard === shard.shard ? null : shard.shard }) },
    });
    const card = element(
      "li",
      { class: "card", data: { shard: shard.shard } },
      element(
        "div",
        { class: "card-head" },
        element("span", { class: "swatch" }),
        element("h4", {}, button),
        element("span", { class: "card-state" }),
      ),
      element("ul", { class: "chips" }),
      element("p", { class: "card-trouble", hidden: true }),
      element(
        "div",
        { class: "card-rate" },
        element(
          "p",
          {},
          element("b", { data: { value: "rate" } }),
          element("span", { class: "unit", text: " /s" }),
        ),
        spark,
      ),
      element(
        "dl",
        {},
        figure("share", "requests"),
        figure("p99", "p99"),
        figure("rows", "rows"),
        figure("bytes", "size"),
        figure("slots", "slots"),
        figure("lag", "lag"),
        figure("pool", "pool"),
        figure("lane", "waiting"),
      ),
    );
    card.values = Object.fromEntries(
      [...card.querySelectorAll("[data-value]")].map((node) => [node.dataset.value, node]),
    );
    return card;
  }

  update(card, shard, index, m) {
    // A shard before it may have retired.
    card.style.setProperty("--owner", ownerColour(index));
    const state = stateOf(shard);
    setAttribute(card, "data-state", state);
    setText(card.querySelector(".card-state"), { up: "", partly: shard.nodes.every((node) => node.up) ? "in trouble" : "node down", down: "down", gone: "no nodes" }[state]);
    const button = card.querySelector("button");
    setAttribute(button, "aria-pressed", String(this.view.shard === shard.shard));
    const { values } = card;
    setText(values.rate, rate(shard.ops_per_s));
    setText(values.share, share(shard.share));
    setText(values.p99, shard.ops_per_s > 0 ? time(shard.p99) : "–");
    setText(values.rows, count(shard.rows));
    setText(values.bytes, bytes(shard.bytes));
    setText(
      values.slots,
      count(shard.slots) + (shard.weight === 1 ? "" : ` (weight ${count(shard.weight)})`),
    );
    setText(values.lag, time(shard.lag_ms));
    setAttribute(
      values.lag,
      "data-level",
      isNumber(shard.lag_ms) ? judge(shard.lag_ms, LIMITS.lag) : "normal",
    );
    setAttribute(values.p99, "data-level", judge(shard.p99, LIMITS.p99));
    setText(values.pool, shard.pool ? `${count(shard.pool.in_use)} of ${count(shard.pool.max)}` : "–");
    setText(values.lane, shard.lane ? count(shard.lane.waiting) : "–");
    this.chips(card.querySelector(".chips"), shard);
    const troubled = shard.nodes.find((node) => node.reasons?.length);
    const trouble = card.querySelector(".card-trouble");
    setAttribute(trouble, "hidden", !troubled);
    setText(trouble, troubled ? `${troubled.node}: ${troubled.reasons.join("; ")}` : "");
    this.spark(card, m.series?.shards?.[shard.shard]?.rps);
  }

  chips(place, shard) {
    keep(
      place,
      shard.nodes,
      (node) => node.node,
      () =>
        element(
          "li",
          { class: "chip" },
          element("span", { class: "chip-name" }),
          element("span", { class: "chip-state" }),
        ),
      (chip, node) => {
        setAttribute(chip, "data-state", node.up ? "up" : "down");
        const why = (node.reasons ?? []).join("; ");
        setAttribute(chip, "title", why ? `${node.node}: ${why}` : node.node);
        // `shard1-replica1` is `replica1` on the card of shard1.
        setText(
          chip.firstChild,
          node.node.startsWith(`${shard.shard}-`) ? node.node.slice(shard.shard.length + 1) : node.node,
        );
        setText(chip.lastChild, node.up ? "up" : "down");
      },
    );
  }

  /** A line of requests/s over the time that is shown. */
  spark(card, values) {
    const { from, to, step, times } = this.span;
    const known = this.span.cut(values);
    const [area, line] = card.querySelector("svg").children;
    const most = Math.max(1, ...known.filter(isNumber));
    const x = (second) => (((second - from) / (to - from)) * SPARK.width).toFixed(1);
    const y = (value) => (SPARK.height - 2 - ((value ?? 0) / most) * (SPARK.height - 4)).toFixed(1);
    // A single point is drawn as a line from its start to its end, to be visible.
    const end = (run) => times[run.at(-1)] + (run.length === 1 ? step : 0);
    const path = (run) =>
      [
        ...run.map((place) => `${x(times[place])},${y(known[place])}`),
        `${x(end(run))},${y(known[run.at(-1)])}`,
      ].join("L");
    const runs = runsOf(times, step);
    const drawn = (shape) => known.length > 0 && runs.map(shape).join("");
    setAttribute(
      line,
      "d",
      drawn((run) => `M${path(run)}`),
    );
    setAttribute(
      area,
      "d",
      drawn((run) => `M${x(times[run[0]])},${SPARK.height}L${path(run)}L${x(end(run))},${SPARK.height}Z`),
    );
  }
}

// Arrows: drawn under the bar of slots, each from slots that move to the shard that they go to.

import { byId, drawing, setAttribute } from "./element.js";
import { rangesOf } from "./movement.js";
import { ownerColour } from "./palette.js";
import { count } from "./units.js";

const HEIGHT = 34;
/** Pairs of shards that get an arrow; more would hide each other. */
const MOST = 12;
const HEAD = 5;
/** Number of slots of a table group. */
export const GROUP = 16384;

export class Arrows {
  constructor() {
    this.node = drawing("svg", { class: "arrows", role: "img", height: HEIGHT });
    this.node.toggleAttribute("hidden", true);
    byId("bar-canvas").after(this.node);
    this.flows = [];
    new ResizeObserver(() => this.draw()).observe(byId("bar"));
  }

  /** Shows moves over a bar of so many slots, whose shards have these ranges. */
  show(moves, { names, ranges, slots }) {
    const flows = new Map();
    for (const move of moves) {
      const [from, to] = move.goal === "back" ? [move.to, move.from] : [move.from, move.to];
      for (const [first, last] of rangesOf(move.slots)) {
        // Slots of each table group have an arrow within the part of their group.
        const group = Math.floor(first / GROUP);
        const key = `${from}\n${to}\n${group}`;
        const flow = flows.get(key) ?? { from, to, group, slots: 0, sum: 0 };
        flow.slots += last - first + 1;
        flow.sum += ((first + last + 1) / 2) * (last - first + 1);
        flows.set(key, flow);
      }
    }
    this.flows = [...flows.values()].slice(0, MOST).map((flow) => ({
      ...flow,
      index: names.indexOf(flow.to),
      start: flow.sum / flow.slots / slots,
      end: middleOf(flow, names, ranges, slots),
    }));
    const told = this.flows.map(({ from, to, slots: moving }) => `${from} to ${to}, ${count(moving)} slots`);
    setAttribute(this.node, "aria-label", `Slots move: ${told.join("; ")}`);
    this.node.toggleAttribute("hidden", this.flows.length === 0);
    this.draw();
  }

  draw() {
    const width = byId("bar").clientWidth;
    this.node.setAttribute("width", width);
    this.node.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const inside = (x) => Math.min(width - HEAD - 1, Math.max(HEAD + 1, x * width));
    this.node.replaceChildren(...this.flows.map((flow) => arrow(flow, inside(flow.start), inside(flow.end))));
  }
}

function arrow({ from, to, index }, start, end) {
  const node = drawing(
    "g",
    { class: "flow", data: { from, to } },
    drawing("path", {
      class: "flow-line",
      d: `M${start} 1C${start} ${HEIGHT - 2} ${end} ${HEIGHT - 2} ${end} ${HEAD + 3}`,
    }),
    drawing("path", { class: "flow-head", d: `M${end} 1l${HEAD} ${HEAD + 3}h${-2 * HEAD}z` }),
    drawing("circle", { class: "flow-head", cx: start, cy: 3, r: 3 }),
  );
  node.style.setProperty("--owner", index >= 0 ? ownerColour(index) : "var(--line-strong)");
  return node;
}

/**
 * The middle of the widest range of the target in a group, as a part of the bar. A shard without slots there
 * has the place of its card, within the part of the group.
 */
function middleOf({ to, group }, names, ranges, slots) {
  const isOwn = ([first, , name]) => name === to && Math.floor(first / GROUP) === group;
  const own = ranges.filter(isOwn).toSorted((a, b) => b[1] - b[0] - (a[1] - a[0]));
  const card = (Math.max(0, names.indexOf(to)) + 0.5) / Math.max(1, names.length);
  if (own.length === 0) return (group + card) / Math.max(1, slots / GROUP);
  return (own[0][0] + own[0][1] + 1) / 2 / slots;
}

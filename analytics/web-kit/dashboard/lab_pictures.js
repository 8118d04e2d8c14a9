// Pictures: the slots of a trial as bars before and after the change, and the ring of a placement that has one.

import { drawing, element, setAttribute, setText } from "./element.js";
import { ownerColour, resolve } from "./palette.js";
import { count, share } from "./units.js";

const SLOTS = 16384;
const CENTRE = 100;
const RADIUS = 80;

export class Pictures {
  constructor(place) {
    this.before = new SlotBar("Slots now");
    this.after = new SlotBar("Slots after the change; those that move are striped");
    this.ring = new Ring();
    place.append(this.before.node, this.after.node, this.ring.node);
  }

  /** `names`: all shards, in the order of their colours. */
  show(trial, names) {
    const before = ownersOf(trial.before.runs, names);
    this.before.show(before, null, names);
    this.after.node.hidden = trial.moved === null;
    if (trial.moved !== null) this.after.show(ownersOf(trial.moved.after.runs, names), before, names);
    this.ring.show(trial.ring, names);
  }
}

function ownersOf(runs, names) {
  const places = new Map(names.map((name, place) => [name, place]));
  const owners = new Uint16Array(SLOTS);
  for (const [first, last, name] of runs) owners.fill(places.get(name), first, last + 1);
  return owners;
}

/** One bar of all slots, each in its owner's colour. */
class SlotBar {
  constructor(title) {
    this.title = title;
    this.canvas = element("canvas", { role: "img", "aria-label": title });
    this.node = element("figure", { class: "paper" }, element("figcaption", { text: title }), this.canvas);
    this.pen = this.canvas.getContext("2d");
    this.owners = null;
    new ResizeObserver(() => this.draw()).observe(this.node);
    document.addEventListener("themechange", () => this.draw());
  }

  show(owners, before, names) {
    this.owners = owners;
    this.before = before;
    const slots = new Array(names.length).fill(0);
    for (const owner of owners) slots[owner] += 1;
    const told = names.slice(0, 8).map((name, place) => `${name} ${share(slots[place] / SLOTS)}`);
    const rest = names.length > 8 ? ` and ${names.length - 8} more` : "";
    const moved = before === null ? 0 : owners.filter((owner, slot) => owner !== before[slot]).length;
    const moves = before === null ? "" : ` ${count(moved)} slots move.`;
    setAttribute(this.canvas, "aria-label", `${this.title}: ${told.join(", ")}${rest}.${moves}`);
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (width === 0 || this.owners === null) return;
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * scale), Math.round(40 * scale)];
    this.canvas.width = wide;
    this.canvas.height = high;
    for (let x = 0; x < wide; x += 1) {
      const from = Math.floor((x * SLOTS) / wide);
      const to = Math.max(from + 1, Math.floor(((x + 1) * SLOTS) / wide));
      this.column(x, from, to, high, scale);
    }
  }

  /** A column of pixels: slots of several owners share its height. */
  column(x, from, to, high, scale) {
    const { pen, owners, before } = this;
    const part = high / (to - from);
    const ordered = owners.slice(from, to).sort();
    ordered.forEach((owner, at) => {
      pen.fillStyle = resolve(ownerColour(owner));
      pen.fillRect(x, Math.floor(at * part), 1, Math.ceil(part) + 1);
    });
    if (before === null) return;
    let moved = 0;
    for (let slot = from; slot < to; slot += 1) if (owners[slot] !== before[slot]) moved += 1;
    // Stripes where at least half of the slots move.
    if (moved * 2 < to - from || moved === 0) return;
    pen.fillStyle = resolve("var(--panel)");
    const step = Math.round(8 * scale);
    for (let y = -(x % step); y < high; y += step) pen.fillRect(x, y, 1, Math.round(2 * scale));
  }
}

/** The points of shards on a circle, and the arc that each of them owns. */
class Ring {
  constructor() {
    this.title = element("figcaption");
    this.svg = drawing("svg", { viewBox: "0 0 200 200", role: "img", "aria-label": "Ring" });
    this.node = element("figure", { class: "paper", hidden: true }, this.title, this.svg);
  }

  show(ring, names) {
    this.node.hidden = ring === null;
    if (ring === null) return;
    const { total, points } = ring;
    setText(
      this.title,
      points.length > 0
        ? `Ring with ${count(total)} points; a point owns the arc that ends there, and 0 is at the top`
        : `Ring with ${count(total)} points, too many to draw`,
    );
    setAttribute(this.svg, "aria-label", `${count(total)} points of ${names.length} shards on a ring`);
    const paths = names.map(() => "");
    points.forEach(([to, name], at) => {
      const from = at > 0 ? points[at - 1][0] : points.at(-1)[0] - 1;
      paths[names.indexOf(name)] += arc(from, to);
    });
    this.svg.replaceChildren(
      ...paths.map((path, place) => {
        const node = drawing("path", { class: "ring-arc", d: path });
        node.style.setProperty("--owner", ownerColour(place));
        return node;
      }),
    );
  }
}

function arc(from, to) {
  const at = (share) => {
    const turn = share * 2 * Math.PI;
    return `${(CENTRE + RADIUS * Math.sin(turn)).toFixed(2)} ${(CENTRE - RADIUS * Math.cos(turn)).toFixed(2)}`;
  };
  // An arc of a whole turn has no direction: it is drawn as two.
  if (to - from > 0.999) return arc(from, from + 0.5) + arc(from + 0.5, to - 0.0001);
  return `M${at(from)}A${RADIUS} ${RADIUS} 0 ${to - from > 0.5 ? 1 : 0} 1 ${at(to)}`;
}

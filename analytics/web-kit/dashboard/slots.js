// Slots: one bar of all slots, each in its owner's colour, and the pin that marks the slot of a key.

import { Arrows, GROUP } from "./arrows.js";
import { byId, element, setText } from "./element.js";
import { isMoving, rangesOf } from "./movement.js";
import { inkOn, ownerColour, resolve } from "./palette.js";
import { count, share } from "./units.js";

const HEIGHT = 56;
/** Names are written into parts that are at least so wide. */
const NAME_ROOM = 54;

export class Slots {
  constructor(view, movement) {
    this.view = view;
    this.movement = movement;
    this.arrows = new Arrows();
    this.moving = [];
    this.bar = byId("bar");
    this.canvas = byId("bar-canvas");
    this.pin = byId("pin");
    this.note = byId("bar-note");
    this.pen = this.canvas.getContext("2d");
    this.canvas.style.height = `${HEIGHT}px`;
    this.names = [];
    this.owners = new Uint16Array(0);
    this.known = "";
    this.found = null;
    new ResizeObserver(() => this.draw()).observe(this.bar);
    document.addEventListener("themechange", () => this.draw());
    movement.addEventListener("change", () => this.figures && this.show(this.figures));
    const slotAt = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const part = (event.clientX - box.left) / box.width;
      return Math.min(this.owners.length - 1, Math.max(0, Math.floor(part * this.owners.length)));
    };
    this.canvas.addEventListener("pointermove", (event) => this.tell(slotAt(event)));
    this.canvas.addEventListener("pointerleave", () => this.tell(null));
    // By keyboard the same is done by the cards below.
    this.canvas.addEventListener("click", (event) => {
      const name = this.names[this.owners[slotAt(event)]];
      if (name !== undefined) view.choose({ shard: view.shard === name ? null : name });
    });
  }

  show(m) {
    this.figures = m;
    this.shards = m.shards;
    this.names = m.shards.map((shard) => shard.shard);
    // The names of the table groups; none if there is only one.
    const { slots, ranges, epoch, groups = [] } = m.cluster;
    const moving = this.movement.moves.filter(isMoving);
    const known = JSON.stringify([
      slots,
      epoch,
      ranges.length,
      groups,
      this.names,
      moving.map((move) => [move.id, move.goal]),
      m.shards.map((shard) => shard.up),
      this.view.shard,
    ]);
    if (known === this.known) return;
    this.known = known;
    const places = new Map(this.names.map((name, place) => [name, place]));
    this.ranges = ranges;
    this.groups = groups;
    this.owners = new Uint16Array(slots).fill(this.names.length);
    for (const [first, last, name] of ranges)
      this.owners.fill(places.get(name) ?? this.names.length, first, last + 1);
    this.moving = moving;
    this.arrows.show(moving, { names: this.names, ranges, slots });
    this.nameGroups();
    this.axis(slots);
    this.summary = this.say(m, slots);
    this.canvas.setAttribute("aria-label", this.summary);
    this.tell(null);
    this.draw();
    this.place();
  }

  say(m, slots) {
    const told = m.shards.slice(0, 8).map((shard) => `${shard.shard} ${share(shard.slots / slots)}`);
    const rest = m.shards.length > 8 ? ` and ${m.shards.length - 8} more` : "";
    const moved = this.moving.reduce((sum, move) => sum + move.slot_count, 0);
    const moving = moved > 0 ? ` ${count(moved)} of them move, and are hatched.` : "";
    const named = this.groups.length > 1 ? ` in the table groups ${this.groups.join(", ")}` : "";
    return `${count(slots)} slots${named}: ${told.join(", ")}${rest}.${moving}`;
  }

  /** Names each table group under its part of the bar, unless there is only one. */
  nameGroups() {
    const row = byId("bar-groups");
    row.hidden = this.groups.length < 2;
    row.replaceChildren(...this.groups.map((name) => element("span", { text: name })));
  }

  /** Marks the quarters of the only table group, or the first slot of each group. */
  axis(slots) {
    const groups = slots / GROUP;
    const parts = groups > 1 ? groups : 4;
    const marks = Array.from({ length: parts + 1 }, (_, part) =>
      Math.min(slots - 1, Math.round((part / parts) * slots)),
    );
    byId("bar-axis").replaceChildren(...marks.map((slot) => element("span", { text: count(slot) })));
  }

  /** Describes the slot under the pointer, or all slots. */
  tell(slot) {
    if (slot === null || this.owners.length === 0) {
      setText(this.note, this.summary ?? "");
      return;
    }
    const owner = this.owners[slot];
    const group = Math.floor(slot / GROUP);
    const [begin, end] = [group * GROUP, Math.min(this.owners.length, (group + 1) * GROUP) - 1];
    let [first, last] = [slot, slot];
    while (first > begin && this.owners[first - 1] === owner) first -= 1;
    while (last < end && this.owners[last + 1] === owner) last += 1;
    const run = first === last ? `Slot ${count(slot)}` : `Slots ${count(first)} to ${count(last)}`;
    const covers = ([from, to]) => from <= slot && slot <= to;
    const move = this.moving.find(({ slots }) => rangesOf(slots).some(covers));
    const going = move === undefined ? "" : `, slot ${count(slot)} moves to ${targetOf(move)}`;
    const named = this.groups.length > 1 ? ` of ${this.groups[group]}` : "";
    setText(this.note, `${run}${named}: ${this.names[owner] ?? "no owner"}${going}`);
  }

  draw() {
    const width = this.bar.clientWidth;
    const total = this.owners.length;
    if (width === 0 || total === 0) return;
    const scale = window.devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * scale), Math.round(HEIGHT * scale)];
    this.canvas.width = wide;
    this.canvas.height = high;
    const { pen } = this;
    for (let x = 0; x < wide; x += 1) {
      const from = Math.floor((x * total) / wide);
      const to = Math.max(from + 1, Math.floor(((x + 1) * total) / wide));
      this.column(x, this.owners.subarray(from, to), high);
    }
    pen.globalAlpha = 1;
    this.drawEdges(wide, high, scale);
    this.divide(wide, high, scale);
    this.hatch(wide, high, scale);
  }

  /** A column of pixels: where slots of several owners share it, each gets its part of the height. */
  column(x, owners, high) {
    const { pen } = this;
    let top = 0;
    let from = 0;
    const ordered =
      owners.length > 1 && owners.some((owner) => owner !== owners[0]) ? owners.slice().sort() : owners;
    while (from < ordered.length) {
      let to = from;
      while (to < ordered.length && ordered[to] === ordered[from]) to += 1;
      const bottom = (to / ordered.length) * high;
      pen.globalAlpha = this.isMeant(ordered[from]) ? 1 : 0.22;
      pen.fillStyle = this.colour(ordered[from]);
      pen.fillRect(x, top, 1, bottom - top);
      [top, from] = [bottom, to];
    }
  }

  isMeant(owner) {
    return (
      this.view.shard === null ||
      !this.names.includes(this.view.shard) ||
      this.names[owner] === this.view.shard
    );
  }

  colour(owner) {
    return resolve(owner < this.names.length ? ownerColour(owner) : "var(--line)");
  }

  /** Gaps between wide parts, stripes over shards that are down, names where there is room. */
  drawEdges(wide, high, scale) {
    const { pen } = this;
    const total = this.owners.length;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.font = `600 ${12 * scale}px Inter, system-ui, sans-serif`;
    for (const [first, last, name] of this.ranges) {
      const [left, right] = [(first / total) * wide, ((last + 1) / total) * wide];
      const owner = this.owners[first];
      if (right - left < 6 * scale) continue;
      if (this.shards[owner]?.up === false) this.stripes(left, right, high, scale, "var(--panel)");
      if (last < total - 1) {
        pen.fillStyle = resolve("var(--panel)");
        pen.fillRect(Math.round(right) - scale, 0, scale, high);
      }
      const down = this.shards[owner]?.up === false ? `${name} · down` : name;
      if (right - left < NAME_ROOM * scale || pen.measureText(down).width + 20 * scale > right - left)
        continue;
      pen.fillStyle = this.isMeant(owner) ? inkOn(ownerColour(owner)) : resolve("var(--muted)");
      if (this.shards[owner]?.up === false) {
        pen.fillStyle = resolve("var(--panel)");
        pen.fillRect(
          left + 6 * scale,
          high / 2 - 11 * scale,
          pen.measureText(down).width + 12 * scale,
          22 * scale,
        );
        pen.fillStyle = resolve("var(--bad)");
      }
      pen.fillText(down, left + 12 * scale, high / 2);
    }
  }

  /** Wider gaps between table groups. */
  divide(wide, high, scale) {
    const groups = this.owners.length / GROUP;
    this.pen.fillStyle = resolve("var(--panel)");
    for (let group = 1; group < groups; group += 1)
      this.pen.fillRect(Math.round((group / groups) * wide) - 2 * scale, 0, 4 * scale, high);
  }

  /** Stripes in the colour of the shard that slots move to, in a frame. */
  hatch(wide, high, scale) {
    const { pen } = this;
    const total = this.owners.length;
    for (const move of this.moving) {
      const target = this.names.indexOf(targetOf(move));
      for (const [first, last] of rangesOf(move.slots)) {
        const left = (first / total) * wide;
        const right = Math.max(left + 4 * scale, ((last + 1) / total) * wide);
        this.stripes(left, right, high, scale, target >= 0 ? ownerColour(target) : "var(--panel)");
        pen.strokeStyle = resolve("var(--ink)");
        pen.lineWidth = scale;
        pen.strokeRect(left + scale / 2, scale / 2, right - left - scale, high - scale);
      }
    }
  }

  stripes(left, right, high, scale, colour) {
    const { pen } = this;
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, right - left, high);
    pen.clip();
    pen.strokeStyle = resolve(colour);
    pen.lineWidth = 3 * scale;
    pen.beginPath();
    for (let x = left - high; x < right; x += 9 * scale) {
      pen.moveTo(x, high);
      pen.lineTo(x + high, 0);
    }
    pen.stroke();
    pen.restore();
  }

  /** Drops the pin at a slot, or takes it away. */
  find(found) {
    this.found = found;
    this.place();
  }

  place() {
    this.pin.hidden = this.found === null || this.owners.length === 0;
    if (this.pin.hidden) return;
    const part = (this.found.slot + 0.5) / this.owners.length;
    this.pin.dataset.slot = this.found.slot;
    this.pin.dataset.shard = this.found.shard;
    this.pin.style.left = `${part * 100}%`;
    // The label leans inwards, so that it never leaves the bar.
    byId("pin-label").style.transform = `translateX(-${part * 100}%)`;
    setText(byId("pin-label"), `${this.found.key} · slot ${count(this.found.slot)}`);
  }
}

/** The shard that the slots of a move go to. */
const targetOf = (move) => (move.goal === "back" ? move.from : move.to);

// Moves: the moves of slots that go on and the last ones that have ended, each with its progress and its orders.

import { element, keep, setAttribute, setText } from "./element.js";
import { isMoving } from "./movement.js";
import { Orders } from "./orders.js";
import { owned } from "./spread.js";
import { bytes, count, duration, time } from "./units.js";

/** Steps of a move, in their order. */
const PHASES = [
  "planned",
  "preparing",
  "copying",
  "following",
  "verifying",
  "fencing",
  "activating",
  "keeping",
  "cleaning",
  "done",
];
/** Moves that are shown until the reader asks for all. */
const MOST = 6;

export class Moves {
  constructor(place, movement) {
    this.movement = movement;
    this.names = [];
    this.all = false;
    this.rows = new Map();
    this.note = element("p", { class: "note" });
    this.list = element("ul", { class: "moves" });
    this.more = element("button", {
      type: "button",
      class: "quiet",
      hidden: true,
      on: {
        click: () => {
          this.all = !this.all;
          this.draw();
        },
      },
    });
    place.append(this.note, this.list, this.more);
    setText(this.note, "Looking.");
    movement.addEventListener("change", () => this.draw());
  }

  show(m) {
    this.names = m.shards.map((shard) => shard.shard);
    this.movement.follow();
  }

  draw() {
    const { refusal, moves } = this.movement;
    setText(this.note, refusal ?? say(moves));
    const shown = this.all ? moves : moves.slice(0, Math.max(MOST, moves.filter(isMoving).length));
    this.more.hidden = moves.length <= shown.length && !this.all;
    setText(this.more, this.all ? "Show fewer" : `Show all ${moves.length}`);
    keep(
      this.list,
      shown,
      (move) => move.id,
      (move) => this.make(move),
      (node, move) => this.update(node, move),
    );
    for (const id of this.rows.keys()) if (!shown.some((move) => move.id === id)) this.rows.delete(id);
  }

  make(move) {
    const parts = {
      slots: element("span", { class: "quiet-text" }),
      state: element("span", { class: "move-state" }),
      bar: element("progress", { max: PHASES.length - 1 }),
      figures: element("p", { class: "note" }),
      reason: element("p", { class: "move-reason" }),
      orders: new Orders("Orders"),
    };
    this.rows.set(move.id, parts);
    const arrow = element("span", { class: "arrow", text: " → " });
    return element(
      "li",
      { class: "move", data: { move: move.id } },
      element(
        "h3",
        { class: "move-head" },
        owned(move.from, this.names.indexOf(move.from)),
        arrow,
        owned(move.to, this.names.indexOf(move.to)),
        parts.slots,
      ),
      element("div", { class: "progress" }, parts.bar, parts.state),
      parts.figures,
      parts.reason,
      parts.orders.node,
    );
  }

  update(node, move) {
    const parts = this.rows.get(move.id);
    const step = PHASES.indexOf(move.phase);
    setAttribute(node, "data-phase", move.phase);
    setAttribute(node, "data-stalled", move.stalled);
    setText(parts.slots, `${count(move.slot_count)} ${move.slot_count === 1 ? "slot" : "slots"}: ${move.slots}`);
    setText(parts.state, stateOf(move));
    parts.bar.hidden = step < 0 || move.ended_at !== null;
    parts.bar.value = Math.max(0, step);
    setAttribute(parts.bar, "aria-label", `Steps done: ${Math.max(0, step)} of ${PHASES.length - 1}`);
    setText(parts.figures, figures(move, this.movement.rebalance));
    parts.reason.hidden = !move.reason;
    setText(parts.reason, move.reason ?? "");
    parts.orders.show("move", move.actions, { id: move.id, url: this.movement.url });
  }
}

function say(moves) {
  if (moves.length === 0) return "No slots have moved.";
  const moving = moves.filter(isMoving);
  const kept = moves.filter((move) => move.ended_at === null).length - moving.length;
  const longest = Math.max(...moves.map((move) => move.longest_hold_ms));
  const lag = Math.max(0, ...moves.map((move) => move.lag_ms ?? 0));
  const slots = moving.reduce((sum, move) => sum + move.slot_count, 0);
  const told = [
    moving.length === 0 ? "None running." : `${count(moving.length)} running, with ${count(slots)} slots.`,
    kept > 0 ? `${count(kept)} keep their source for a rollback, or clean up.` : "",
    lag > 0 ? `The longest lag of a copy is ${time(lag)}.` : "",
    longest > 0 ? `The longest wait of a write was ${time(longest)}.` : "",
  ];
  return told.filter(Boolean).join(" ");
}

function stateOf(move) {
  const told = [
    move.phase.replaceAll("_", " "),
    move.goal === "back" && move.ended_at === null ? "going back" : "",
    move.paused ? "paused" : "",
    move.stalled ? "stalled" : "",
  ];
  return told.filter(Boolean).join(", ");
}

/** What the shard that receives lacks of the other one. */
function lagOf(move) {
  if ((move.changes_behind ?? null) === null) return "";
  if (move.changes_behind === 0) return "no change behind";
  return `${count(move.changes_behind)} ${move.changes_behind === 1 ? "change" : "changes"} behind, for ${time(move.lag_ms)} at most`;
}

function figures(move, rebalance) {
  const planned = move.rows_expected ?? rebalance?.moves?.find((step) => step.move === move.id)?.rows;
  const of = planned > 0 ? ` of about ${count(planned)}` : "";
  const now = Date.now();
  const told = [
    `${count(move.rows)}${of} rows copied, ${bytes(move.bytes)}`,
    (move.seconds_left ?? null) === null ? "" : `about ${duration(move.seconds_left)} left`,
    lagOf(move),
    move.longest_hold_ms > 0 ? `longest wait ${time(move.longest_hold_ms)}` : "no write has waited",
    move.ended_at === null
      ? `last change ${duration((now - Date.parse(move.changed_at)) / 1000)} ago`
      : `ended ${duration((now - Date.parse(move.ended_at)) / 1000)} ago`,
    move.rebalance ? `part of a rebalance` : "",
  ];
  return `${told.filter(Boolean).join(" · ")}.`;
}

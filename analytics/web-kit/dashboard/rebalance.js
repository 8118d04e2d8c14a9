// Rebalance: the one that goes on, or the last one: its plan, its progress and its effect.

import { element, setAttribute, setText } from "./element.js";
import { Orders } from "./orders.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { count, duration, NOTHING, ratio } from "./units.js";

/** What each goal makes even. */
export const GOALS = {
  slots: "slots by weight",
  size: "bytes by weight",
  load: "requests by weight",
  placement: "a placement",
  drain: "an empty shard",
};

export class Rebalance {
  constructor(place, movement) {
    this.movement = movement;
    this.names = [];
    this.note = element("p", { class: "note", text: "Looking." });
    this.bar = element("progress", {});
    this.state = element("span", { class: "move-state" });
    this.reason = element("p", { class: "move-reason", hidden: true });
    this.skews = ["before", "planned", "measured"].map((name) => {
      const value = element("dd", { data: { skew: name } });
      return [name, value, element("div", {}, element("dt", { text: `Skew ${name}` }), value)];
    });
    this.orders = new Orders("Orders");
    const plan = element("details", { class: "orders" }, element("summary", { text: "Plan" }));
    this.whole = element(
      "div",
      { hidden: true },
      element("div", { class: "progress" }, this.bar, this.state),
      element("dl", { class: "skews" }, ...this.skews.map(([, , part]) => part)),
      this.reason,
      this.orders.node,
      plan,
    );
    place.append(this.note, this.whole);
    this.table = new Table(plan, {
      label: "Moves of the rebalance",
      empty: "It moves nothing.",
      most: 8,
      key: (row) => `${row.from} ${row.to} ${row.slots}`,
      columns: [
        { name: "From", make: (row) => owned(row.from, this.names.indexOf(row.from)) },
        { name: "To", make: (row) => owned(row.to, this.names.indexOf(row.to)) },
        { name: "Slots", text: (row) => count(row.slot_count), numeric: true },
        { name: "Rows", text: (row) => `${count(row.copied_rows)} of ${about(row.rows)}`, numeric: true, wide: true },
        { name: "State", text: (row) => row.state, level: (row) => (row.state === "failed" ? "bad" : "normal") },
        { name: "Reason", text: (row) => row.reason ?? "", class: "prose", wide: true },
      ],
    });
    movement.addEventListener("change", () => this.draw());
  }

  show(m) {
    this.names = m.shards.map((shard) => shard.shard);
  }

  draw() {
    const { rebalance, refusal } = this.movement;
    this.whole.hidden = rebalance === null;
    if (rebalance === null) {
      setText(this.note, refusal ?? "There was none.");
      return;
    }
    setText(this.note, say(rebalance));
    const ended = rebalance.moved_count + rebalance.failed_count;
    this.bar.max = Math.max(1, rebalance.move_count);
    this.bar.value = rebalance.move_count === 0 ? 1 : ended;
    setAttribute(this.bar, "aria-label", `Moves that have ended: ${ended} of ${rebalance.move_count}`);
    setText(this.state, `${rebalance.state}${rebalance.stalled ? ", stalled" : ""}`);
    setAttribute(this.state, "data-state", rebalance.state);
    for (const [name, value] of this.skews) {
      const skew = rebalance[`skew_${name}`];
      setText(value, skew === null ? "not yet" : ratio(skew));
      if (skew === null && rebalance.ended_at !== null) setText(value, "not measured");
    }
    this.reason.hidden = !rebalance.reason;
    setText(this.reason, rebalance.reason ?? "");
    this.orders.show("rebalance", rebalance.actions, { id: rebalance.id, url: this.movement.url });
    this.table.show(rebalance.moves ?? []);
  }
}

const about = (rows) => (rows === null ? NOTHING : `about ${count(rows)}`);

function say(rebalance) {
  const goal = { placement: rebalance.placement, drain: `${rebalance.shard} empty` }[rebalance.by];
  const since = (text) => (Date.now() - Date.parse(text)) / 1000;
  const told = [
    `Goal: ${goal ?? GOALS[rebalance.by] ?? rebalance.by}.`,
    `${count(rebalance.moved_count)} of ${count(rebalance.move_count)} moves done,`,
    `${count(rebalance.slots_moved)} of ${count(rebalance.slots)} slots,`,
    `${count(rebalance.rows)} rows copied of ${about(rebalance.planned_rows)}.`,
    rebalance.failed_count > 0 ? `${count(rebalance.failed_count)} moves did not take place.` : "",
    rebalance.ended_at === null
      ? `Begun ${duration(since(rebalance.began_at))} ago.`
      : `Ended ${duration(since(rebalance.ended_at))} ago, after ${duration(since(rebalance.began_at) - since(rebalance.ended_at))}.`,
  ];
  return told.filter(Boolean).join(" ");
}

// Flow: each shard with the keys that it received last, as recorded by the router; or demo keys, on the shards where
// the chosen strategy would place them.

import { byId, element, keep, setStyle, setText } from "./element.js";
import { ownerColour } from "./palette.js";
import { count } from "./units.js";

/** Keys that a shard shows. */
const SHOWN_MAX = 8;
const DEMO_KEYS = Array.from({ length: 12 }, (_, number) => `user_${number + 1}`);

export class Flow {
  constructor(strategy) {
    this.strategy = strategy;
    this.last = 0;
    this.names = [];
    this.lanes = new Map();
    this.isDemo = false;
    this.button = byId("flow-demo");
    this.note = byId("flow-note");
    this.button.addEventListener("click", () => this.turn(!this.isDemo));
    strategy.addEventListener("change", () => this.isDemo && this.showDemo());
  }

  /** Asks for the keys since the last answer. Returns its status, 0 without an answer. */
  async ask() {
    try {
      const answer = await fetch(`api/lab/writes?after=${this.last}`);
      const body = await answer.json();
      if (answer.ok) this.take(body);
      else if (!this.isDemo) setText(this.note, `${body.detail}.`);
      return { status: answer.status, problem: body.detail };
    } catch {
      return { status: 0 };
    }
  }

  take({ keyspace, placement, shards, last, writes }) {
    // A restarted router counts from 1.
    this.last = last;
    this.names = shards.map(({ shard }) => shard);
    this.strategy.offer({ keyspace, placement, weights: shards.map(({ weight }) => weight) });
    for (const { number, key, slot, shard, rows } of writes) this.put(shard, { id: number, key, slot, rows });
    if (writes.length > 0) {
      this.written = [...(this.written ?? []), ...writes.map(({ key }) => key)].slice(-12);
      if (!this.isDemo) this.strategy.sample(unique(this.written));
    }
    if (!this.isDemo) this.show();
  }

  put(shard, key) {
    const lane = this.lanes.get(shard) ?? { total: 0, keys: [] };
    this.lanes.set(shard, lane);
    lane.total += key.rows;
    lane.keys = [key, ...lane.keys].slice(0, SHOWN_MAX);
  }

  show() {
    const isQuiet = this.lanes.size === 0;
    setText(
      this.note,
      isQuiet
        ? "Nothing was written through this router lately. Write a row, or try demo keys, which are not stored."
        : "Keys of rows that clients have written through this router, with the shards that have stored them. Of the single writes within one millisecond only one is shown. Of bulk writes a few keys are shown for each shard: +9 means that a key stands for 9 further rows.",
    );
    this.draw(this.names, this.lanes, "written");
  }

  turn(isDemo) {
    this.isDemo = isDemo;
    setText(this.button, isDemo ? "Show what is written" : "Try 12 demo keys");
    this.strategy.sample(isDemo ? DEMO_KEYS : unique(this.written ?? []));
    if (!isDemo) this.show();
  }

  showDemo() {
    const { trial } = this.strategy;
    if (trial === null) return;
    setText(
      this.note,
      `Demo keys where ${trial.keyspace} with ${trial.placement} places them. They are not stored.`,
    );
    const lanes = new Map();
    for (const { key, slot, shard } of trial.sample) {
      if (shard === null) continue;
      const lane = lanes.get(shard) ?? { total: 0, keys: [] };
      lanes.set(shard, lane);
      lane.total += 1;
      lane.keys.push({ id: key, key, slot, rows: 1 });
    }
    this.draw(trial.before.shards.map(({ shard }) => shard), lanes, "computed");
  }

  draw(names, lanes, word) {
    keep(
      byId("flow-lanes"),
      names.map((name, place) => ({ name, place })),
      ({ name }) => name,
      () =>
        element(
          "li",
          { class: "lane" },
          element("p", { class: "lane-head" }, element("span"), element("span", { class: "quiet-text" })),
          element("ul", { class: "lane-keys" }),
        ),
      (node, { name, place }) => {
        const lane = lanes.get(name) ?? { total: 0, keys: [] };
        setStyle(node, "--owner", ownerColour(place));
        node.dataset.shard = name;
        setText(node.firstChild.firstChild, name);
        setText(node.firstChild.lastChild, `${count(lane.total)} ${word}`);
        keep(
          node.lastChild,
          lane.keys,
          ({ id }) => id,
          ({ key, slot, rows }) =>
            element("li", { class: "lane-key", title: hint(slot, rows), text: shown(key, rows) }),
          () => {},
        );
      },
    );
  }
}

const unique = (keys) => [...new Set(keys)];

/** A key of bulk writes is shown with the number of further rows for which it stands. */
const shown = (key, rows) => (rows > 1 ? `${key} +${count(rows - 1)}` : key);

const hint = (slot, rows) =>
  `slot ${slot ?? "unknown"}${rows > 1 ? `; the key stands for ${count(rows)} rows` : ""}`;

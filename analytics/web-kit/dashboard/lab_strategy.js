// Strategy: a keyspace and a placement on paper, the shares of the shards, and what a change would move.

import { byId, element, setText } from "./element.js";
import { Pictures } from "./lab_pictures.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { count, ratio, share } from "./units.js";

const WAIT_MS = 250;

export class Strategy extends EventTarget {
  /** Dispatches `change` when another trial is shown. */
  constructor() {
    super();
    this.trial = null;
    this.keys = [];
    this.round = 0;
    this.isTouched = false;
    this.form = byId("strategy-form");
    this.problem = byId("strategy-problem");
    this.pictures = new Pictures(byId("strategy-pictures"));
    this.table = shareTable(() => this.names());
    this.places = sampleTable(() => this.names());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.compute();
    });
    this.form.addEventListener("input", () => {
      this.isTouched = true;
      this.shards();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.compute(), WAIT_MS);
    });
    this.shards();
  }

  /** Begins with the strategy of the cluster, until the reader has chosen one. */
  offer({ keyspace, placement, weights }) {
    const known = JSON.stringify([keyspace, placement, weights]);
    if (this.isTouched || known === this.offered) return;
    this.offered = known;
    const { elements } = this.form;
    elements.keyspace.value = keyspace;
    // Owners that a placement names may not be those of a trial, whose shards are shard1, shard2, …
    elements.placement.value = /^(partitions|manual)/.test(placement) ? "weighted" : placement;
    elements.weights.value = weights.map((weight) => Math.max(1, weight)).join(",");
    this.shards();
    this.isBegun = true;
    this.compute();
  }

  /** Computes the form as it stands, if nothing was computed yet. */
  computeOnce() {
    if (this.isBegun) return;
    this.isBegun = true;
    this.compute();
  }

  /** Shows where these keys go, too. */
  sample(keys) {
    if (JSON.stringify(keys) === JSON.stringify(this.keys)) return;
    this.keys = keys;
    this.compute();
  }

  weights() {
    return this.form.elements.weights.value.split(",").map((text) => Number(text));
  }

  /** Offers the shards that the weights name. */
  shards() {
    const { shard, change } = this.form.elements;
    const most = Math.min(this.weights().length, 64);
    if (shard.options.length !== most) {
      const names = Array.from({ length: most }, (_, at) => `shard${at + 1}`);
      shard.replaceChildren(...names.map((name) => element("option", { value: name, text: name })));
      shard.value = names.at(-1);
    }
    shard.disabled = change.value !== "remove" && change.value !== "weight";
  }

  change() {
    const { change, shard } = this.form.elements;
    if (change.value === "remove") return `remove:${shard.value}`;
    if (change.value !== "weight") return change.value;
    return `weight:${shard.value}=${this.weights()[shard.selectedIndex] * 2}`;
  }

  async compute() {
    this.round += 1;
    const { round } = this;
    const { keyspace, placement, weights, kind } = this.form.elements;
    const query = new URLSearchParams({
      keyspace: keyspace.value,
      placement: placement.value,
      weights: weights.value,
      change: this.change(),
      kind: kind.value,
      sample: this.keys.join("\n"),
    });
    const answer = await ask(query);
    if (round !== this.round) return;
    setText(this.problem, answer.problem ?? "");
    if (answer.problem === undefined) this.show(answer);
  }

  names() {
    const state = this.trial.moved?.after ?? this.trial.before;
    const before = this.trial.before.shards.map(({ shard }) => shard);
    const added = state.shards.map(({ shard }) => shard).filter((name) => !before.includes(name));
    return [...before, ...added];
  }

  show(trial) {
    this.trial = trial;
    const { before, moved } = trial;
    const what = byId("strategy-form").elements.kind.value === "slots" ? "slots" : "keys";
    const skew = `The fullest shard has ${ratio(before.skew)} its share.`;
    const moves = moved
      ? ` To ${moved.change.replace(" = ", " to weight ")} would move ${share(moved.share)} of the ${what} (${count(moved.load)} of ${count(trial.total)}), at least ${share(moved.needed)} must; afterwards the fullest has ${ratio(moved.after.skew)}.`
      : "";
    setText(byId("strategy-outcome"), skew + moves);
    const names = this.names();
    this.pictures.show(trial, names);
    const find = (state, name) => state?.shards.find((one) => one.shard === name);
    this.table.show(
      names.map((name) => ({ name, before: find(before, name), after: find(moved?.after, name) })),
    );
    byId("sample-title").hidden = trial.sample.length === 0;
    byId("strategy-sample").hidden = trial.sample.length === 0;
    this.places.show(trial.sample);
    this.dispatchEvent(new Event("change"));
  }
}

async function ask(query) {
  try {
    const answer = await fetch(`api/lab/placements?${query}`);
    const body = await answer.json();
    return answer.ok ? body : { problem: `${body.detail ?? `status ${answer.status}`}.` };
  } catch {
    return { problem: "The router does not answer." };
  }
}

function shareTable(names) {
  const number = (name, value, wide = false) => ({
    name,
    value,
    text: (row) => count(value(row)),
    numeric: true,
    wide,
  });
  return new Table(byId("strategy-table"), {
    label: "Shares of the shards",
    empty: "",
    most: 64,
    key: (row) => `${row.name} ${names().indexOf(row.name)}`,
    columns: [
      { name: "Shard", make: (row) => owned(row.name, names().indexOf(row.name)), value: (row) => row.name },
      number("Weight", (row) => row.before?.weight ?? row.after?.weight, true),
      number("Slots", (row) => row.before?.slots, true),
      number("Keys", (row) => row.before?.load),
      number("Slots then", (row) => row.after?.slots, true),
      number("Keys then", (row) => row.after?.load),
    ],
  });
}

function sampleTable(names) {
  const place = (name, value) => ({
    name,
    value,
    make: () => element("span"),
    update: (node, row) => {
      const shard = value(row);
      node.replaceChildren(...(shard === null ? [] : [owned(shard, names().indexOf(shard))]));
    },
  });
  return new Table(byId("strategy-sample"), {
    label: "Keys one by one",
    empty: "",
    key: (row) => row.key,
    columns: [
      { name: "Key", text: (row) => row.key, value: (row) => row.key, class: "key-cell" },
      { name: "Slot", text: (row) => count(row.slot), value: (row) => row.slot, numeric: true },
      place("Shard", (row) => row.shard),
      place("Then", (row) => row.after),
      { name: "Reason", text: (row) => row.reason ?? "", wide: true, class: "prose" },
    ],
  });
}

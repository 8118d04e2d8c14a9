// Key box: the form that finds the slot and the shard of a key, and pins the slot to the bar.
//
// The field for a table is shown if the cluster has several table groups, and the field for a partition once the router
// needs one: in a keyspace by a column, the key alone does not determine the slot.

import { byId, element } from "./element.js";
import { count } from "./units.js";

/** Codes of refusals whose remedy is another partition. */
const NEED_PARTITION = ["TSR355", "TSR356"];
const FIELDS = ["key", "table", "partition"];

export class KeyBox {
  constructor(view, slots) {
    this.view = view;
    this.slots = slots;
    this.fields = new Map(FIELDS.map((name) => [name, byId(`key-${name === "key" ? "text" : name}`)]));
    this.answer = byId("key-answer");
    this.round = 0;
    byId("key").addEventListener("submit", (event) => {
      event.preventDefault();
      view.choose(this.entered());
    });
    const text = this.fields.get("key");
    text.addEventListener("search", () => text.value === "" && view.choose({ key: null }));
    view.addEventListener("change", () => this.follow());
  }

  /** Shows the field for a table if there are several table groups. */
  show(m) {
    this.hasGroups = (m.cluster.groups ?? []).length > 1;
    this.showTable();
  }

  showTable() {
    byId("key-table-box").hidden = !this.hasGroups && this.view.table === null;
  }

  /** Returns the entered values; `null` for an empty field. */
  entered() {
    return Object.fromEntries([...this.fields].map(([name, { value }]) => [name, value || null]));
  }

  /** Requests the location of the key in the view, unless that has been done. */
  async follow() {
    const wanted = Object.fromEntries(FIELDS.map((name) => [name, this.view[name]]));
    const known = JSON.stringify(wanted);
    if (known === this.known) return;
    this.known = known;
    this.round += 1;
    const { round } = this;
    if (wanted.key === null) {
      this.slots.find(null);
      this.answer.replaceChildren();
      return;
    }
    for (const [name, field] of this.fields)
      if (field.value !== (wanted[name] ?? "")) field.value = wanted[name] ?? "";
    this.showTable();
    const found = await this.locate(wanted);
    if (round !== this.round) return;
    const needsPartition = found.column !== undefined || NEED_PARTITION.includes(found.code);
    byId("key-partition-box").hidden = !needsPartition && wanted.partition === null;
    if (found.problem) this.refuse(found.problem);
    else this.accept(found);
  }

  async locate(wanted) {
    const given = Object.entries(wanted).filter(([, value]) => value !== null);
    try {
      const response = await fetch(`api/route?${new URLSearchParams(given)}`);
      const body = await response.json();
      if (response.ok) return body;
      return { problem: body.detail ?? `status ${response.status}`, code: body.code };
    } catch {
      return { problem: "no router responds" };
    }
  }

  refuse(problem) {
    this.known = undefined; // A repeated attempt sends a new request.
    this.slots.find(null);
    this.answer.dataset.state = "refused";
    this.answer.replaceChildren(element("span", { text: problem }));
  }

  accept({ key, slot, shard, primary, replicas }) {
    this.slots.find({ key, slot, shard });
    this.answer.dataset.state = "found";
    const part = (name, value) => [
      element("span", { class: "quiet-text", text: name }),
      element("b", { text: value }),
    ];
    this.answer.replaceChildren(
      element("b", { class: "key-name", text: key }),
      ...part("slot", count(slot)),
      ...part("on", shard),
      ...part("written to", primary),
      ...part("read from", replicas.length > 0 ? replicas.join(", ") : primary),
    );
  }
}

// Errors: refused and failed requests, grouped and one by one, newest first.

import { byId, element, setAttribute, setText } from "./element.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { clock, count } from "./units.js";

/** They are requested when the figures count new ones, but not more often than this, */
const EVERY_MS = 1900;
/** and otherwise from time to time: requests without rows are in no figures. */
const QUIET_MS = 10_000;
const LATEST = 40;

export class Errors {
  constructor(place, view) {
    this.view = view;
    this.names = [];
    this.asked = -QUIET_MS;
    this.codes = new Set();
    this.note = element("p", { class: "note" });
    const groups = element("div", { class: "block" }, element("h3", { text: "Grouped" }));
    const latest = element("div", { class: "block" }, element("h3", { text: "Latest" }));
    place.append(this.note, element("div", { class: "pair inner" }, groups, latest));
    const code = {
      name: "Code",
      value: (row) => row.code,
      make: (row) => element("a", { href: `errors/${encodeURIComponent(row.code)}`, text: row.code }),
    };
    const shard = {
      name: "Shard",
      value: (row) => row.shard,
      make: (row) =>
        row.shard
          ? owned(row.shard, this.names.indexOf(row.shard))
          : element("span", { class: "quiet-text", text: "none" }),
    };
    this.groups = new Table(groups, {
      label: "Errors by code, shard and route",
      empty: "None.",
      most: 8,
      key: (row) => [row.code, row.shard, row.route, row.router].join("\n"),
      columns: [
        code,
        { name: "Count", text: (row) => count(row.count), value: (row) => row.count, numeric: true },
        { name: "Last", text: (row) => clock(Date.parse(row.last)), value: (row) => row.last, numeric: true },
        shard,
        { name: "Route", text: (row) => row.route, value: (row) => row.route, wide: true, class: "mono" },
        { name: "The last one said", text: (row) => row.message, class: "prose" },
      ],
    });
    this.latest = new Table(latest, {
      label: "The latest errors",
      empty: "None.",
      most: 8,
      key: (row) => row.request_id + row.time,
      columns: [
        { name: "Time", text: (row) => clock(Date.parse(row.time)), class: "numeric-left" },
        { ...code, value: undefined },
        { ...shard, value: undefined, wide: true },
        { name: "Message", text: (row) => row.message, class: "prose" },
        { name: "Request", make: (row) => this.copier(row.request_id) },
      ],
    });
    byId("errors-shard").addEventListener("change", (event) =>
      view.choose({ shard: event.target.value || null }),
    );
    byId("errors-code").addEventListener("change", () => this.ask());
    view.addEventListener("change", () => this.m && this.show(this.m, true));
  }

  copier(id) {
    const button = element("button", { type: "button", class: "link mono copy", title: id });
    const say = (text) => {
      setText(button, text);
      setAttribute(button, "aria-label", `${text} ${id}`);
    };
    say("copy id");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(id);
      } catch {
        setText(button, id); // Where no page may write to the clipboard, it can be marked by hand.
        return;
      }
      say("copied");
      setTimeout(() => say("copy id"), 1500);
    });
    return button;
  }

  show(m, now = false) {
    this.m = m;
    this.names = m.shards.map((shard) => shard.shard);
    options(byId("errors-shard"), this.names, this.view.shard ?? "");
    const since = performance.now() - this.asked;
    const changed = m.errors !== this.seen;
    if (!now && (since < EVERY_MS || (!changed && since < QUIET_MS))) return;
    this.seen = m.errors;
    this.ask();
  }

  async ask() {
    this.asked = performance.now();
    const { asked } = this;
    const query = new URLSearchParams({ limit: LATEST });
    if (this.view.router !== null) query.set("router", this.view.router);
    if (this.view.shard !== null) query.set("shard", this.view.shard);
    const code = byId("errors-code").value;
    if (code !== "") query.set("code", code);
    try {
      const [latest, groups] = await Promise.all(
        ["", "&grouped=true"].map((more) => fetch(`api/analytics/errors?${query}${more}`)),
      );
      if (!latest.ok || !groups.ok || asked !== this.asked) return;
      this.list(await latest.json(), await groups.json());
    } catch {
      // The state of the connection shows this already.
    }
  }

  list(latest, groups) {
    for (const row of groups.errors) this.codes.add(row.code);
    options(byId("errors-code"), [...this.codes].sort(), byId("errors-code").value);
    setText(
      this.note,
      latest.total === 0
        ? "Nothing was refused, and nothing failed, since the start."
        : `${count(latest.total)} since the start.`,
    );
    this.groups.show(groups.errors);
    this.latest.show(latest.errors);
  }
}

/** Keeps the choices of a select in step with names; the first stays, which means all. */
function options(select, names, chosen) {
  const wanted = ["", ...names].join("\n");
  if (select.dataset.known !== wanted) {
    select.dataset.known = wanted;
    select.replaceChildren(
      select.options[0],
      ...names.map((name) => element("option", { value: name, text: name })),
    );
  }
  if (select.value !== chosen) select.value = chosen;
}

// Spread: the shares of rows and requests of the shards, compared with their weights.

import { element, setAttribute, setStyle, setText } from "./element.js";
import { BAND, isChance, isTooFew } from "./judgement.js";
import { ownerColour } from "./palette.js";
import { Table } from "./table.js";
import { isNumber, NOTHING, percent, ratio, share } from "./units.js";

/** The deviation of a share from the ideal one: `+12 %`. */
function distance(part, ideal) {
  if (!isNumber(part) || !(ideal > 0)) return NOTHING;
  const off = Math.round((part / ideal - 1) * 100);
  return off === 0 ? "even" : `${off > 0 ? "+" : "−"}${Math.abs(off)} %`;
}

/** True if a share is outside the band, and not by chance. */
function isOff(part, ideal, whole) {
  // A shard without weight has no ideal share.
  if (!isNumber(part) || !(ideal > 0) || Math.abs(part / ideal - 1) <= BAND) return false;
  return !isChance(part * whole, ideal * whole);
}

export class Spread {
  constructor(place, view) {
    this.view = view;
    this.summary = element("p", { class: "note" });
    place.append(this.summary);
    const bar = (part) => ({
      make: () =>
        element(
          "div",
          { class: "against" },
          element("span", { class: "against-bar" }),
          element("span", { class: "against-band" }),
          element("span", { class: "against-ideal" }),
          element("span", { class: "against-text" }),
        ),
      update: (node, row) => this.bar(node, row, row[part]),
      value: (row) => row[part],
      level: (row) => (isOff(row[part], row.ideal, this.whole[part]) ? "warn" : "normal"),
      numeric: true,
    });
    this.table = new Table(place, {
      label: "Rows and requests of each shard against its ideal share",
      empty: "There are no shards.",
      most: 12,
      key: (row) => row.shard,
      columns: [
        {
          name: "Shard",
          text: (row) => row.shard,
          make: (row) => owned(row.shard, row.index),
          value: (row) => row.index,
        },
        { name: "Ideal", text: (row) => share(row.ideal), numeric: true, wide: true },
        { name: "Rows", ...bar("rows") },
        { name: "Requests", ...bar("requests") },
      ],
    });
    place.append(
      element(
        "p",
        { class: "note key-line" },
        element("span", { class: "against-ideal still" }),
        " ideal by weight ",
        element("span", { class: "against-band still" }),
        ` within ±${BAND * 100} %`,
      ),
    );
  }

  bar(node, row, part) {
    const [bar, band, ideal, text] = node.children;
    const known = isNumber(part);
    setStyle(node, "--owner", row.colour);
    setStyle(bar, "width", `${known ? (Math.min(part, this.most) / this.most) * 100 : 0}%`);
    setStyle(band, "left", `${((row.ideal * (1 - BAND)) / this.most) * 100}%`);
    setStyle(band, "width", `${((row.ideal * 2 * BAND) / this.most) * 100}%`);
    setStyle(ideal, "left", `${(row.ideal / this.most) * 100}%`);
    setText(text, known ? `${percent(part)} % ${distance(part, row.ideal)}` : NOTHING);
  }

  show(m) {
    const weights = m.shards.reduce((sum, shard) => sum + shard.weight, 0) || 1;
    const total = m.shards.reduce((sum, shard) => sum + (shard.rows ?? 0), 0);
    const asked = m.shards.reduce((sum, shard) => sum + shard.reads + shard.writes, 0);
    this.whole = { rows: total, requests: asked };
    const rows = m.shards.map((shard, index) => ({
      shard: shard.shard,
      index,
      colour: ownerColour(index),
      ideal: shard.weight / weights,
      rows: isNumber(shard.rows) && total > 0 ? shard.rows / total : null,
      requests: asked > 0 ? (shard.reads + shard.writes) / asked : null,
    }));
    this.most = Math.max(...rows.flatMap((row) => [row.ideal * 1.5, row.rows ?? 0, row.requests ?? 0])) || 1;
    const off = rows.filter((row) =>
      ["rows", "requests"].some((part) => isOff(row[part], row.ideal, this.whole[part])),
    );
    const far = (row) =>
      row.ideal > 0
        ? Math.max(...[row.rows, row.requests].filter(isNumber).map((part) => Math.abs(part / row.ideal - 1)), 0)
        : 0;
    // The shards with the largest deviation come first.
    const shown = rows.length > 12 ? rows.toSorted((a, b) => far(b) - far(a) || a.index - b.index) : rows;
    setText(this.summary, say(m, off.length));
    this.table.show(shown);
  }
}

function say(m, off) {
  const band = `±${BAND * 100} %`;
  const missing = m.shards.filter((shard) => !isNumber(shard.rows)).length;
  const told = [
    `Skew of rows ${ratio(m.skew.rows)}, of requests ${isTooFew(m) ? "not known: too few" : ratio(m.skew.requests)}.`,
    off === 0
      ? `None is outside ${band} by more than chance.`
      : `${off} of ${m.shards.length} outside ${band}.`,
    missing > 0 ? `Rows of ${missing} not known.` : "",
  ];
  return told.filter(Boolean).join(" ");
}

/** A shard's name with its colour. */
export function owned(name, index) {
  const node = element(
    "span",
    { class: "owned" },
    element("span", { class: "swatch" }),
    element("span", { text: name }),
  );
  setStyle(node, "--owner", index >= 0 ? ownerColour(index) : "var(--line)");
  setAttribute(node, "data-owner", name);
  return node;
}

// Advice: moves of slots that would help. Mostly there are none.

import { element, keep, setText } from "./element.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { bytes, count, ratio, share } from "./units.js";

const EVERY_MS = 10_000;

export class Advice {
  constructor(place) {
    this.asked = -EVERY_MS;
    this.note = element("p", { class: "calm", text: "Looking." });
    this.hot = element("ul", { class: "hot" });
    this.outlook = element("p", { class: "note" });
    this.moves = element("div", { hidden: true }, this.outlook);
    place.append(this.note, this.hot, this.moves);
  }

  async show(m) {
    this.names = m.shards.map((shard) => shard.shard);
    if (performance.now() - this.asked < EVERY_MS) return;
    this.asked = performance.now();
    try {
      const answer = await fetch("api/advice");
      if (answer.ok) this.tell(await answer.json());
    } catch {
      // The state of the connection shows this already.
    }
  }

  tell(advice) {
    setText(this.note, advice.because);
    const hot = advice.hot ?? [];
    keep(
      this.hot,
      hot,
      (spot) => String(spot.slot),
      () => element("li"),
      (node, spot) => {
        const name = spot.key ? `Key ${spot.key} (slot ${count(spot.slot)})` : `Slot ${count(spot.slot)}`;
        setText(
          node,
          `${name} on ${spot.shard} carries ${share(spot.share)} alone, more than the ${share(spot.fair_share)} of a whole shard: no move helps it.`,
        );
      },
    );
    const moves = advice.moves ?? [];
    this.moves.hidden = moves.length === 0;
    if (moves.length === 0) return;
    setText(this.outlook, `Skew now ${ratio(advice.skew)}, after these moves ${ratio(advice.skew_after)}:`);
    this.table ??= this.makeTable();
    this.table.show(moves);
  }

  makeTable() {
    return new Table(this.moves, {
      label: "Moves that would help",
      empty: "",
      most: 6,
      key: (row) => JSON.stringify([row.from, row.to, row.ranges]),
      columns: [
        { name: "From", make: (row) => owned(row.from, this.names.indexOf(row.from)) },
        { name: "To", make: (row) => owned(row.to, this.names.indexOf(row.to)) },
        { name: "Slots", text: (row) => count(row.slots), numeric: true },
        { name: "Rows", text: (row) => count(row.rows), numeric: true, wide: true },
        { name: "Size", text: (row) => bytes(row.bytes), numeric: true, wide: true },
        { name: "Load", text: (row) => share(row.share), numeric: true },
      ],
    });
  }
}

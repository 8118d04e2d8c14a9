// Replicas: the delay of each replica, and the reads by the kind of node that answered.

import { element, setText } from "./element.js";
import { judge, LIMITS } from "./judgement.js";
import { Parts } from "./parts.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { count, isNumber, share, time } from "./units.js";

export class Replicas {
  constructor(place, view) {
    this.view = view;
    this.names = [];
    this.note = element("p", { class: "note" });
    this.parts = new Parts();
    place.append(this.note, this.parts.node);
    this.table = new Table(place, {
      label: "Replicas",
      empty: "There are no replicas: reads go to primaries.",
      most: 12,
      key: (row) => row.node,
      columns: [
        {
          name: "Replica",
          value: (row) => row.node,
          make: (row) => owned(row.node, this.names.indexOf(row.shard)),
        },
        {
          name: "State",
          text: (row) => (row.up ? "up" : "down"),
          value: (row) => (row.up ? 1 : 0),
          level: (row) => (row.up ? "normal" : "bad"),
        },
        {
          name: "Lag",
          text: (row) =>
            row.lag_ms === 0 ? "has all" : isNumber(row.lag_ms) ? time(row.lag_ms) : "not known",
          value: (row) => row.lag_ms,
          numeric: true,
          level: (row) => judge(row.lag_ms, LIMITS.lag),
        },
        {
          name: "Probe",
          text: (row) => time(row.latency_ms),
          value: (row) => row.latency_ms,
          numeric: true,
          wide: true,
        },
      ],
    });
  }

  show(m) {
    this.names = m.shards.map((shard) => shard.shard);
    const { primary, replica, cache } = m.read_from ?? {};
    const all = (primary ?? 0) + (replica ?? 0) + (cache ?? 0);
    this.parts.show(
      [
        ["replicas", replica, "var(--part-1)"],
        ["primaries", primary, "var(--part-2)"],
        ["cache", cache, "var(--part-3)"],
      ],
      (value) => share(all > 0 ? value / all : null),
    );
    setText(
      this.note,
      all > 0 ? `Who answered ${count(all)} reads:` : "No read was answered in this window.",
    );
    const { shard: chosen } = this.view;
    const rows = m.shards
      .filter((shard) => chosen === null || shard.shard === chosen)
      .flatMap((shard) =>
        shard.nodes
          .filter((node) => node.role === "replica")
          .map((node) => ({ ...node, shard: shard.shard })),
      );
    // Replicas that need attention come first.
    if (rows.length > 12) rows.sort((a, b) => a.up - b.up || (b.lag_ms ?? 0) - (a.lag_ms ?? 0));
    this.table.show(rows);
  }
}

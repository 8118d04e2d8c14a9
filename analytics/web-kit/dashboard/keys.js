// Keys: the most requested keys, and their shards.

import { element, setStyle, setText } from "./element.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { count, share } from "./units.js";

export class Keys {
  constructor(place, view) {
    this.names = [];
    this.table = new Table(place, {
      label: "Hot keys",
      empty: "No key was requested in this window.",
      most: 10,
      key: (row) => `${row.key}\n${row.shard}`,
      columns: [
        {
          name: "Key",
          value: (row) => row.key,
          class: "key-cell",
          make: (row) =>
            element("button", {
              type: "button",
              class: "link",
              title: `Show where ${row.key} lives`,
              text: row.key,
              on: { click: () => view.choose({ key: row.key, table: null, partition: null }) },
            }),
        },
        { name: "Requests", text: (row) => count(row.requests), value: (row) => row.requests, numeric: true },
        { name: "Share", text: (row) => share(row.share), value: (row) => row.share, numeric: true },
        {
          name: "Reads, writes",
          value: (row) => row.reads,
          wide: true,
          make: () =>
            element(
              "div",
              { class: "split" },
              element("span", { class: "split-bar", "aria-hidden": "true" }),
              element("span", { class: "split-text" }),
            ),
          update: (node, row) => {
            setStyle(
              node.firstChild,
              "--part",
              `${(row.reads / Math.max(1, row.reads + row.writes)) * 100}%`,
            );
            setText(node.lastChild, `${count(row.reads)}, ${count(row.writes)}`);
          },
        },
        {
          name: "Shard",
          text: (row) => row.shard,
          value: (row) => row.shard,
          make: (row) => owned(row.shard ?? "several", this.names.indexOf(row.shard)),
        },
      ],
    });
    this.view = view;
  }

  show(m) {
    this.names = m.shards.map((shard) => shard.shard);
    const { shard } = this.view;
    this.table.show((m.hot_keys ?? []).filter((row) => shard === null || row.shard === shard));
  }
}

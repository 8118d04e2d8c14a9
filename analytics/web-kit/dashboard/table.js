// Table: rows in an order that the reader may change by its heads. Rows stay the same elements as long as their key does.

import { element, keep, setAttribute, setText } from "./element.js";

export class Table {
  /**
   * `columns`: `{name, text(row), value(row), numeric, wide, make(row), update(node, row)}`. `value` makes a column
   * sortable; `make` brings an element instead of text; `wide` columns are left out on narrow screens. `most`: rows shown
   * until the reader asks for all.
   */
  constructor(place, { label, columns, key, empty, most = 20 }) {
    this.columns = columns;
    this.key = key;
    this.most = most;
    this.all = false;
    this.order = null;
    this.rows = [];
    this.body = element("tbody");
    this.heads = columns.map((column, at) => this.head(column, at));
    this.table = element(
      "table",
      {},
      element("caption", { class: "unseen", text: label }),
      element("thead", {}, element("tr", {}, ...this.heads)),
      this.body,
    );
    this.empty = element("p", { class: "calm", text: empty, hidden: true });
    this.more = element("button", {
      type: "button",
      class: "quiet",
      hidden: true,
      on: { click: () => this.toggle() },
    });
    this.frame = element(
      "div",
      { class: "scroll", role: "group", "aria-label": `${label}, table`, hidden: true },
      this.table,
    );
    place.append(this.frame, this.empty, this.more);
  }

  head(column, at) {
    const kind = [column.numeric && "numeric", column.wide && "wide"].filter(Boolean).join(" ");
    if (!column.value) return element("th", { scope: "col", class: kind, text: column.name });
    const button = element("button", {
      type: "button",
      text: column.name,
      on: { click: () => this.sort(at) },
    });
    return element("th", { scope: "col", class: kind, "aria-sort": "none" }, button);
  }

  sort(at) {
    const first = this.columns[at].numeric ? -1 : 1;
    if (this.order?.at !== at) this.order = { at, way: first };
    else if (this.order.way === first) this.order.way = -first;
    else this.order = null;
    this.heads.forEach((head, place) => {
      if (head.hasAttribute("aria-sort"))
        head.setAttribute(
          "aria-sort",
          this.order?.at !== place ? "none" : this.order.way > 0 ? "ascending" : "descending",
        );
    });
    this.show(this.rows);
  }

  toggle() {
    this.all = !this.all;
    this.show(this.rows);
  }

  show(rows) {
    this.rows = rows;
    const sorted = this.order === null ? rows : rows.toSorted((a, b) => this.compare(a, b));
    const shown = this.all ? sorted : sorted.slice(0, this.most);
    this.frame.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    this.more.hidden = rows.length <= this.most;
    setText(this.more, this.all ? `Show the first ${this.most}` : `Show all ${rows.length}`);
    keep(
      this.body,
      shown,
      this.key,
      (row) => this.make(row),
      (node, row) => this.update(node, row),
    );
    // Only a table that scrolls sideways is a stop for the keyboard.
    setAttribute(this.frame, "tabindex", this.frame.scrollWidth > this.frame.clientWidth ? "0" : null);
  }

  compare(a, b) {
    const { value } = this.columns[this.order.at];
    const [left, right] = [value(a), value(b)];
    if (left === right) return 0;
    // Unknown values come last in either order.
    if (left === null || left === undefined) return 1;
    if (right === null || right === undefined) return -1;
    return (left < right ? -1 : 1) * this.order.way;
  }

  make(row) {
    const cells = this.columns.map((column, at) => {
      const kind = [column.numeric && "numeric", column.wide && "wide", column.class]
        .filter(Boolean)
        .join(" ");
      const cell = at === 0 ? element("th", { scope: "row", class: kind }) : element("td", { class: kind });
      if (column.make) cell.append(column.make(row));
      return cell;
    });
    return element("tr", {}, ...cells);
  }

  update(node, row) {
    this.columns.forEach((column, at) => {
      const cell = node.children[at];
      if (column.update) column.update(cell.firstElementChild, row);
      else if (!column.make) setText(cell, column.text(row));
      if (column.level) setAttribute(cell, "data-level", column.level(row));
    });
  }
}

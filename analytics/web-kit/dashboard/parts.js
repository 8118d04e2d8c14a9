// Parts: what something whole is made of, as one thin bar with its words.

import { element, keep, setStyle, setText } from "./element.js";

export class Parts {
  constructor() {
    this.bar = element("div", { class: "parts-bar", "aria-hidden": "true" });
    this.words = element("ul", { class: "legend" });
    this.node = element("div", { class: "parts", hidden: true }, this.bar, this.words);
  }

  /** `parts`: name, value and colour; `format` writes a value. */
  show(parts, format) {
    const whole = parts.reduce((sum, [, value]) => sum + (value ?? 0), 0);
    const keyOf = ([name]) => name;
    this.node.hidden = whole === 0;
    keep(
      this.bar,
      parts,
      keyOf,
      () => element("span"),
      (node, [, value, colour]) => {
        setStyle(node, "--owner", colour);
        node.hidden = !(value > 0); // Else its gap would be seen.
        setStyle(node, "flex-grow", String(whole > 0 ? (value ?? 0) / whole : 0));
      },
    );
    keep(
      this.words,
      parts,
      keyOf,
      () =>
        element(
          "li",
          {},
          element("span", { class: "swatch" }),
          element("span"),
          element("span", { class: "legend-value" }),
        ),
      (node, [name, value, colour]) => {
        setStyle(node, "--owner", colour);
        setText(node.children[1], name);
        setText(node.children[2], format(value));
      },
    );
  }
}

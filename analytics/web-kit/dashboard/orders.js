// Orders: the commands by which an operator changes a move or a rebalance, ready to copy. The page itself only reads.

import { element, keep, setText } from "./element.js";

/** Time for which a button says that it has copied. */
const COPIED_MS = 1500;

/** Makes a place for commands; `show` fills it. */
export class Orders {
  constructor(label) {
    this.list = element("ul", { class: "orders-list" });
    this.node = element("details", { class: "orders" }, element("summary", { text: label }), this.list);
  }

  /** Shows the commands that `subject` accepts: `shard-manager move pause ID --url URL`. */
  show(subject, actions, { id, url }) {
    this.node.hidden = actions.length === 0;
    keep(this.list, actions, String, () => command(), (node, action) => {
      const text = `shard-manager ${subject} ${action} ${id} --url ${quoted(url)}`;
      copies(node, text, `the command to ${action}`);
    });
  }
}

/** A word as a shell takes it. */
const quoted = (word) => (/^[\w./:@%+,=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** Makes a line with a command and a button that copies it; `copies` fills it. */
export function command(name = "li") {
  const code = element("code", { class: "mono" });
  const word = element("span", { text: "Copy" });
  const button = element(
    "button",
    { type: "button", class: "quiet small", on: { click: () => copy(code, word) } },
    word,
    element("span", { class: "unseen" }),
  );
  return element(name, { class: "command" }, code, button);
}

/** Shows a command in a line; `about` says to those who do not see it what it is. */
export function copies(line, text, about) {
  setText(line.firstElementChild, text);
  setText(line.lastElementChild.lastElementChild, ` ${about}`);
}

async function copy(code, word) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    setText(word, "Copied");
  } catch {
    // Browsers copy by scripts on safe origins only; the reader copies the selection.
    getSelection().selectAllChildren(code);
    setText(word, "Selected");
  }
  setTimeout(() => setText(word, "Copy"), COPIED_MS);
}

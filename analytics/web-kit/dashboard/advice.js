// Advice: imbalances, the command that corrects each, and the effect of earlier moves. Usually there is nothing to do.

import { element, keep, setText } from "./element.js";
import { command, copies } from "./orders.js";
import { GOALS } from "./rebalance.js";
import { owned } from "./spread.js";
import { Table } from "./table.js";
import { bytes, count, ratio, share } from "./units.js";

const EVERY_MS = 10_000;

export class Advice {
  constructor(place) {
    this.asked = -EVERY_MS;
    this.note = element("p", { class: "calm", text: "Looking." });
    this.findings = element("ul", { class: "findings" });
    this.parts = new Map();
    this.effect = element("p", { class: "note effect", hidden: true });
    this.outlook = element("p", { class: "note" });
    this.moves = element("div", { hidden: true }, this.outlook);
    place.append(this.note, this.findings, this.moves, this.effect);
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
    const findings = advice.findings ?? [];
    // The text of the findings is not repeated.
    this.note.hidden = findings.length > 0;
    setText(this.note, advice.because);
    const keyOf = (finding) => `${finding.kind} ${finding.slot ?? ""}`;
    keep(
      this.findings,
      findings,
      keyOf,
      (finding) => this.make(keyOf(finding)),
      (node, finding) => this.update(keyOf(finding), finding),
    );
    const effect = say(advice.effect ?? {});
    this.effect.hidden = effect === "";
    setText(this.effect, effect);
    const moves = advice.moves ?? [];
    this.moves.hidden = moves.length === 0;
    if (moves.length === 0) return;
    setText(this.outlook, `Skew now ${ratio(advice.skew)}, after these moves ${ratio(advice.skew_after)}:`);
    this.table ??= this.makeTable();
    this.table.show(moves);
  }

  make(key) {
    const parts = {
      because: element("p", {}),
      command: command("div"),
      needs: element("p", { class: "note" }),
      reason: element("p", { class: "note" }),
      helps: element("ul", { class: "helps" }),
    };
    this.parts.set(key, parts);
    return element("li", { class: "finding" }, ...Object.values(parts));
  }

  update(key, finding) {
    const { because, command: line, needs, reason, helps } = this.parts.get(key);
    const { action, no_action: none } = finding;
    setText(because, `${capital(finding.because)}.`);
    line.hidden = !action;
    needs.hidden = !action;
    if (action) {
      copies(line, action.command, finding.slot === null ? "the command to rebalance" : "the command to move the slot");
      setText(needs, needed(action, finding));
    }
    reason.hidden = !none;
    setText(reason, none ? `${capital(none.reason)}.` : "");
    keep(helps, none?.helps ?? [], String, () => element("li"), (node, help) => setText(node, `${capital(help)}.`));
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

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** What a command leads to, and what it needs. */
function needed(action, finding) {
  const effect = `Skew after it: ${ratio(finding.skew_after)}.`;
  if (action.allowed) return effect;
  const need = action.requires.startsWith("--") ? `a router started with ${action.requires}` : `the scope ${action.requires}`;
  return `${effect} This needs ${need}.`;
}

/** The effect of the latest rebalance and of the moves of the last minutes. */
function say({ rebalance, moved }) {
  const told = [];
  if (rebalance) {
    const measured = rebalance.skew_measured === null ? "not measured" : `${ratio(rebalance.skew_measured)} measured`;
    const goal = GOALS[rebalance.by] ?? rebalance.by;
    told.push(
      `Latest rebalance (${goal}, ${rebalance.state}): skew ${ratio(rebalance.skew_before)} before, ` +
        `${ratio(rebalance.skew_planned)} planned, ${measured}.`,
    );
  }
  if (moved) {
    const slots = `${count(moved.slots)} ${moved.slots === 1 ? "slot" : "slots"}`;
    told.push(
      `${slots} moved in the last minutes: without these moves the same requests would have a skew of ${ratio(moved.skew_before)}, ` +
        `and now they have ${ratio(moved.skew_now)}.`,
    );
  }
  return told.join(" ");
}

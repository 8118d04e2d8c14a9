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
    // Advice is given for each table group separately.
    const { groups = [] } = m.cluster;
    const queries = groups.length > 1 ? groups.map((group) => `?${new URLSearchParams({ group })}`) : [""];
    try {
      const answers = await Promise.all(queries.map((query) => fetch(`api/advice${query}`)));
      const told = await Promise.all(answers.filter((answer) => answer.ok).map((answer) => answer.json()));
      if (told.length > 0) this.tell(told);
    } catch {
      // The state of the connection shows this already.
    }
  }

  /** Shows the advice for each table group, or the only one. */
  tell(all) {
    const findings = all.flatMap(({ group, findings = [] }) =>
      findings.map((finding) => ({ ...finding, group })),
    );
    // The text of the findings is not repeated.
    this.note.hidden = findings.length > 0;
    setText(this.note, all.map(({ group, because }) => inGroup(group, because)).join("; "));
    const keyOf = (finding) => `${finding.group ?? ""} ${finding.kind} ${finding.slot ?? ""}`;
    keep(
      this.findings,
      findings,
      keyOf,
      (finding) => this.make(keyOf(finding)),
      (node, finding) => this.update(keyOf(finding), finding),
    );
    const effect = say(all);
    this.effect.hidden = effect === "";
    setText(this.effect, effect);
    const advised = all.filter(({ moves = [] }) => moves.length > 0);
    const moves = advised.flatMap((advice) => advice.moves);
    this.moves.hidden = moves.length === 0;
    if (moves.length === 0) return;
    setText(this.outlook, `${advised.map(outlook).join("; ")}:`);
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
    setText(because, `${capital(inGroup(finding.group, finding.because))}.`);
    line.hidden = !action;
    needs.hidden = !action;
    if (action) {
      copies(
        line,
        action.command,
        finding.slot === null ? "the command to rebalance" : "the command to move the slot",
      );
      setText(needs, needed(action, finding));
    }
    reason.hidden = !none;
    setText(reason, none ? `${capital(none.reason)}.` : "");
    keep(
      helps,
      none?.helps ?? [],
      String,
      () => element("li"),
      (node, help) => setText(node, `${capital(help)}.`),
    );
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

/** Names the table group of a sentence, unless there is only one group. */
const inGroup = (group, sentence) => (group === undefined ? sentence : `group ${group}: ${sentence}`);

/** The skew of the shards before and after the moves of an advice. */
function outlook({ group, skew, skew_after: after }) {
  return capital(inGroup(group, `skew now ${ratio(skew)}, after these moves ${ratio(after)}`));
}

/** Returns the effect of a command, and what it requires. */
function needed(action, finding) {
  const effect = `Skew after it: ${ratio(finding.skew_after)}.`;
  if (action.allowed) return effect;
  const need = action.requires.startsWith("--")
    ? `a router started with ${action.requires}`
    : `the scope ${action.requires}`;
  return `${effect} This needs ${need}.`;
}

/** The effect of the latest rebalance and of the moves of the last minutes. */
function say(all) {
  const told = [];
  const rebalance = all[0].effect?.rebalance;
  if (rebalance) {
    const measured =
      rebalance.skew_measured === null ? "not measured" : `${ratio(rebalance.skew_measured)} measured`;
    const goal = GOALS[rebalance.by] ?? rebalance.by;
    told.push(
      `Latest rebalance (${goal}, ${rebalance.state}): skew ${ratio(rebalance.skew_before)} before, ` +
        `${ratio(rebalance.skew_planned)} planned, ${measured}.`,
    );
  }
  for (const { group, effect } of all) {
    const moved = effect?.moved;
    if (!moved) continue;
    const slots = `${count(moved.slots)} ${moved.slots === 1 ? "slot" : "slots"}`;
    const without = `without these moves the same requests would have a skew of ${ratio(moved.skew_before)}`;
    const sentence = `${slots} moved in the last minutes: ${without}, and now they have ${ratio(moved.skew_now)}`;
    told.push(`${capital(inGroup(group, sentence))}.`);
  }
  return told.join(" ");
}

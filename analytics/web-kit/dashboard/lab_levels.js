// Levels: lets the router run the experiment about levels on a small cluster, and shows the results.

import { byId, setText } from "./element.js";
import { Table } from "./table.js";
import { count, time } from "./units.js";

export class Levels {
  /** `hasSession()` is true if requests come with a session, which permits no run. */
  constructor(hasSession) {
    this.hasSession = hasSession;
    this.form = byId("levels-form");
    this.button = byId("levels-run");
    this.problem = byId("levels-problem");
    this.outcome = byId("levels-outcome");
    this.table = levelTable();
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    this.showKey();
  }

  /** Shows the field for a key as long as there is a session. */
  showKey() {
    byId("levels-key-label").hidden = !this.hasSession();
  }

  async run() {
    const { replicas, operations, clients, key } = this.form.elements;
    const body = JSON.stringify({
      replicas: Number(replicas.value),
      operations: Number(operations.value),
      clients: Number(clients.value),
    });
    const headers = { "content-type": "application/json" };
    if (this.hasSession() && key.value !== "") headers.authorization = `Bearer ${key.value.trim()}`;
    this.button.disabled = true;
    setText(this.problem, "");
    setText(this.outcome, "The experiment is running.");
    try {
      const answer = await fetch("api/lab/levels", { method: "POST", headers, body });
      const result = await answer.json();
      if (!answer.ok) throw new Error(explained(answer.status, result));
      key.value = "";
      this.show(result);
    } catch (error) {
      setText(this.outcome, "");
      setText(this.problem, error instanceof TypeError ? "The router does not answer." : error.message);
    } finally {
      this.button.disabled = false;
    }
  }

  show({ levels, seconds, explanation, engine, machine }) {
    const where = `It took ${seconds.toFixed(1)} s. ${engine}. ${machine}.`;
    setText(this.outcome, `${explanation.replaceAll("`", "")} ${where}`);
    this.table.show(levels);
  }
}

function explained(status, { detail, hint }) {
  if (status === 404) return "This router runs no experiments: start it with --lab, or use shard-manager lab levels.";
  return `${detail ?? `status ${status}`}${hint ? `: ${hint}` : ""}.`;
}

function levelTable() {
  const number = (name, field, format, wide = false) => ({
    name,
    value: (row) => row[field],
    text: (row) => format(row[field]),
    numeric: true,
    wide,
  });
  return new Table(byId("levels-table"), {
    label: "Levels while replicas of each shard are cut off",
    empty: "",
    key: (row) => `${row.replicas_gone} ${row.level}`,
    columns: [
      { name: "Level", text: (row) => row.level, value: (row) => row.level },
      number("Replicas gone", "replicas_gone", count),
      number("Writes", "writes", count),
      number("Refused", "writes_refused", count),
      number("p50", "write_p50_ms", time, true),
      number("p99", "write_p99_ms", time),
      number("Reads", "reads", count),
      number("Refused", "reads_refused", count),
      number("p50", "read_p50_ms", time, true),
      number("p99", "read_p99_ms", time),
      { name: "First refusal", text: (row) => row.first_refusal ?? "", wide: true, class: "prose" },
    ],
  });
}

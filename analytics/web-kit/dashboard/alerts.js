// Alerts: the firing rules of a service. A router has no rules and gets no request.

import { byId, element, keep, setAttribute, setText } from "./element.js";
import { duration, isNumber, ratio, share, time } from "./units.js";

const EVERY_MS = 2000;

export class Alerts {
  constructor() {
    this.asked = 0;
  }

  async show(m) {
    if (!m.routers || performance.now() - this.asked < EVERY_MS) return;
    this.asked = performance.now();
    try {
      const answer = await fetch("api/analytics/alerts");
      if (answer.ok) this.list((await answer.json()).alerts ?? []);
    } catch {
      // The state of the connection shows this already.
    }
  }

  list(alerts) {
    byId("alerts").hidden = alerts.length === 0;
    keep(
      byId("alerts-list"),
      alerts,
      (alert) => [alert.rule, alert.router, alert.shard].join("\n"),
      () => element("li", {}, element("b"), element("span"), element("span", { class: "quiet-text" })),
      (node, alert) => {
        const since = (Date.now() - Date.parse(alert.since)) / 1000;
        const where = [alert.shard, alert.router].filter(Boolean).join(" on ");
        setAttribute(node, "data-state", alert.state);
        setText(node.children[0], alert.rule);
        setText(node.children[1], [where, measure(alert)].filter(Boolean).join(": "));
        setText(node.children[2], `${alert.state === "firing" ? "for" : "pending for"} ${duration(since)}`);
      },
    );
  }
}

/** The measured value and the limit of the rule. */
function measure({ value, raise, unit }) {
  const write = { ms: time, share, ratio }[unit];
  return write && isNumber(value)
    ? `${write(value)}, the limit is ${write(raise)}`
    : unit === "down"
      ? "down"
      : "";
}

// Cache: its hit rate, and the responses that it took or refused. A missing cache is stated and no fault; a cache that
// does not answer is one.

import { element, setText } from "./element.js";
import { Parts } from "./parts.js";
import { count, share } from "./units.js";

const BREAKER = {
  closed: "",
  half_open: " It did not answer, and is being tried again.",
  open: " It does not answer, and is left out for now.",
};

export class Cache {
  constructor(place) {
    this.note = element("p", { class: "calm" });
    this.parts = new Parts();
    this.kept = element("p", { class: "calm" });
    place.append(this.note, this.parts.node, this.kept);
  }

  show(m) {
    const { cache } = m;
    this.kept.hidden = !cache?.enabled;
    if (!cache?.enabled) {
      setText(this.note, "Off: every read goes to a shard.");
      this.parts.show([], count);
      return;
    }
    setText(
      this.note,
      `${share(cache.hit_rate)} of its lookups were hits.${BREAKER[cache.breaker] ?? ""}`,
    );
    this.parts.show(
      [
        ["hits", cache.hits, "var(--part-1)"],
        ["misses", cache.misses, "var(--part-2)"],
        ["stale", cache.stale, "var(--part-3)"],
        ["bypassed", cache.bypass, "var(--line-strong)"],
      ],
      count,
    );
    const near = cache.near_hits > 0 ? `${count(cache.near_hits)} hits from the router's own memory · ` : "";
    const seldom = cache.seldom > 0 ? `${count(cache.seldom)} misses asked too seldom to be kept · ` : "";
    setText(
      this.kept,
      `${near}${seldom}${count(cache.fills)} answers kept · ${count(cache.rejected)} rejected as too old · ` +
        `${count(cache.voids)} keys voided by writes · ${count(cache.errors)} errors · breaker ${words(cache.breaker)}`,
    );
  }
}

function words(breaker) {
  return (breaker || "closed").replace("_", "-");
}

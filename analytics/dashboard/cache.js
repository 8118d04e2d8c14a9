// Cache: how often it had what was asked for. Without one that is said, and nothing is wrong.

import { element, setText } from "./element.js";
import { Parts } from "./parts.js";
import { count, share } from "./units.js";

export class Cache {
  constructor(place) {
    this.note = element("p", { class: "calm" });
    this.parts = new Parts();
    place.append(this.note, this.parts.node);
  }

  show(m) {
    const { cache } = m;
    if (!cache?.enabled) {
      setText(this.note, "Off: every read goes to a shard.");
      this.parts.show([], count);
      return;
    }
    setText(
      this.note,
      `${share(cache.hit_rate)} of the reads it was asked for were hits.${cache.breaker && cache.breaker !== "closed" ? " It does not answer, and is left out for now." : ""}`,
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
  }
}

// Judgement: the limits from which a figure deserves attention. The page shows them beside every figure.

/** `warn` and `bad`: from these values on; `says` why the line is there. */
export const LIMITS = {
  errors: { warn: 0.01, bad: 0.05, says: "normal below 1 %" },
  p99: { warn: 100, bad: 1000, says: "normal below 100 ms" },
  // A replica that is 10 s behind gets no more reads.
  lag: { warn: 1000, bad: 10_000, says: "normal below 1 s" },
  skew: { warn: 1.2, bad: 2, says: "normal below 1.2" },
};

/** Allowed deviation of a shard from its ideal share. */
export const BAND = 0.2;

const WORDS = { normal: "", warn: "look", bad: "high" };

/** `normal`, `warn` or `bad`. */
export function judge(value, limits) {
  if (!(value >= limits.warn)) return "normal";
  return value >= limits.bad ? "bad" : "warn";
}

/** True if the deviation of a count may be chance: few requests are uneven by themselves. */
export const isChance = (counted, expected) => Math.abs(counted - expected) < 3 * Math.sqrt(expected);

/** True if the skew of requests exceeds its limit, but there are too few requests to judge it. */
export function isTooFew({ shards, skew }) {
  const most = Math.max(0, ...shards.map((shard) => shard.reads + shard.writes));
  return skew.requests >= LIMITS.skew.warn && isChance(most, most / skew.requests);
}

export const word = (level) => WORDS[level];

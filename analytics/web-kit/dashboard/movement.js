// Movement: the moves and rebalances of a cluster, as a router lists them. They are requested apart from the figures,
// because figures come from every router, and lists from the catalog.

/** Interval while slots move, and otherwise. */
const BUSY_MS = 2000;
const CALM_MS = 10_000;
/** Interval after a refusal: it does not end by itself. */
const REFUSED_MS = 60_000;

export class Movement extends EventTarget {
  constructor() {
    super();
    this.next = 0;
    this.moves = [];
    this.rebalance = null;
    /** Address of the router that answered, for commands. */
    this.url = location.origin;
    /** Sentence, if there is nothing to show. */
    this.refusal = null;
  }

  /** Asks again if it is time; dispatches `change` when something was answered. */
  async follow() {
    if (performance.now() < this.next) return;
    this.next = performance.now() + BUSY_MS;
    try {
      const moves = await ask("api/moves");
      const rebalances = moves.problem ? moves : await ask("api/rebalance");
      const latest = rebalances.rebalances?.[0] ?? null;
      const shown = latest && (await ask(`api/rebalance/${latest.id}`));
      this.refusal = rebalances.problem ?? null;
      this.moves = moves.moves ?? [];
      this.url = moves.url ?? location.origin;
      this.rebalance = shown?.problem ? latest : shown;
      this.next = performance.now() + this.wait();
      this.dispatchEvent(new Event("change"));
    } catch {
      // The state of the connection shows this already.
    }
  }

  wait() {
    if (this.refusal !== null) return REFUSED_MS;
    const isBusy = this.moves.some((move) => move.ended_at === null) || this.rebalance?.ended_at === null;
    return isBusy ? BUSY_MS : CALM_MS;
  }

  /** Asks at once, for other answers than before are possible. */
  hurry() {
    this.next = 0;
  }
}

/** Returns a body, or the problem as a sentence. */
async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  return answer.ok ? body : { problem: refusalOf(answer.status, body) };
}

function refusalOf(status, body) {
  const detail = body.detail ?? `status ${status}`;
  if (status === 404) return "This router knows no moves.";
  if (status === 403) return "Moves and rebalances are shown to callers with the scope operate.";
  return `Moves and rebalances are not shown: ${detail}.`;
}

/** Returns true if slots are on their way, and are not only kept where they were. */
export function isMoving(move) {
  if (move.ended_at !== null) return false;
  return move.goal === "back" || !["keeping", "cleaning"].includes(move.phase);
}

/** The first and last slots of ranges such as `0-63,70`. */
export function rangesOf(slots) {
  return slots
    .split(",")
    .map((range) => range.split("-").map(Number))
    .map(([first, last]) => [first, last ?? first]);
}

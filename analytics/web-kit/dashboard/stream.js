// Stream: receives the figures, once a second.
//
// Figures come by server-sent events; if these fail, by one request a second, while events are tried again from time to
// time. There are no requests while the page is hidden or paused. The state shows how figures come, or since when not.

const POLL_MS = 1000;
/** A stream without events for this long counts as broken, even if the connection is open. */
const SILENCE_MS = 6000;
const RETRY_FIRST_MS = 2000;
const RETRY_MAX_MS = 15_000;
const ANSWER_MAX_MS = 8000;

/** A response without figures: a problem with its reason. */
class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title);
    this.status = status;
  }
}

export class Stream extends EventTarget {
  /**
   * `state`: connecting, live, polling, lost, locked (a login is needed) or resting. `lastSeen`: time of the last figures,
   * ms since 1970. `reason`: why there are none, if a response said so.
   */
  constructor() {
    super();
    this.state = "resting";
    this.lastSeen = null;
    this.reason = null;
    this.query = null;
    this.source = null;
    this.timers = new Set();
    this.polling = null;
  }

  /** Follows the figures of a query from now on. */
  follow(query) {
    this.rest();
    this.query = query;
    this.retryMs = RETRY_FIRST_MS;
    this.enter("connecting");
    this.listen();
  }

  /** Sends no requests until it follows again. */
  rest(state = "resting") {
    this.silence();
    this.timers.forEach(clearTimeout);
    this.timers.clear();
    this.polling = null;
    this.abort?.abort();
    this.enter(state);
  }

  enter(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  after(ms, what) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      what();
    }, ms);
    this.timers.add(timer);
    return timer;
  }

  silence() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.watch);
    this.timers.delete(this.watch);
  }

  listen() {
    this.silence();
    const source = new EventSource(`api/analytics/stream?${this.query}`);
    this.source = source;
    source.addEventListener("metrics", (event) => {
      if (this.source !== source) return;
      this.polling = null;
      this.retryMs = RETRY_FIRST_MS;
      this.listenFor();
      this.take(event.data, "live");
    });
    source.addEventListener("error", () => {
      if (this.source === source) this.fall();
    });
    this.listenFor();
  }

  listenFor() {
    clearTimeout(this.watch);
    this.timers.delete(this.watch);
    this.watch = this.after(SILENCE_MS, () => this.fall());
  }

  /** Sends requests after events have failed, and tries events again later. */
  fall() {
    this.silence();
    if (this.polling === null) this.poll((this.polling = {}));
    this.retry = this.after(this.retryMs, () => this.listen());
    this.retryMs = Math.min(this.retryMs * 2, RETRY_MAX_MS);
  }

  /** Sends one request a second, as long as this polling is the current one. */
  async poll(polling) {
    const began = performance.now();
    const wasLost = this.state === "lost";
    try {
      const text = await this.ask();
      if (this.polling !== polling) return;
      this.take(text, "polling");
      if (wasLost && this.source === null) {
        // The server is back, so events probably work again.
        clearTimeout(this.retry);
        this.timers.delete(this.retry);
        this.retryMs = RETRY_FIRST_MS;
        this.listen();
      }
    } catch (error) {
      if (this.polling !== polling) return;
      if (error.status === 401) {
        this.rest("locked");
        return;
      }
      this.reason = error instanceof Refused ? error.message : null;
      this.enter("lost");
    }
    const rest = Math.max(0, POLL_MS - (performance.now() - began));
    this.after(rest, () => this.polling === polling && this.poll(polling));
  }

  async ask() {
    this.abort = new AbortController();
    const timer = this.after(ANSWER_MAX_MS, () => this.abort.abort());
    try {
      const answer = await fetch(`api/analytics/metrics?${this.query}`, { signal: this.abort.signal });
      if (!answer.ok) throw new Refused(answer.status, await answer.json());
      return await answer.text();
    } finally {
      clearTimeout(timer);
      this.timers.delete(timer);
    }
  }

  take(text, state) {
    const answer = JSON.parse(text);
    if (answer.success !== true) throw new Error("no figures");
    this.lastSeen = Date.now();
    this.enter(state);
    this.dispatchEvent(new CustomEvent("figures", { detail: answer.metrics }));
  }
}

// View: the choices of the reader. They are part of the address after `#`, so that a view can be kept and sent to others,
// and no server sees them.

export const WINDOWS = {
  "1m": "1 min",
  "5m": "5 min",
  "15m": "15 min",
  "1h": "1 hour",
  "6h": "6 hours",
  "24h": "24 hours",
  "7d": "7 days",
};

export class View extends EventTarget {
  constructor() {
    super();
    this.read();
    window.addEventListener("hashchange", () => {
      this.read();
      this.tell();
    });
  }

  read() {
    const said = new URLSearchParams(location.hash.slice(1));
    this.window = said.get("window") in WINDOWS ? said.get("window") : "5m";
    this.shard = said.get("shard") || null;
    this.router = said.get("router") || null;
    for (const name of ["key", "table", "partition"]) this[name] = said.get(name) || null;
  }

  /** Changes some choices; `null` takes one back. */
  choose(changes) {
    Object.assign(this, changes);
    const said = new URLSearchParams();
    if (this.window !== "5m") said.set("window", this.window);
    for (const name of ["shard", "router", "key", "table", "partition"])
      if (this[name] !== null) said.set(name, this[name]);
    const hash = said.toString();
    history.replaceState(null, "", hash === "" ? location.pathname + location.search : `#${hash}`);
    this.tell();
  }

  tell() {
    this.dispatchEvent(new Event("change"));
  }

  /** The query string of a request for figures; `shard` only for those of one shard. */
  query(shard = null) {
    const query = new URLSearchParams({ window: this.window });
    if (this.router !== null) query.set("router", this.router);
    if (shard !== null) query.set("shard", shard);
    return query.toString();
  }
}

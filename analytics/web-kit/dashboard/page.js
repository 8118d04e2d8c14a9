// The page: brings the stream of figures to all that is drawn from it.
//
// Every number on the page comes from the figures of one moment; when they stop coming, the page says so and since when.

import { Advice } from "./advice.js";
import { Alerts } from "./alerts.js";
import { Cache } from "./cache.js";
import { Cards, stateOf } from "./cards.js";
import { byId, element, setText } from "./element.js";
import { Errors } from "./errors.js";
import { Keys } from "./keys.js";
import { KeyBox } from "./key_box.js";
import { Login } from "./login.js";
import { Movement } from "./movement.js";
import { Moves } from "./moves.js";
import { facts, Numbers } from "./numbers.js";
import { Rebalance } from "./rebalance.js";
import { Replicas } from "./replicas.js";
import { Slots } from "./slots.js";
import { Spread } from "./spread.js";
import { Stream } from "./stream.js";
import { Traffic } from "./traffic.js";
import { clock, duration, rate } from "./units.js";
import { View } from "./view.js";

class Page {
  constructor() {
    this.view = new View();
    this.login = new Login();
    this.numbers = new Numbers(byId("numbers"));
    this.alerts = new Alerts();
    this.movement = new Movement();
    this.slots = new Slots(this.view, this.movement);
    this.keyBox = new KeyBox(this.view, this.slots);
    this.cards = new Cards(this.view);
    this.traffic = new Traffic(this.view);
    this.sections = [
      new Spread(byId("spread"), this.view),
      new Keys(byId("keys"), this.view),
      new Replicas(byId("replicas"), this.view),
      new Advice(byId("advice")),
      new Moves(byId("moves"), this.movement),
      new Rebalance(byId("rebalance"), this.movement),
      new Cache(byId("cache")),
      new Errors(byId("errors"), this.view),
    ];
    this.isPaused = false;
    this.all = null; // The last figures of all shards,
    this.one = null; // and of the one that is chosen.
    this.states = new Map();
    this.stream = new Stream();
    this.stream.addEventListener("figures", (event) => this.take(event.detail));
    this.stream.addEventListener("state", () => this.showConnection());
    this.detail = new Stream();
    this.detail.addEventListener("figures", (event) => {
      this.one = event.detail;
      this.draw();
    });
    this.listen();
    this.follow();
    this.keyBox.follow();
  }

  listen() {
    for (const input of byId("window").querySelectorAll("input")) {
      input.addEventListener("change", () => this.view.choose({ window: input.value }));
    }
    byId("router-choice").addEventListener("change", (event) =>
      this.view.choose({ router: event.target.value || null }),
    );
    byId("pause").addEventListener("click", () => this.pause(!this.isPaused));
    this.view.addEventListener("change", () => this.follow());
    this.login.addEventListener("change", () => {
      this.wanted = this.wantedDetail = undefined;
      this.movement.hurry();
      this.follow();
    });
    document.addEventListener("visibilitychange", () => this.follow());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.view.shard !== null) this.view.choose({ shard: null });
    });
    // Ages grow even if no figures arrive.
    setInterval(() => document.hidden || this.showConnection(), 1000);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    byId("pause").setAttribute("aria-pressed", String(isPaused));
    setText(byId("pause"), isPaused ? "Resume" : "Pause");
    this.follow();
  }

  /** Follows the query of the view, or pauses while the page is hidden. */
  follow() {
    const { view } = this;
    for (const input of byId("window").querySelectorAll("input")) input.checked = input.value === view.window;
    const rests = this.isPaused || document.hidden;
    const wanted = rests ? null : view.query();
    if (this.wanted !== wanted) {
      this.wanted = wanted;
      if (wanted === null) this.stream.rest();
      else this.stream.follow(wanted);
    }
    const detail = rests || view.shard === null ? null : view.query(view.shard);
    if (this.wantedDetail !== detail) {
      this.wantedDetail = detail;
      if (!rests) this.one = null;
      if (detail === null) this.detail.rest();
      else this.detail.follow(detail);
    }
    this.showConnection();
    this.draw();
  }

  take(figures) {
    this.all = figures;
    this.announceStates();
    this.draw();
    this.showConnection();
    this.alerts.show(figures);
  }

  draw() {
    const { all, view } = this;
    if (all === null) return;
    const isOne = view.shard !== null && all.shards.some((shard) => shard.shard === view.shard);
    const m = isOne ? (this.one ?? partOf(all, view.shard)) : all;
    const meant = isOne ? all.shards.filter((shard) => shard.shard === view.shard) : all.shards;
    this.showHeader();
    this.slots.show(all);
    this.keyBox.show(all);
    this.cards.show(all);
    this.numbers.show(m, meant);
    this.traffic.show(m, all);
    for (const section of this.sections) section.show(all);
  }

  showHeader() {
    const { all } = this;
    const told = facts(all);
    const list = byId("facts");
    while (list.children.length > told.length) list.lastChild.remove();
    while (list.children.length < told.length) list.append(element("li"));
    told.forEach((text, place) => setText(list.children[place], text));
    byId("router").hidden = !all.routers;
    byId("foot-router").hidden = Boolean(all.routers);
    if (all.routers) this.showRouters(all.routers);
    const measured = Math.round(all.measured_s);
    setText(byId("foot-note"), `Figures of ${clock(Date.parse(all.at))} over ${duration(measured)}.`);
    byId("foot-note").dataset.at = all.at;
  }

  showRouters(routers) {
    const select = byId("router-choice");
    const known = JSON.stringify(routers.map(({ router, state }) => [router, state]));
    if (select.dataset.known !== known) {
      select.dataset.known = known;
      const words = { up: "", down: " (lost)", unauthorized: " (unauthorized)" };
      const options = routers.map(({ router, state }) =>
        element("option", { value: router, text: `${router}${words[state]}` }),
      );
      select.replaceChildren(element("option", { value: "", text: `all ${routers.length}` }), ...options);
    }
    select.value = this.view.router ?? "";
  }

  showConnection() {
    const { stream } = this;
    const seen = stream.lastSeen === null ? "" : ` · last seen ${clock(stream.lastSeen)}`;
    const state = this.isPaused ? "paused" : stream.state;
    const words = {
      paused: `paused${this.all === null ? "" : ` at ${clock(Date.parse(this.all.at))}`}`,
      resting: "resting",
      connecting: "connecting",
      live: "live",
      polling: "polling",
      lost: `lost${seen}`,
      locked: "not logged in",
    };
    const place = byId("connection");
    if (place.dataset.state !== state) {
      if (state === "lost") this.announce(`Connection lost${seen}.`);
      if (place.dataset.state === "lost" && state !== "paused") this.announce("Connected again.");
      place.dataset.state = state;
      document.documentElement.dataset.connection = state;
    }
    setText(byId("connection-text"), words[state]);
    this.login.need(state === "locked");
    const notice = byId("notice");
    const refusing = this.all?.routers?.find((router) => router.state === "unauthorized");
    notice.hidden = state !== "lost" && refusing === undefined;
    if (state !== "lost" && refusing !== undefined) {
      setText(notice, `There are no figures of ${refusing.router}: ${refusing.error}.`);
    }
    if (state === "lost") {
      const old = (Date.now() - stream.lastSeen) / 1000;
      const ago = stream.lastSeen === null ? "" : ` What you see is ${duration(old)} old.`;
      const why =
        stream.reason === null ? "The connection is lost." : `There are no figures: ${stream.reason}.`;
      setText(notice, `${why}${ago} Trying again every second.`);
    }
    const isTold = this.all === null || state === "lost" || state === "locked";
    const number = isTold ? words[state].split(" · ")[0] : `${rate(this.all.throughput)}/s`;
    document.title = `${number} · Tessera`;
  }

  /** Announces to screen readers that a shard goes down or comes back. */
  announceStates() {
    const changed = [];
    for (const shard of this.all.shards) {
      const state = stateOf(shard);
      const before = this.states.get(shard.shard);
      if (before !== undefined && before !== state)
        changed.push(`${shard.shard} ${{ up: "is up", partly: "has a node down", down: "is down", gone: "has no nodes" }[state]}`);
      this.states.set(shard.shard, state);
    }
    if (changed.length > 0) this.announce(`${changed.slice(0, 5).join(", ")}.`);
  }

  announce(text) {
    setText(byId("announcement"), text);
  }
}

/** The figures of one shard among those of all: shown until its own arrive, and while the page is paused. */
function partOf(all, name) {
  const shard = all.shards.find((shard) => shard.shard === name);
  const total = shard.reads + shard.writes;
  const series = all.series.shards?.[name] ?? {};
  return {
    ...all,
    total,
    errors: shard.errors,
    error_rate: total > 0 ? shard.errors / total : 0,
    throughput: shard.ops_per_s,
    avgLatency: null,
    latency_ms: { p50: shard.p50, p99: shard.p99, max: null },
    latency_parts_ms: {},
    in_flight: null,
    skew: {},
    routes: [],
    series: {
      ...all.series,
      rps: series.rps,
      reads: [],
      writes: [],
      p50: series.p50,
      p99: series.p99,
      heatmap: undefined,
    },
  };
}

new Page();

// The lab: keys as they are written, a strategy on paper, and the experiment about levels.
//
// The page shows responses of this origin, and keeps nothing. It stores no row: demo keys are used in computations
// only.

import { byId, setText } from "./element.js";
import { Flow } from "./lab_flow.js";
import { Levels } from "./lab_levels.js";
import { Strategy } from "./lab_strategy.js";
import { Login } from "./login.js";

const POLL_MS = 1000;

class Lab {
  constructor() {
    this.login = new Login();
    this.strategy = new Strategy();
    this.flow = new Flow(this.strategy);
    this.levels = new Levels(() => !byId("logout").hidden);
    this.round = 0;
    this.login.addEventListener("change", () => this.begin());
    document.addEventListener("visibilitychange", () => this.begin());
    this.begin();
  }

  /** Asks once a second from now on, as long as the page is seen. */
  begin() {
    this.round += 1;
    if (document.hidden) this.tell("resting", "resting");
    else this.poll(this.round);
  }

  async poll(round) {
    const state = await this.flow.ask();
    if (round !== this.round) return;
    this.show(state);
    if (state.status === 401) return; // The login begins another round.
    setTimeout(() => round === this.round && this.poll(round), POLL_MS);
  }

  show({ status, problem }) {
    const notice = byId("notice");
    this.login.need(status === 401);
    this.levels.showKey();
    const isRefused = status === 403;
    notice.hidden = status !== 0 && !isRefused;
    if (status === 401) return this.tell("locked", "not logged in");
    if (status === 0) {
      setText(notice, "The router does not answer. Retrying every second.");
      return this.tell("lost", "lost");
    }
    if (isRefused) setText(notice, `There is nothing to show: ${problem}.`);
    this.tell("live", status === 200 ? "live" : "nothing recorded");
    if (!isRefused) this.strategy.computeOnce();
  }

  tell(state, words) {
    byId("connection").dataset.state = state;
    document.documentElement.dataset.connection = state;
    setText(byId("connection-text"), words);
  }
}

new Lab();

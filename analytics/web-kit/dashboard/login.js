// Login: asks for an API key when the server wants one, and ends the session again.
//
// The key is exchanged for a cookie that no script can read, and is kept nowhere. The storage of the page has only the
// time at which the session ends, so that the page offers to log out.

import { byId, setText } from "./element.js";

const ENDS_AT = "tessera-session";

export class Login extends EventTarget {
  /** Dispatches `change` when requests may have another answer than before. */
  constructor() {
    super();
    this.place = byId("login");
    this.key = byId("login-key");
    this.problem = byId("login-problem");
    this.button = byId("login-button");
    byId("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    byId("logout").addEventListener("click", () => this.end());
    // Another page of this origin has begun or ended the session.
    window.addEventListener("storage", (event) => {
      if (event.key !== ENDS_AT) return;
      this.showEnd();
      this.dispatchEvent(new Event("change"));
    });
    this.showEnd();
  }

  /** Shows the form as long as a session is needed. */
  need(isNeeded) {
    if (this.place.hidden !== isNeeded) return;
    this.place.hidden = !isNeeded;
    if (isNeeded) {
      remember(null);
      this.key.focus();
    }
    this.showEnd();
  }

  showEnd() {
    byId("logout").hidden = !this.place.hidden || !isRemembered();
  }

  async begin() {
    setText(this.problem, "");
    this.button.disabled = true;
    try {
      const body = JSON.stringify({ key: this.key.value.trim() });
      const headers = { "content-type": "application/json" };
      const answer = await fetch("api/session", { method: "POST", headers, body });
      const session = await answer.json();
      if (!answer.ok) throw new Error(session.detail ?? `status ${answer.status}`);
      this.key.value = "";
      remember(session.expires_at);
      this.dispatchEvent(new Event("change"));
    } catch (error) {
      const why = error instanceof TypeError ? "there is no answer" : error.message;
      setText(this.problem, `You are not logged in: ${why}.`);
      this.key.focus();
      this.key.select();
    } finally {
      this.button.disabled = false;
    }
  }

  async end() {
    try {
      const answer = await fetch("api/session", { method: "DELETE" });
      if (!answer.ok) return;
    } catch {
      // The cookie is still there, and so is the button.
      return;
    }
    remember(null);
    // No figure remains in the page.
    location.reload();
  }
}

function isRemembered() {
  try {
    return Date.parse(localStorage.getItem(ENDS_AT)) > Date.now();
  } catch {
    return false;
  }
}

function remember(endsAt) {
  try {
    if (endsAt === null) localStorage.removeItem(ENDS_AT);
    else localStorage.setItem(ENDS_AT, endsAt);
  } catch {
    // Without storage the page does not offer to log out; the session ends within an hour.
  }
}

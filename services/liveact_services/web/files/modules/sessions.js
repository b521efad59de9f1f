// The tenant's sessions, and a button to end each.

import { at, make } from "./page.js";

const EVERY_MS = 5000;
const ENDED = new Set(["CLOSED", "EXPIRED", "FAILED"]);

export class Sessions {
  /** @param {import("./calls.js").Calls} calls @param {(error: Error) => void} trouble */
  constructor(calls, trouble) {
    this.calls = calls;
    this.trouble = trouble;
    const card = at("sessions-card");
    card.addEventListener("toggle", () => this.refresh());
    setInterval(() => card.open && !document.hidden && this.refresh(), EVERY_MS);
  }

  async refresh() {
    if (!at("sessions-card").open) return;
    try {
      this.#show(await this.calls.sessions());
    } catch (error) {
      this.trouble(error);
    }
  }

  #show(sessions) {
    const rows = sessions.map((session) => this.#row(session));
    const none = make("tr", {}, make("td", { colspan: 4, class: "quiet" }, "None yet."));
    at("sessions").replaceChildren(...(rows.length > 0 ? rows : [none]));
  }

  #row({ name, state, frames = 0, fps }) {
    const word = state.replace("SESSION_STATE_", "");
    const id = name.replace("sessions/", "");
    const end = make("td");
    if (!ENDED.has(word)) {
      const button = make("button", { type: "button", "aria-label": `End session ${id}` }, "End");
      button.onclick = () => this.calls.endSession(name).then(() => this.refresh(), this.trouble);
      end.append(button);
    }
    const seconds = Number(frames) / fps;
    return make(
      "tr", {},
      make("td", {}, make("span", { class: "code", title: name }, id.slice(0, 10))),
      make("td", {}, word.toLowerCase()),
      make("td", {}, `${seconds.toFixed(0)} s`),
      end,
    );
  }
}

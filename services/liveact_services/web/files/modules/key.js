// The API key or token: asked for when the service wants one, kept for as long as the tab is open.

import { at } from "./page.js";

const PLACE = "liveact-key";

export class Key {
  constructor() {
    this.value = sessionStorage.getItem(PLACE) ?? "";
    at("key-open").onclick = () => void this.ask();
    at("key-cancel").onclick = () => at("key-dialog").close("");
  }

  /** Ask for it; gives whether there is another one now. @param {string} why what the service said. */
  ask(why = "") {
    const dialog = at("key-dialog");
    at("key-open").hidden = false;
    at("key-trouble").textContent = why;
    at("key").value = "";
    if (!dialog.open) dialog.showModal();
    return new Promise((resolve) => {
      dialog.onclose = () => resolve(false);
      at("key-form").onsubmit = () => {
        this.value = at("key").value.trim();
        sessionStorage.setItem(PLACE, this.value);
        resolve(true);
      };
    });
  }
}

// Emotion and action: chips, or the user's own words. Either way a prompt.

import { at, make } from "./page.js";

const EMOTIONS = { Calm: "", Happy: "happily", Sad: "sadly", Angry: "angrily", Surprised: "in surprise" };
const ACTIONS = { "No action": "", Nod: "nods", "Shake head": "shakes the head", "Look aside": "looks aside", Wave: "waves" };

export class Acting {
  /** @param {(prompt: string) => void} wanted is called with every new prompt. */
  constructor(wanted) {
    this.wanted = wanted;
    chips("emotions", "emotion", Object.keys(EMOTIONS), () => this.#chosen());
    chips("actions", "action", Object.keys(ACTIONS), () => this.#chosen());
    at("prompt-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#want(at("prompt").value.trim());
    });
    this.prompt = "";
  }

  #chosen() {
    const how = EMOTIONS[picked("emotion")];
    const does = ACTIONS[picked("action")];
    const words = ["A person speaks", how, does && `and ${does}`].filter(Boolean).join(" ");
    this.#want(how || does ? `${words}.` : "");
    at("prompt").value = "";
  }

  #want(prompt) {
    this.prompt = prompt;
    this.wanted(prompt);
  }
}

const picked = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

function chips(id, name, values, changed) {
  values.forEach((value, i) => {
    const radio = make("input", { type: "radio", name, value });
    radio.checked = i === 0;
    radio.onchange = changed;
    at(id).append(make("label", {}, radio, value));
  });
}

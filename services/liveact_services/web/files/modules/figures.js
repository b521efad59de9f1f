// What a viewer would want to know, measured at the page.

import { at, make } from "./page.js";

const SECOND_MS = 1000;
const RECENT = 200; // frames

export class Figures {
  constructor() {
    this.clear();
  }

  clear() {
    this.configAt = this.voiceAt = this.firstFrame = this.utterance = null;
    this.paints = [];
    this.lates = [];
    this.stalls = 0;
    this.stalledS = 0;
    this.interrupt = null;
    this.show(null);
  }

  /** The first voice of the session goes out now. */
  spoke(utterance) {
    if (this.voiceAt !== null) return;
    this.voiceAt = performance.now();
    this.utterance = utterance;
  }

  painted({ frame, late }) {
    const now = performance.now();
    this.paints.push(now);
    this.lates.push(late);
    if (this.lates.length > RECENT) this.lates.shift();
    if (this.firstFrame === null && this.utterance && frame.utterance_id === this.utterance) this.firstFrame = now - this.voiceAt;
    if (this.interrupt && frame.utterance_id === this.interrupt.utterance) this.interrupt.pictureMs = now - this.interrupt.at;
  }

  stalled({ seconds, held }) {
    if (held) return;
    this.stalls += 1;
    this.stalledS += seconds;
  }

  /** The interrupt was pressed while this utterance was shown. */
  interrupted(utterance) {
    this.interrupt = { at: performance.now(), utterance, soundMs: null, pictureMs: null };
  }

  /** The old voice is heard no more. */
  silenced() {
    if (this.interrupt && this.interrupt.soundMs === null) this.interrupt.soundMs = performance.now() - this.interrupt.at;
  }

  /** Largest distance between sound and picture that all but a twentieth of the recent frames kept, in ms. */
  get skewMs() {
    if (this.lates.length === 0) return null;
    const sorted = this.lates.map(Math.abs).sort((a, b) => a - b);
    return 1000 * sorted[Math.floor(0.95 * (sorted.length - 1))];
  }

  /** @param {number | null} buffered seconds; null: no session. */
  show(buffered) {
    const now = performance.now();
    this.paints = this.paints.filter((moment) => now - moment < SECOND_MS);
    const live = buffered !== null;
    put("f-first", this.firstFrame, (ms) => [(ms / 1000).toFixed(2), "s"]);
    put("f-fps", live && this.lates.length ? this.paints.length : null, (n) => [n, "fps"]);
    put("f-stalls", live ? this.stalls : null, (n) => [n, this.stalledS ? `${this.stalledS.toFixed(2)} s` : ""], this.stalls > 0);
    put("f-skew", live ? this.skewMs : null, (ms) => [Math.round(ms), "ms"], this.skewMs > 60);
    put("f-buffer", buffered, (s) => [s.toFixed(1), "s"]);
    put("f-interrupt", this.interrupt?.soundMs ?? null, (ms) => [Math.round(ms), "ms"]);
  }
}

function put(id, value, words, off = false) {
  const place = at(id);
  place.classList.toggle("off", off && value !== null);
  if (value === null || value === undefined) return place.replaceChildren("–");
  const [number, unit] = words(value);
  place.replaceChildren(String(number), make("small", {}, unit));
}

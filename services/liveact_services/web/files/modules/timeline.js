// The blocks of the session as they come: what was said in them, and what making them took of the time they had.

import { make } from "./page.js";

const SHOWN = 12;
const STAGES = ["audio", "denoise", "decode", "encode"];

export class Timeline {
  /** @param {HTMLElement} list */
  constructor(list) {
    this.list = list;
    this.clear();
  }

  clear() {
    this.blocks = new Map();
    this.list.replaceChildren();
  }

  /** @param {{block: number, frames: Object[], times: Object}} chunk @param {number} fps */
  add({ block, frames, times }, fps) {
    const entry = this.blocks.get(block) ?? this.#begin(block);
    for (const stage of STAGES) entry.work[stage] += (times?.[`${stage}_us`] ?? 0) / 1e6;
    entry.frames += frames.length;
    entry.spoken ||= frames.some((frame) => frame.utterance_id !== "");
    entry.last = frames.at(-1).index;
    this.#draw(block, entry, entry.frames / fps);
  }

  /** That frame is on the screen. */
  playing(index) {
    for (const entry of this.blocks.values()) {
      entry.item.toggleAttribute("data-now", index >= entry.first && index <= entry.last);
      if (entry.first === null) entry.first = entry.last;
    }
  }

  #begin(block) {
    const item = make("li");
    const entry = { item, work: Object.fromEntries(STAGES.map((stage) => [stage, 0])), frames: 0, spoken: false, first: null };
    this.blocks.set(block, entry);
    this.list.append(item);
    if (this.blocks.size > SHOWN) {
      const [oldest, { item: gone }] = this.blocks.entries().next().value;
      gone.remove();
      this.blocks.delete(oldest);
    }
    return entry;
  }

  #draw(block, entry, seconds) {
    entry.first = entry.last - entry.frames + 1;
    const took = STAGES.reduce((sum, stage) => sum + entry.work[stage], 0);
    const bar = make("span", { class: "work", "aria-hidden": "true" });
    for (const stage of STAGES) {
      const share = make("i", { "data-stage": stage });
      share.style.width = `${Math.min(100, (100 * entry.work[stage]) / seconds)}%`;
      bar.append(share);
    }
    entry.item.toggleAttribute("data-spoken", entry.spoken);
    const parts = STAGES.map((stage) => `${stage} ${Math.round(1000 * entry.work[stage])} ms`).join(", ");
    entry.item.title = `Block ${block}, ${seconds.toFixed(2)} s of video: ${parts}`;
    entry.item.replaceChildren(
      make("b", {}, `${block}`),
      make("span", {}, `${took.toFixed(2)} s`, make("span", { class: "unseen" }, ` of work, ${entry.spoken ? "speech" : "silence"}`)),
      bar,
    );
  }
}

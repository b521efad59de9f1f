// What a test needs to measure for itself, with ?trace: when frames were painted, what was heard and when, and what came.

import { heardAt } from "./player.js";

const BIN_S = 0.01;

/** @param {Object} page the console; gives {page, paints, heard, came, events, presses}. */
export function trace(page) {
  const notes = { page, paints: [], heard: [], came: [], events: [], presses: [] };
  // When Interrupt was pressed: the context's time, and the performance clock's.
  document.getElementById("interrupt").addEventListener("click", () => {
    notes.presses.push([page.context.currentTime, performance.now()]);
  }, { capture: true });
  page.traced = (show) => follow(show, page, notes);
  return notes;
}

async function follow(show, page, notes) {
  for (const list of [notes.paints, notes.heard, notes.came, notes.events, notes.presses]) list.length = 0;
  show.player.addEventListener("paint", ({ detail: { frame } }) => {
    // In the context's time, by the hardware's own stamp and not by what the player believes.
    notes.paints.push([heardAt(page.context), frame.pts_us / 1e6, frame.utterance_id, performance.now()]);
  });
  show.stream.addEventListener("audio", ({ detail: { start, data } }) => notes.came.push(...levels(data, start)));
  show.stream.addEventListener("event", ({ detail }) => notes.events.push({ ...detail, at: performance.now() }));
  await page.context.audioWorklet.addModule("worklets/tap.js");
  const tap = new AudioWorkletNode(page.context, "tap", { numberOfOutputs: 0, processorOptions: { bin: BIN_S } });
  tap.port.onmessage = ({ data }) => notes.heard.push(data);
  page.voices.connect(tap);
  show.addEventListener("end", () => page.voices.disconnect(tap));
}

/** [media time, level] of every hundredth of a second. */
function levels(data, start, rate = 16000) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const bin = Math.round(BIN_S * rate);
  const found = [];
  for (let at = 0; at + bin <= data.byteLength / 2; at += bin) {
    let sum = 0;
    for (let i = at; i < at + bin; i += 1) sum += (view.getInt16(2 * i, true) / 32768) ** 2;
    found.push([(start + at) / rate, Math.sqrt(sum / bin)]);
  }
  return found;
}

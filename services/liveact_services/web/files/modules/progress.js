// What the page has of a session, so that what a resumed call sends once more is left out.

// Events that a block brings: a server that makes the block again tells them again, with the same words.
const CLOCKED = new Set(["SPEECH_STARTED", "SPEECH_ENDED", "PROMPT_APPLIED", "IDLE", "UNDERRUN"].map((name) => `EVENT_TYPE_${name}`));
const RECENT = 64;

export class Progress {
  constructor() {
    this.rate = 16000;
    this.frames = 0; // index of the next frame
    this.samples = null; // position after the last sound
    this.tail = []; // events since the last frame
    this.clocked = []; // the last events of blocks
    this.interrupted = 0; // requests up to the last interrupt that was answered
    this.repeats = []; // of all these, what the present call may tell again
  }

  /** From now on another call answers, from frame `frames` on. */
  resumed() {
    this.repeats = [...this.tail, ...new Set(this.clocked.filter((words) => !this.tail.includes(words)))];
  }

  /** What of a payload is new; null for nothing. */
  fresh(kind, payload) {
    if (kind === "video") return this.#video(payload);
    return kind === "audio" ? this.#sound(payload) : this.#event(payload);
  }

  #video(chunk) {
    const frames = chunk.frames.filter((frame) => frame.index >= this.frames);
    if (frames.length === 0) return null;
    this.frames = frames.at(-1).index + 1;
    this.tail = [];
    this.repeats = [];
    return { ...chunk, frames };
  }

  #sound(span) {
    const start = Math.round((span.pts_us * this.rate) / 1e6);
    const stop = start + span.data.length / 2;
    const known = this.samples;
    // A position that was rounded to microseconds may be a sample off; that is no overlap.
    if (known !== null && stop <= known + 1) return null;
    this.samples = stop;
    if (known === null || start >= known - 1) return { ...span, start };
    return { ...span, start: known, data: span.data.subarray(2 * (known - start)) };
  }

  #event(event) {
    const words = JSON.stringify(event);
    const at = this.repeats.indexOf(words);
    if (at >= 0) {
      this.repeats.splice(at, 1);
      return null;
    }
    // Who took the session over answers an interrupt once more, with other words.
    const told = event.type === "EVENT_TYPE_INTERRUPTED" ? event.interrupted?.next_request ?? 0 : 0;
    if (told > 0 && told <= this.interrupted) return null;
    this.interrupted = Math.max(this.interrupted, told);
    this.tail.push(words);
    if (CLOCKED.has(event.type)) this.clocked = [...this.clocked, words].slice(-RECENT);
    return event;
  }
}

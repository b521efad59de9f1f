// Sound and picture on one clock, and that is the audio hardware's: media time 0 lies at `base` of the AudioContext's time.

import { Picture } from "./picture.js";
import { Sound } from "./sound.js";

const TICK_MS = 20;
const AHEAD_S = 0.2; // sound scheduled ahead
const HIDDEN_AHEAD_S = 2.5; // browsers wake hidden pages once a second
const CUSHION_S = 0.25; // what must be there before playing goes on after it stood

/** Dispatches "paint" {frame, late} and "stall" {seconds, held}; `late` is how long after its time a frame is drawn. */
export class Player extends EventTarget {
  constructor(context, output, canvas) {
    super();
    this.context = context;
    this.output = output;
    this.canvas = canvas;
    this.base = null;
    this.dry = null; // {at: media time, since: context time} while nothing is there to play
    this.finished = false;
  }

  /** @param {Object} session what was agreed. @param {(frames: number) => void} shown acknowledges. */
  start(session, shown) {
    this.fps = session.fps;
    this.delay = duration(session.playout_delay);
    this.holds = session.idle_policy === "IDLE_POLICY_HOLD";
    this.shown = shown;
    this.acked = 0;
    this.sound = new Sound(this.context, this.output);
    this.picture = new Picture(this.canvas, session, (why) => this.dispatchEvent(new CustomEvent("broken", { detail: why })));
    this.timer = setInterval(() => this.#tick(), TICK_MS);
    const draw = () => {
      this.drawing = requestAnimationFrame(draw);
      this.#paint();
    };
    draw();
  }

  video({ frames }) {
    this.picture.add(frames);
    this.base ??= this.context.currentTime + this.delay - frames[0].pts_us / 1e6;
  }

  audio(span) {
    this.sound.add(span);
  }

  /** Nothing more comes: what is there is played to its end. */
  finish() {
    this.finished = true;
  }

  stop() {
    clearInterval(this.timer);
    cancelAnimationFrame(this.drawing);
    if (this.sound) this.sound.unschedule(0, this.context.currentTime);
    this.picture?.close();
  }

  /** Be silent now; the picture goes on to the end of what is made. */
  hush() {
    if (this.base !== null) this.sound.hush(this.#scheduling(), this.base);
  }

  /** The voice that was hushed ends before this block. */
  hushUntil(block) {
    this.sound.hushUntil(block);
  }

  /** The media time that is heard now, in seconds; null before the first. */
  heard() {
    if (this.base === null) return null;
    return this.dry ? this.dry.at : heardAt(this.context) - this.base;
  }

  /** Seconds that are here and not yet played. */
  get buffered() {
    const heard = this.heard();
    return heard === null ? 0 : Math.max(0, this.#available() - Math.max(0, heard));
  }

  get done() {
    return this.finished && (this.base === null || this.dry !== null);
  }

  #available() {
    return Math.min(this.sound.end / this.sound.rate, this.picture.end);
  }

  /** The media time at which sound can be scheduled now. */
  #scheduling() {
    return this.context.currentTime - this.base;
  }

  #tick() {
    if (this.base === null) return;
    const available = this.#available();
    if (this.dry) this.#go(available);
    else if (this.#scheduling() >= available) this.dry = { at: available, since: this.context.currentTime };
    if (!this.dry) {
      const ahead = document.hidden ? HIDDEN_AHEAD_S : AHEAD_S;
      // Never beyond the picture: they stand and go together.
      this.sound.schedule(Math.min(this.#scheduling() + ahead, available), this.base);
    }
    const heard = this.heard();
    this.picture.prepare(heard);
    // By the clock and not by what was drawn: a hidden page draws nothing, and hears on.
    const frames = Math.min(Math.max(0, Math.floor(heard * this.fps + 1e-6)), this.picture.last + 1);
    if (frames > this.acked) {
      this.acked = frames;
      this.shown(frames);
    }
  }

  /** Go on after standing still, once there is something to go on with. */
  #go(available) {
    const more = available - this.dry.at;
    if (more <= 0 || (more < CUSHION_S && !this.finished)) return;
    const now = this.context.currentTime;
    const seconds = now - this.dry.since;
    this.base = now - this.dry.at;
    this.dry = null;
    this.dispatchEvent(new CustomEvent("stall", { detail: { seconds, held: this.holds } }));
  }

  #paint() {
    const heard = this.heard();
    if (heard === null) return;
    const frame = this.picture.paint(heard);
    if (frame) this.dispatchEvent(new CustomEvent("paint", { detail: { frame, late: heard - frame.pts_us / 1e6 } }));
  }
}

/** The context's time that leaves the loudspeaker now. */
export function heardAt(context) {
  const { contextTime, performanceTime } = context.getOutputTimestamp();
  if (!performanceTime) return context.currentTime - (context.outputLatency || 0);
  return contextTime + (performance.now() - performanceTime) / 1000;
}

/** Seconds of a google.protobuf.Duration. */
export function duration(value) {
  return value ? value.seconds + value.nanos / 1e9 : 0;
}

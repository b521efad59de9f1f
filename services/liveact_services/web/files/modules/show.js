// One session on the stage: the stream, the player and what is measured of both.

import { Player } from "./player.js";
import { Stream } from "./stream.js";

/** Dispatches "state" {tone, words}, "ready", "prompt" (the block it was applied at), "notice" (an event), "end" {failure}. */
export class Show extends EventTarget {
  /** @param {{wire, key, context, output, canvas, figures, timeline}} parts @param {Object} config SessionConfig */
  constructor(parts, config) {
    super();
    Object.assign(this, parts);
    this.began = false;
    this.utterance = ""; // spoken on the screen now
    this.player = new Player(this.context, this.output, this.canvas);
    this.stream = new Stream(this.wire, this.key, config);
    this.#listenToStream();
    this.#listenToPlayer();
    this.#tell("busy", "Connecting");
    this.ticking = setInterval(() => this.#tick(), 250);
  }

  /** Stop speaking: silence at once, the picture with the next block that is not made yet. */
  interrupt() {
    this.figures.interrupted(this.utterance);
    this.player.hush();
    this.stream.interrupt();
    this.listening = true;
  }

  /** End the session after what was said, or at once where nothing was shown. */
  end() {
    this.stream.close();
    this.#tell("busy", "Ending");
  }

  /** Leave the stage without another word. */
  leave() {
    clearInterval(this.ticking);
    this.player.stop();
  }

  #listenToStream() {
    const on = (kind, hear) => this.stream.addEventListener(kind, ({ detail }) => hear(detail));
    on("session", (session) => {
      if (!this.began) this.player.start(session, (frames) => this.stream.ack(frames));
      this.began = true;
      this.#tell("busy", this.stream.outages ? "Live again" : "Preparing the portrait");
    });
    on("video", (chunk) => {
      this.player.video(chunk);
      this.timeline.add(chunk, this.stream.session.fps);
    });
    on("audio", (span) => this.player.audio(span));
    on("event", (event) => this.#hear(event));
    on("lost", (failure) => this.#tell("busy", `Reconnecting: ${failure.message}`));
    on("end", ({ failure }) => {
      this.player.finish();
      this.failure = failure;
      this.over = true;
      if (failure || !this.began) this.#finish();
    });
  }

  #hear(event) {
    switch (event.type.replace("EVENT_TYPE_", "")) {
      case "READY":
        this.#tell("live", "Listening");
        this.dispatchEvent(new Event("ready"));
        break;
      case "INTERRUPTED":
        this.player.hushUntil(event.block);
        break;
      case "PROMPT_APPLIED":
        this.dispatchEvent(new CustomEvent("prompt", { detail: event.block }));
        break;
      case "NOTICE":
      case "EXPIRING":
        this.dispatchEvent(new CustomEvent("notice", { detail: event }));
        break;
    }
  }

  #listenToPlayer() {
    this.player.addEventListener("paint", ({ detail }) => {
      this.figures.painted(detail);
      this.timeline.playing(detail.frame.index);
      this.utterance = detail.frame.utterance_id;
      if (!this.over && !this.stream.closing && this.stream.ready) {
        this.#tell("live", this.utterance ? "Speaking" : "Listening");
      }
    });
    this.player.addEventListener("stall", ({ detail }) => this.figures.stalled(detail));
    this.player.addEventListener("broken", ({ detail }) => {
      this.failure = Object.assign(new Error(`The picture cannot be shown: ${detail}.`), { reason: "" });
    });
  }

  #tick() {
    this.figures.show(this.player.buffered);
    if (this.over && this.player.done) this.#finish();
  }

  #finish() {
    if (this.finished) return;
    this.finished = true;
    this.leave();
    this.#tell(this.failure ? "bad" : "idle", this.failure ? "Ended by an error" : "Ended");
    this.dispatchEvent(new CustomEvent("end", { detail: { failure: this.failure } }));
  }

  #tell(tone, words) {
    if (this.words === words) return;
    this.words = words;
    this.dispatchEvent(new CustomEvent("state", { detail: { tone, words } }));
  }
}

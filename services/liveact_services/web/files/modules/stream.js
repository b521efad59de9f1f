// One session over as many WebSockets as it takes: when one breaks, another resumes it, and every frame, stretch of sound and
// event is told once. What the Python SDK's AvatarSession does, for the page.

import { SERVICE, ServiceFailure, unreachable } from "./calls.js";
import { Progress } from "./progress.js";

const ACTING = ["audio", "end_utterance", "interrupt", "update"];
const FINAL = new Set([
  "invalid_argument", "permission_denied", "unauthenticated", "unimplemented", "failed_precondition", "data_loss",
]);
const PASSING = new Set(["STREAM_NOT_CLOSED", "SESSION_BUSY", "CONFIG_TIMEOUT"]);
const RESUME_FOR_MS = 60_000;
const FIRST_WAIT_MS = 150;
const LONGEST_WAIT_MS = 2_000;

/**
 * Dispatches "session" (a call began: detail is the Session), "video", "audio", "event" with the message as detail, "lost"
 * (a connection broke), and at last "end" with {failure: ServiceFailure | null}.
 */
export class Stream extends EventTarget {
  constructor(wire, key, config) {
    super();
    this.wire = wire;
    this.key = key;
    this.session = null;
    this.ready = false;
    this.outages = 0;
    this.over = false;
    this.sentAt = performance.now();
    this.pieces = 0;
    this.log = []; // acting requests not yet released by the server, oldest first
    this.first = 0; // number of the log's first
    this.sent = 0; // number of the next to write
    this.closing = false;
    this.shown = this.acked = this.resumedAt = 0;
    this.progress = new Progress();
    this.brokenAt = null;
    this.wait = FIRST_WAIT_MS;
    this.closed = false;
    this.#open({ config });
  }

  // ---- what the page says ----------------------------------------------------------------------------------------------

  /** @param {Uint8Array} data PCM as agreed. */
  audio(data, utterance) {
    this.#act({ audio: { data, utterance_id: utterance, sequence: this.pieces++ } });
  }

  endUtterance(utterance) {
    this.#act({ end_utterance: { utterance_id: utterance } });
  }

  interrupt() {
    this.#act({ interrupt: {} });
  }

  update(prompt) {
    this.#act({ update: { prompt } });
  }

  /** Every frame before this one was shown. */
  ack(frames) {
    this.shown = Math.max(this.shown, frames);
    // A server that took the session over knows nothing of frames before the one it was resumed at.
    if (this.ready && this.shown > this.acked && this.shown >= this.resumedAt && this.#write({ ack: { next_frame: this.shown } })) {
      this.acked = this.shown;
    }
  }

  /** Finish what was sent, then end. */
  close() {
    this.closing = true;
    this.#flush();
  }

  #act(request) {
    if (this.over) return;
    this.log.push(request);
    this.#flush();
  }

  #flush() {
    if (!this.ready) return;
    while (this.sent < this.first + this.log.length) {
      if (!this.#write(this.log[this.sent - this.first])) return;
      this.sent += 1;
    }
    if (this.closing && !this.closeSent) this.closeSent = this.#write({ close: {} });
  }

  #write(request) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(this.wire.encode("StreamAvatarRequest", request));
    return true;
  }

  // ---- what the page hears ---------------------------------------------------------------------------------------------

  #open(request) {
    const url = new URL(`${SERVICE}/StreamAvatar`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = ["liveact.v1"];
    if (this.key) protocols.push(`bearer.${base64url(this.key)}`);
    this.socket = new WebSocket(url, protocols);
    this.socket.binaryType = "arraybuffer";
    this.ready = this.closeSent = false;
    let told; // how the server says that the call ended
    this.socket.onopen = () => this.#write(request);
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") told = JSON.parse(data);
      else this.#take(this.wire.decode("StreamAvatarResponse", new Uint8Array(data)));
    };
    this.socket.onclose = () => this.#ended(told);
  }

  #take(response) {
    const kind = ["session", "video", "audio", "event"].find((name) => response[name]);
    if (!kind) return;
    const payload = response[kind];
    if (kind === "session") return this.#began(payload);
    if (kind === "audio") this.#forget(payload.next_request);
    if (kind === "event" && payload.type === "EVENT_TYPE_FAILED") return;
    const fresh = this.progress.fresh(kind, payload);
    if (!fresh) return;
    this.brokenAt = null;
    if (kind === "event" && payload.type === "EVENT_TYPE_READY") this.#becameReady();
    if (kind === "event" && payload.type === "EVENT_TYPE_CLOSED") this.closed = true;
    this.dispatchEvent(new CustomEvent(kind, { detail: fresh }));
  }

  #began(session) {
    const again = this.session !== null;
    this.session = { ...session, resume_token: session.resume_token || this.session?.resume_token };
    this.progress.rate = session.audio_format?.sample_rate_hz || 16000;
    if (again) {
      if (session.next_request < this.first) {
        return this.#finish(new ServiceFailure({ code: "data_loss", message: "The service asks for what this page no longer has." }));
      }
      this.sent = session.next_request;
      this.wait = FIRST_WAIT_MS;
      this.outages += 1;
    }
    this.dispatchEvent(new CustomEvent("session", { detail: this.session }));
    if (again && session.state !== "SESSION_STATE_ADMITTED") this.#becameReady();
  }

  #becameReady() {
    this.ready = true;
    this.#flush();
    this.ack(this.shown);
  }

  #forget(before) {
    const released = Math.min(before, this.sent) - this.first;
    if (released > 0) {
      this.log.splice(0, released);
      this.first += released;
    }
  }

  // ---- between two calls -----------------------------------------------------------------------------------------------

  #ended(told) {
    if (this.over) return;
    this.ready = false;
    if (this.closed) return this.#finish(null);
    const failure = told?.error ? new ServiceFailure(told.error) : unreachable("The connection to the service broke.");
    if (this.session === null) return this.#finish(failure);
    this.brokenAt ??= performance.now();
    const tooLong = performance.now() - this.brokenAt > RESUME_FOR_MS;
    if (this.closing && failure.reason === "SESSION_ENDED") return this.#finish(null);
    if (tooLong || ends(failure)) return this.#finish(failure);
    this.dispatchEvent(new CustomEvent("lost", { detail: failure }));
    this.progress.resumed();
    this.acked = 0;
    this.resumedAt = this.progress.frames;
    const wait = Math.max(this.wait * (0.5 + Math.random() / 2), (failure.retryAfter ?? 0) * 1000);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    const resume = { token: this.session.resume_token, next_frame: this.progress.frames };
    setTimeout(() => this.over || this.#open({ config: { resume } }), wait);
  }

  #finish(failure) {
    this.over = true;
    this.ready = false;
    this.socket.close();
    this.dispatchEvent(new CustomEvent("end", { detail: { failure } }));
  }
}

/** Whether a failure ends the session, and not only the call. */
function ends(failure) {
  if (!failure.reason) return FINAL.has(failure.code);
  if (failure.reason === "SESSION_LOST") return true;
  return !(PASSING.has(failure.reason) || ["unavailable", "internal", "canceled", "resource_exhausted"].includes(failure.code));
}

function base64url(words) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(words));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

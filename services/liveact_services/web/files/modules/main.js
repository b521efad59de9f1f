// The page: its parts, and who hears of what.

import { Acting } from "./acting.js";
import { Calls } from "./calls.js";
import { Figures } from "./figures.js";
import { Key } from "./key.js";
import { at, hush, make, tell } from "./page.js";
import { Picture } from "./picture.js";
import { Portraits } from "./portraits.js";
import { Recorder } from "./recorder.js";
import { Sessions } from "./sessions.js";
import { Show } from "./show.js";
import { Talking } from "./talking.js";
import { Timeline } from "./timeline.js";
import { Wire } from "./wire.js";

const RATE = 16000;
const FADE_S = 0.03;

class Console {
  constructor(about) {
    this.wire = new Wire(about.schema);
    this.key = new Key();
    this.calls = new Calls(() => this.key.value);
    this.figures = new Figures();
    this.timeline = new Timeline(at("blocks"));
    this.show = null;
    this.portraits = new Portraits(about.portraits, (url, name) => this.#chosen(url, name));
    this.acting = new Acting((prompt) => this.#act(prompt));
    this.sessions = new Sessions(this.calls, (error) => this.#trouble(error));
    this.talking = new Talking(() => (this.show?.stream.ready ? this.show.stream : null), {
      rate: RATE, calls: this.calls, speech: about.speech, trouble: (error) => this.#trouble(error),
      spoke: (utterance) => this.figures.spoke(utterance),
    });
    this.#wireButtons();
    this.#introduce();
  }

  #wireButtons() {
    at("start").onclick = () => this.start();
    at("interrupt").onclick = () => this.interrupt();
    at("end").onclick = () => this.end();
    at("record").onclick = () => this.#record();
    at("volume").oninput = () => this.#volume();
    at("trouble-close").onclick = hush;
    // A page that is left cannot resume: its session's place is free for others at once.
    addEventListener("pagehide", () => this.show?.stream.session && this.calls.endSession(this.show.stream.session.name));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !at("interrupt").disabled && !at("key-dialog").open) this.interrupt();
    });
  }

  /** What the service is, and whether it wants a key. */
  async #introduce() {
    try {
      const info = await this.calls.serverInfo();
      const side = (px) => `${px}×${px}`;
      at("server").textContent = `${info.preset}, ${info.checkpoint} weights, ${info.version}`;
      const sizes = [96, 128, 192, 256, 384, 512, 768].filter((px) => px >= info.minSide && px <= info.maxSide);
      const usual = make("option", { value: "0" }, `${info.defaultWidth}×${info.defaultHeight} (the model's)`);
      at("size").replaceChildren(usual, ...sizes.map((px) => make("option", { value: px }, side(px))));
      await this.calls.sessions();
    } catch (error) {
      this.#trouble(error);
    }
    if (await Picture.decodesH264()) at("codec").append(make("option", { value: "VIDEO_CODEC_H264" }, "H.264"));
  }

  #chosen(url, name) {
    at("still").src = url;
    at("still").alt = `Portrait: ${name}`;
  }

  async start() {
    hush();
    at("start").disabled = true;
    try {
      const image = await this.portraits.bytes();
      await this.#openSound();
      this.#open({
        image, consent: at("consent").value.trim(), prompt: this.acting.prompt, width: Number(at("size").value) || 0, height: Number(at("size").value) || 0,
        fps: Number(at("fps").value), audio_format: { sample_rate_hz: RATE, channels: 1 }, codec: at("codec").value,
        idle_policy: at("idle").value, seed: Math.floor(Math.random() * 2 ** 32),
      });
    } catch (error) {
      this.#trouble(error);
      at("start").disabled = false;
    }
  }

  #open(config) {
    this.figures.clear();
    this.timeline.clear();
    at("download").hidden = true;
    const { wire, figures, timeline, context } = this;
    const show = new Show({ wire, figures, timeline, context, output: this.voices, canvas: at("picture"), key: this.key.value }, config);
    this.show = show;
    const on = (kind, act) => show.addEventListener(kind, ({ detail }) => act(detail));
    on("state", ({ tone, words }) => this.#state(tone, words));
    on("ready", () => this.#live(true));
    on("prompt", (block) => (at("prompt-state").textContent = `Acted from block ${block} on.`));
    on("notice", (event) => this.#trouble(Object.assign(new Error(event.message), { reason: event.reason })));
    on("end", ({ failure }) => this.#ended(failure));
    show.player.addEventListener("paint", () => this.#seen(true), { once: true });
    this.traced?.(show);
    this.sessions.refresh();
  }

  interrupt() {
    this.talking.drop();
    this.show.interrupt();
  }

  end() {
    this.talking.stop();
    at("end").disabled = true;
    this.show.end();
  }

  #act(prompt) {
    if (!this.show?.stream.ready) {
      at("prompt-state").textContent = "It counts from the start.";
      return;
    }
    this.show.stream.update(prompt);
    at("prompt-state").textContent = "On its way: it begins with a block.";
  }

  #live(ready) {
    for (const id of ["interrupt", "record", "end"]) at(id).disabled = !ready;
    this.talking.enable(ready);
    at("curtain").hidden = ready;
    at("speaking").hidden = !ready;
    if (ready) at(document.activeElement === document.body ? "mic" : "").focus?.();
  }

  #seen(moving) {
    at("picture").hidden = !moving;
    at("still").hidden = moving;
  }

  async #ended(failure) {
    this.show = null;
    if (this.recorder) await this.#record();
    this.#live(false);
    this.#seen(false);
    at("start").disabled = false;
    at("start").textContent = "Start again";
    if (failure) this.#trouble(failure);
    this.sessions.refresh();
  }

  #state(tone, words) {
    at("state").dataset.tone = tone;
    at("state").textContent = words;
  }

  async #trouble(error) {
    if (!error.isAboutCredentials) return tell(error);
    if (await this.key.ask(this.key.value ? error.message : "")) this.#introduce();
  }

  // ---- sound -------------------------------------------------------------------------------------------------------------

  async #openSound() {
    if (!this.context) {
      this.context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
      this.voices = new GainNode(this.context);
      this.meter = new AnalyserNode(this.context, { fftSize: 512 });
      this.loudness = new GainNode(this.context);
      this.voices.connect(this.meter).connect(this.loudness).connect(this.context.destination);
      this.#volume();
      this.#watchLevel();
    }
    await this.context.resume();
  }

  #volume() {
    this.loudness?.gain.setTargetAtTime(Number(at("volume").value), this.context.currentTime, FADE_S);
  }

  #watchLevel() {
    const samples = new Float32Array(this.meter.fftSize);
    const look = () => {
      this.meter.getFloatTimeDomainData(samples);
      this.level = Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
      at("speaking").style.setProperty("--level", Math.min(1, this.level * 5).toFixed(2));
      if (this.level < 1e-3) this.figures.silenced();
      requestAnimationFrame(look);
    };
    look();
  }

  async #record() {
    const button = at("record");
    if (!this.recorder) {
      this.recorder = new Recorder(at("picture"), this.voices);
    } else {
      const recorder = this.recorder;
      this.recorder = null;
      const { blob, extension } = await recorder.stop();
      const link = at("download");
      URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(blob);
      link.download = `liveact.${extension}`;
      link.hidden = false;
    }
    button.setAttribute("aria-pressed", String(this.recorder !== null));
    button.querySelector("span").textContent = this.recorder ? "Stop recording" : "Record";
  }
}

const about = await new Calls(() => "").about().catch((error) => (tell(error), null));
if (about) {
  const page = new Console(about);
  if (new URLSearchParams(location.search).has("trace")) {
    const { trace } = await import("./trace.js");
    globalThis.liveact = trace(page);
  }
  document.documentElement.dataset.ready = "";
}

// The ways to give the avatar a voice: microphone, a recording, typed text.

import { Microphone } from "./microphone.js";
import { at } from "./page.js";
import { droppable } from "./portraits.js";
import { tabs } from "./tabs.js";
import { Voice, decodeFile, resample } from "./voice.js";

export class Talking {
  /**
   * @param {() => import("./stream.js").Stream | null} stream gives the running one.
   * @param {{rate: number, calls, speech: boolean, trouble: (error: Error) => void, spoke: (utterance: string) => void}} parts
   */
  constructor(stream, { rate, calls, speech, trouble, spoke }) {
    this.stream = stream;
    this.rate = rate;
    this.calls = calls;
    this.trouble = trouble;
    this.voice = new Voice(stream, rate);
    this.voice.onvoice = spoke;
    this.microphone = new Microphone(rate, (samples) => this.#heard(samples));
    tabs(document.querySelector('[role="tablist"]'));
    at("tab-text").hidden = !speech;
    at("mic").onclick = () => this.#guarded(() => this.#toggle());
    at("hello").onclick = () => this.#guarded(async () => this.play(await (await fetch("hello.mp3")).arrayBuffer(), "the example"));
    at("file").onchange = ({ target }) => {
      if (target.files[0]) this.#file(target.files[0]);
      target.value = "";
    };
    droppable(at("drop"), (file) => this.#file(file));
    at("words-form").onsubmit = (event) => {
      event.preventDefault();
      this.#guarded(() => this.#say(at("words").value.trim()));
    };
    this.enable(false);
  }

  /** Whether there is a session that hears. */
  enable(ready) {
    for (const id of ["mic", "hello", "say"]) at(id).disabled = !ready;
    if (!ready) this.stop();
  }

  /** Nothing more is said: the microphone closes, an open utterance ends. */
  stop() {
    this.voice.end();
    this.#closeMicrophone();
  }

  /** The service drops what was said; an open microphone goes on with another utterance. */
  drop() {
    this.voice.drop();
    if (this.microphone.open) this.voice.begin();
  }

  /** Say a recording. */
  async play(bytes, name) {
    const samples = await decodeFile(bytes, this.rate);
    this.#closeMicrophone();
    at("file-name").textContent = `${name}, ${(samples.length / this.rate).toFixed(1)} s`;
    this.#speak(samples);
  }

  #speak(samples) {
    if (!this.stream()) throw new Error("Start a session first.");
    this.voice.play(samples);
  }

  #file(file) {
    this.#guarded(async () => this.play(await file.arrayBuffer(), file.name));
  }

  async #say(words) {
    if (!words) return;
    at("say").disabled = true;
    try {
      const { pcm, rate } = await this.calls.speech(words);
      this.#speak(await resample(pcm, rate, this.rate));
    } finally {
      at("say").disabled = !this.stream()?.ready;
    }
  }

  async #toggle() {
    if (this.microphone.open) return this.stop();
    this.voice.end();
    await this.microphone.start();
    this.voice.begin();
    this.#showMicrophone();
  }

  #heard(samples) {
    this.voice.say(samples);
    at("mic").style.setProperty("--level", Math.min(1, this.microphone.level * 6).toFixed(2));
  }

  #closeMicrophone() {
    if (this.microphone.open) this.microphone.stop();
    this.#showMicrophone();
  }

  #showMicrophone() {
    const open = this.microphone.open;
    at("mic").setAttribute("aria-pressed", String(open));
    at("mic").querySelector("span").textContent = open ? "Stop talking" : "Talk";
  }

  async #guarded(act) {
    try {
      await act();
    } catch (error) {
      this.trouble(error);
    }
  }
}

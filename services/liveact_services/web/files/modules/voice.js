// Voice on its way to the service: one utterance at a time, as PCM_S16LE of one channel at the session's rate.

const AHEAD_S = 12; // of recorded voice, sent before it can have been spoken
const PIECE_S = 0.5;
const TICK_MS = 100;

export class Voice {
  /** @param {() => import("./stream.js").Stream | null} stream gives the running one. */
  constructor(stream, rate) {
    this.stream = stream;
    this.rate = rate;
    this.count = 0;
    this.utterance = null; // the open one
    this.onvoice = () => {};
  }

  /** Begin an utterance; one that is open ends. Gives its id. */
  begin() {
    this.end();
    this.utterance = `u${Date.now().toString(36)}-${this.count++}`;
    this.heardAny = false;
    return this.utterance;
  }

  /** @param {Float32Array} samples */
  say(samples) {
    if (this.utterance === null || samples.length === 0) return;
    if (!this.heardAny) this.onvoice(this.utterance);
    this.heardAny = true;
    this.stream()?.audio(pcm16(samples), this.utterance);
  }

  end() {
    if (this.utterance === null) return;
    clearInterval(this.timer);
    if (this.heardAny) this.stream()?.endUtterance(this.utterance);
    this.utterance = null;
  }

  /** The service has dropped it: nothing more of it is sent. */
  drop() {
    clearInterval(this.timer);
    this.utterance = null;
  }

  /** Say a recording, float32 at the session's rate, at most `AHEAD_S` ahead of speaking pace. */
  play(samples) {
    this.begin();
    const began = performance.now();
    let at = 0;
    const send = () => {
      const due = ((performance.now() - began) / 1000 + AHEAD_S) * this.rate;
      while (at < samples.length && at < due) {
        const stop = Math.min(samples.length, at + PIECE_S * this.rate);
        this.say(samples.subarray(at, stop));
        at = stop;
      }
      if (at >= samples.length) this.end();
    };
    this.timer = setInterval(send, TICK_MS);
    send();
  }
}

/** A sound file of whatever kind the browser reads, one channel at `rate`. Throws an Error for people. */
export async function decodeFile(bytes, rate) {
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error("That file is no sound this browser can read: WAV, MP3, OGG and M4A mostly are.");
  }
  if (sound.length === 0) throw new Error("That file holds no sound.");
  return mixed(sound, rate);
}

/** PCM of the service's voice at another rate. */
export async function resample(pcm, from, rate) {
  const buffer = new AudioBuffer({ length: Math.max(1, pcm.length), numberOfChannels: 1, sampleRate: from });
  buffer.copyToChannel(Float32Array.from(pcm, (value) => value / 32768), 0);
  return mixed(buffer, rate);
}

async function mixed(sound, rate) {
  const offline = new OfflineAudioContext(1, Math.max(1, Math.ceil(sound.duration * rate)), rate);
  const source = new AudioBufferSourceNode(offline, { buffer: sound });
  source.connect(offline.destination);
  source.start();
  return (await offline.startRendering()).getChannelData(0);
}

function pcm16(samples) {
  const bytes = new Uint8Array(2 * samples.length);
  const view = new DataView(bytes.buffer);
  samples.forEach((value, i) => view.setInt16(2 * i, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true));
  return bytes;
}

// Sound of the context's rate in, pieces of the session's rate out, 40 ms each.

const PIECE_S = 0.04;
const TAPS = 32; // half-width of the low-pass, in output samples' lobes

class MicrophoneProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.step = sampleRate / rate;
    this.piece = new Float32Array(Math.round(PIECE_S * rate));
    this.filled = 0;
    this.reach = this.step > 1 ? Math.ceil((TAPS * this.step) / 4) : 1;
    this.past = new Float32Array(0);
    this.next = this.reach; // place in `past` of the next sample out
  }

  process([[input]]) {
    if (!input) return true;
    const all = new Float32Array(this.past.length + input.length);
    all.set(this.past);
    all.set(input, this.past.length);
    for (; this.next + this.reach < all.length; this.next += this.step) this.#emit(this.#at(all, this.next));
    const drop = Math.max(0, Math.floor(this.next) - this.reach);
    this.past = all.slice(drop);
    this.next -= drop;
    return true;
  }

  /** The sound at a place between samples: a windowed sinc that passes what the new rate can hold. */
  #at(all, place) {
    if (this.step === 1) return all[Math.round(place)];
    const cut = Math.min(1, 1 / this.step);
    let sum = 0;
    let weight = 0;
    for (let i = Math.max(0, Math.ceil(place - this.reach)); i <= Math.floor(place + this.reach); i += 1) {
      const x = i - place;
      const lobe = x === 0 ? 1 : Math.sin(Math.PI * cut * x) / (Math.PI * cut * x);
      const w = lobe * (0.5 + 0.5 * Math.cos((Math.PI * x) / (this.reach + 1)));
      sum += w * all[i];
      weight += w;
    }
    return sum / weight;
  }

  #emit(value) {
    this.piece[this.filled++] = value;
    if (this.filled < this.piece.length) return;
    this.port.postMessage(this.piece.slice());
    this.filled = 0;
  }
}

registerProcessor("microphone", MicrophoneProcessor);

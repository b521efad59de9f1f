// The session's sound on the audio clock: PCM by its place in the session, scheduled a little ahead of what is heard.

const FADE_S = 0.02;
const KEPT_S = 4; // longer than anything is scheduled ahead

export class Sound {
  /** @param {AudioContext} context whose rate is the session's. @param {AudioNode} output */
  constructor(context, output) {
    this.context = context;
    this.output = output;
    this.rate = context.sampleRate;
    this.spans = []; // {start, samples: Float32Array, block}, in order, in samples of the media clock
    this.end = 0; // sample after the last
    this.cursor = 0; // next sample to schedule
    this.playing = new Set();
    this.hushed = null; // {from, block}: what belongs to earlier blocks is silent from that sample on
  }

  /** @param {{start: number, data: Uint8Array, block: number}} span PCM_S16LE. */
  add({ start, data, block }) {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const samples = Float32Array.from({ length: data.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true) / 32768);
    if (this.spans.length === 0) this.cursor = Math.max(this.cursor, start);
    this.spans.push({ start, samples, block });
    this.end = start + samples.length;
  }

  /** Schedule what is not yet, up to media time `until`; `base` is the context's time of media time 0. Seconds. */
  schedule(until, base) {
    const stop = Math.min(Math.floor(until * this.rate), this.end);
    if (stop <= this.cursor) return;
    const at = base + this.cursor / this.rate;
    const late = Math.max(0, Math.ceil((this.context.currentTime - at) * this.rate));
    const from = this.cursor + late;
    this.cursor = stop;
    if (from >= stop) return;
    const buffer = this.context.createBuffer(1, stop - from, this.rate);
    const samples = buffer.getChannelData(0);
    for (const span of this.spans) this.#copy(span, samples, from, stop);
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.output);
    source.onended = () => this.playing.delete(source);
    this.playing.add(source);
    // On a sample, so that pieces meet without a click.
    source.start(Math.round((base + from / this.rate) * this.rate) / this.rate);
    // What was scheduled may be taken back.
    const kept = from - KEPT_S * this.rate;
    while (this.spans.length > 0 && this.spans[0].start + this.spans[0].samples.length <= kept) this.spans.shift();
  }

  /** Be silent from media time `media` on, up to block `block` once that is known. Seconds. */
  hush(media, base, block = Infinity) {
    const from = Math.max(0, Math.ceil(media * this.rate));
    this.hushed = { from, block };
    this.unschedule(from, base);
  }

  /** The voice that was hushed ends before this block. */
  hushUntil(block) {
    if (this.hushed) this.hushed.block = block;
  }

  /** Take back what was scheduled from this sample on. */
  unschedule(from, base) {
    const at = Math.max(this.context.currentTime, base + from / this.rate);
    for (const source of this.playing) source.stop(at);
    this.cursor = Math.min(this.cursor, Math.max(from, Math.ceil((at - base) * this.rate)));
  }

  #copy({ start, samples, block }, into, from, stop) {
    const first = Math.max(start, from);
    const last = Math.min(start + samples.length, stop);
    if (first >= last) return;
    into.set(samples.subarray(first - start, last - start), first - from);
    if (!this.hushed || block >= this.hushed.block) return;
    const fade = FADE_S * this.rate;
    for (let i = Math.max(first, this.hushed.from); i < last; i += 1) {
      into[i - from] *= Math.max(0, 1 - (i - this.hushed.from) / fade);
    }
  }
}

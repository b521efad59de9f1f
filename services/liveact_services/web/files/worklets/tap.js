// Tells the level of what passes, every `bin` seconds, with the context's time at which it began. For measurements only.

class TapProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { bin } }) {
    super();
    this.bin = Math.round(bin * sampleRate);
    this.sum = 0;
    this.count = 0;
    this.at = null;
  }

  process([[input]]) {
    const frames = input ?? new Float32Array(128);
    for (let i = 0; i < frames.length; i += 1) {
      this.at ??= (currentFrame + i) / sampleRate;
      this.sum += frames[i] ** 2;
      if (++this.count < this.bin) continue;
      this.port.postMessage([this.at, Math.sqrt(this.sum / this.bin)]);
      this.sum = this.count = 0;
      this.at = null;
    }
    return true;
  }
}

registerProcessor("tap", TapProcessor);

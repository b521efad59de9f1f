// The session's frames: decoded a little before they are shown, drawn when their time comes.

const AHEAD_S = 0.6;

export class Picture {
  /** @param {HTMLCanvasElement} canvas @param {(why: string) => void} broken */
  constructor(canvas, session, broken) {
    this.canvas = canvas;
    this.fps = session.fps;
    this.waiting = []; // encoded, in order
    this.decoded = new Map(); // index -> {frame, image}
    this.pending = new Map(); // timestamp in microseconds -> frame, within the H.264 decoder
    this.last = -1; // index of the last frame that came
    this.painted = -1;
    canvas.width = session.width;
    canvas.height = session.height;
    this.brush = canvas.getContext("2d", { alpha: false, desynchronized: false });
    this.broken = broken;
    if (session.codec === "VIDEO_CODEC_H264") this.#openDecoder();
  }

  /** Whether this browser decodes H.264 as the service sends it. */
  static async decodesH264() {
    if (typeof VideoDecoder === "undefined") return false;
    const { supported } = await VideoDecoder.isConfigSupported({ codec: H264 }).catch(() => ({ supported: false }));
    return supported;
  }

  /** Media time after the last frame, seconds. */
  get end() {
    return (this.last + 1) / this.fps;
  }

  add(frames) {
    this.waiting.push(...frames);
    this.last = frames.at(-1).index;
  }

  /** Decode what is shown soon. `media`: seconds. */
  prepare(media) {
    while (this.waiting.length > 0 && this.waiting[0].pts_us / 1e6 < media + AHEAD_S) this.#decode(this.waiting.shift());
    for (const [index, { image }] of this.decoded) {
      if (index >= this.painted && index / this.fps > media - AHEAD_S) break;
      if (index === this.painted) continue;
      image.close();
      this.decoded.delete(index);
    }
  }

  /** Draw the frame of that media time, in seconds; gives it if it is another than before. */
  paint(media) {
    let due = null;
    for (const entry of this.decoded.values()) {
      if (entry.frame.pts_us / 1e6 > media + 0.004) break;
      due = entry;
    }
    if (!due || due.frame.index <= this.painted) return null;
    this.painted = due.frame.index;
    this.brush.drawImage(due.image, 0, 0, this.canvas.width, this.canvas.height);
    return due.frame;
  }

  close() {
    for (const { image } of this.decoded.values()) image.close();
    this.decoded.clear();
    if (this.decoder?.state === "configured") this.decoder.close();
  }

  #decode(frame) {
    if (this.decoder) {
      if (this.decoder.state !== "configured") return;
      this.pending.set(frame.pts_us, frame);
      const type = frame.key_frame ? "key" : "delta";
      this.decoder.decode(new EncodedVideoChunk({ type, timestamp: frame.pts_us, data: frame.data }));
      return;
    }
    createImageBitmap(new Blob([frame.data], { type: "image/jpeg" })).then(
      (image) => this.#keep(frame, image),
      () => this.broken(`frame ${frame.index} is no picture`),
    );
  }

  #keep(frame, image) {
    this.decoded.set(frame.index, { frame, image });
    // JPEG files are decoded side by side and may be done out of order.
    if ([...this.decoded.keys()].at(-2) > frame.index) this.decoded = new Map([...this.decoded].sort(([a], [b]) => a - b));
  }

  #openDecoder() {
    this.decoder = new VideoDecoder({
      output: (image) => {
        const frame = this.pending.get(image.timestamp);
        this.pending.delete(image.timestamp);
        if (frame) this.#keep(frame, image);
        else image.close();
      },
      error: (error) => this.broken(`this browser's H.264 decoder gave up: ${error.message}`),
    });
    this.decoder.configure({ codec: H264, optimizeForLatency: true });
  }
}

// Constrained baseline up to high, as the service's encoder makes; Annex B needs no description.
const H264 = "avc1.64001f";

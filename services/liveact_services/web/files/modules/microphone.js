// The microphone as pieces of float32 at the session's rate.

export class Microphone {
  /** @param {number} rate of the pieces in Hz. @param {(samples: Float32Array) => void} heard */
  constructor(rate, heard) {
    this.rate = rate;
    this.heard = heard;
    this.level = 0;
  }

  get open() {
    return this.tracks !== undefined;
  }

  /** Ask for the microphone and listen. Throws an Error for people. */
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the microphone to pages over https or from localhost only. Drop a sound file instead.");
    }
    const wish = { audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true } };
    const media = await navigator.mediaDevices.getUserMedia(wish).catch((error) => {
      throw new Error(REFUSALS[error.name] ?? `The microphone could not be opened: ${error.message}`);
    });
    this.tracks = media.getTracks();
    // Its own context at the device's rate: not every browser resamples between contexts, the worklet does.
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("worklets/microphone.js");
    const source = this.context.createMediaStreamSource(media);
    const worklet = new AudioWorkletNode(this.context, "microphone", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit", processorOptions: { rate: this.rate },
    });
    worklet.port.onmessage = ({ data }) => {
      this.level = Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length);
      this.heard(data);
    };
    source.connect(worklet);
  }

  stop() {
    for (const track of this.tracks ?? []) track.stop();
    this.context?.close();
    this.tracks = this.context = undefined;
    this.level = 0;
  }
}

const REFUSALS = {
  NotAllowedError: "The microphone was not allowed. Allow it beside the page's address, or drop a sound file.",
  NotFoundError: "No microphone was found. Drop a sound file instead.",
  NotReadableError: "The microphone is in use by something else.",
};

// What is seen and heard as a file, made by the browser.

const KINDS = ["video/mp4;codecs=avc1,mp4a.40.2", "video/webm;codecs=vp9,opus", "video/webm;codecs=vp8,opus", "video/webm"];

export class Recorder {
  /** @param {HTMLCanvasElement} canvas @param {AudioNode} sound what is heard. */
  constructor(canvas, sound) {
    const context = sound.context;
    this.into = context.createMediaStreamDestination();
    this.sound = sound;
    sound.connect(this.into);
    const kind = KINDS.find((one) => MediaRecorder.isTypeSupported(one));
    const media = new MediaStream([...canvas.captureStream().getVideoTracks(), ...this.into.stream.getAudioTracks()]);
    this.recorder = new MediaRecorder(media, kind ? { mimeType: kind, videoBitsPerSecond: 4_000_000 } : {});
    this.parts = [];
    this.recorder.ondataavailable = ({ data }) => data.size > 0 && this.parts.push(data);
    this.recorder.start(1000);
  }

  /** End the recording; gives {blob, extension}. */
  async stop() {
    const ended = new Promise((resolve) => (this.recorder.onstop = resolve));
    this.recorder.stop();
    await ended;
    this.sound.disconnect(this.into);
    const type = this.recorder.mimeType.split(";")[0];
    return { blob: new Blob(this.parts, { type }), extension: type.endsWith("mp4") ? "mp4" : "webm" };
  }
}

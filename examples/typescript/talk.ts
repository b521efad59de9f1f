// A portrait and a voice to a LiveAct service, and the talking video back: the H.264 stream and the sound, each in a file.
//
//   make stubs && cd examples/typescript && npm run build
//   node build/talk.js 127.0.0.1:9000 ../portrait.jpg ../voice.wav ../../out/talk

import { readFileSync, writeFileSync } from "node:fs";
import { ChannelCredentials } from "@grpc/grpc-js";
import { GrpcTransport } from "@protobuf-ts/grpc-transport";
import { AvatarServiceClient } from "./generated/liveact/v1/avatar.client";
import { EventType, IdlePolicy, Pacing, StreamAvatarRequest, VideoCodec } from "./generated/liveact/v1/avatar";

type Payload = StreamAvatarRequest["payload"];

// The samples of a PCM16 mono WAV file, and their rate.
function readVoice(path: string): { rate: number; pcm: Buffer } {
  const file = readFileSync(path);
  let at = 12;
  let rate = 0;
  while (at + 8 <= file.length) {
    const [id, size] = [file.toString("latin1", at, at + 4), file.readUInt32LE(at + 4)];
    if (id === "fmt ") {
      if (file.readUInt16LE(at + 10) !== 1 || file.readUInt16LE(at + 22) !== 16) {
        throw new Error(`${path}: one channel of 16 bits is accepted`);
      }
      rate = file.readUInt32LE(at + 12);
    } else if (id === "data") {
      return { rate, pcm: file.subarray(at + 8, at + 8 + size) };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error(`${path}: no sound in it`);
}

async function talk(server: string, portrait: string, wav: string, out: string): Promise<void> {
  const transport = new GrpcTransport({ host: server, channelCredentials: ChannelCredentials.createInsecure() });
  const call = new AvatarServiceClient(transport).streamAvatar();
  const send = (payload: Payload) => call.requests.send({ payload });
  const voice = readVoice(wav);
  await send({
    oneofKind: "config",
    config: {
      portrait: { oneofKind: "image", image: readFileSync(portrait) },
      audioFormat: { sampleRateHz: voice.rate, channels: 1, encoding: 0 },
      codec: VideoCodec.H264,
      pacing: Pacing.FASTEST,
      idlePolicy: IdlePolicy.HOLD,
      prompt: "", consent: "", width: 0, height: 0, fps: 0, seed: 1n,
    },
  });
  const video: Uint8Array[] = [];
  const sound: Uint8Array[] = [];
  for await (const { payload } of call.responses) {
    if (payload.oneofKind === "session") {
      console.log(`${payload.session.name}: ${payload.session.width}x${payload.session.height}`);
    } else if (payload.oneofKind === "audio") {
      sound.push(payload.audio.data);
    } else if (payload.oneofKind === "video") {
      for (const frame of payload.video.frames) video.push(frame.data);
      // The credit that lets the server go on.
      const last = payload.video.frames[payload.video.frames.length - 1];
      await send({ oneofKind: "ack", ack: { nextFrame: last.index + 1n } });
    } else if (payload.oneofKind === "event") {
      console.log(EventType[payload.event.type], Number(payload.event.ptsUs) / 1e6);
      if (payload.event.type === EventType.READY) {
        await send({ oneofKind: "audio", audio: { data: voice.pcm, utteranceId: "greeting", sequence: 0n } });
        await send({ oneofKind: "endUtterance", endUtterance: { utteranceId: "greeting" } });
        await send({ oneofKind: "close", close: {} });
      }
    }
  }
  await call.requests.complete();
  await call.status;
  writeFileSync(`${out}.h264`, Buffer.concat(video));
  writeFileSync(`${out}.pcm`, Buffer.concat(sound));
  console.log(`frames=${video.length} samples=${sound.reduce((n, piece) => n + piece.length / 2, 0)}`);
  transport.close();
}

const [server, portrait, wav, out] = process.argv.slice(2);
talk(server, portrait, wav, out).catch((error) => {
  console.error(error);
  process.exit(1);
});

// Talk sends a portrait and a voice to a LiveAct service and writes the talking video: the H.264 stream and the sound.
//
//	go run . 127.0.0.1:9000 ../portrait.jpg ../voice.wav ../../out/talk
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"

	liveact "liveact/v1"
)

const maxMessage = 4 << 20

// readVoice gives the samples of a PCM16 mono WAV file, and their rate.
func readVoice(path string) (int32, []byte, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, err
	}
	var rate int32
	for at := 12; at+8 <= len(file); {
		size := int(binary.LittleEndian.Uint32(file[at+4:]))
		body := file[at+8:]
		switch string(file[at : at+4]) {
		case "fmt ":
			if binary.LittleEndian.Uint16(body[2:]) != 1 || binary.LittleEndian.Uint16(body[14:]) != 16 {
				return 0, nil, errors.New(path + ": one channel of 16 bits is accepted")
			}
			rate = int32(binary.LittleEndian.Uint32(body[4:]))
		case "data":
			return rate, body[:size], nil
		}
		at += 8 + size + size%2
	}
	return 0, nil, errors.New(path + ": no sound in it")
}

func talk(server, portrait, wav, out string) error {
	image, err := os.ReadFile(portrait)
	if err != nil {
		return err
	}
	rate, pcm, err := readVoice(wav)
	if err != nil {
		return err
	}
	connection, err := grpc.Dial(server, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream, err := liveact.NewAvatarServiceClient(connection).StreamAvatar(context.Background())
	if err != nil {
		return err
	}
	err = stream.Send(&liveact.StreamAvatarRequest{Payload: &liveact.StreamAvatarRequest_Config{Config: &liveact.SessionConfig{
		Portrait:    &liveact.SessionConfig_Image{Image: image},
		AudioFormat: &liveact.AudioFormat{SampleRateHz: rate, Channels: 1},
		Codec:       liveact.VideoCodec_VIDEO_CODEC_H264,
		Pacing:      liveact.Pacing_PACING_FASTEST,
		IdlePolicy:  liveact.IdlePolicy_IDLE_POLICY_HOLD,
		Seed:        1,
	}}})
	if err != nil {
		return err
	}
	var video, sound bytes.Buffer
	frames := 0
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch payload := response.Payload.(type) {
		case *liveact.StreamAvatarResponse_Session:
			fmt.Printf("%s: %dx%d\n", payload.Session.Name, payload.Session.Width, payload.Session.Height)
		case *liveact.StreamAvatarResponse_Audio:
			sound.Write(payload.Audio.Data)
		case *liveact.StreamAvatarResponse_Video:
			for _, frame := range payload.Video.Frames {
				video.Write(frame.Data)
				frames++
			}
			// The credit that lets the server go on.
			ack := &liveact.StreamAvatarRequest_Ack{Ack: &liveact.Ack{NextFrame: int64(frames)}}
			if err := stream.Send(&liveact.StreamAvatarRequest{Payload: ack}); err != nil && err != io.EOF {
				return err
			}
		case *liveact.StreamAvatarResponse_Event:
			fmt.Println(payload.Event.Type, float64(payload.Event.PtsUs)/1e6)
			if payload.Event.Type == liveact.EventType_EVENT_TYPE_READY {
				if err := speak(stream, pcm); err != nil {
					return err
				}
			}
		}
	}
	if err := os.WriteFile(out+".h264", video.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Printf("frames=%d samples=%d\n", frames, sound.Len()/2)
	return os.WriteFile(out+".pcm", sound.Bytes(), 0o644)
}

// speak says the voice as one utterance and asks the server to end the session after it.
func speak(stream liveact.AvatarService_StreamAvatarClient, pcm []byte) error {
	for _, request := range []*liveact.StreamAvatarRequest{
		{Payload: &liveact.StreamAvatarRequest_Audio{Audio: &liveact.AudioChunk{Data: pcm, UtteranceId: "greeting"}}},
		{Payload: &liveact.StreamAvatarRequest_EndUtterance{EndUtterance: &liveact.EndUtterance{UtteranceId: "greeting"}}},
		{Payload: &liveact.StreamAvatarRequest_Close{Close: &liveact.Close{}}},
	} {
		if err := stream.Send(request); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: talk SERVER PORTRAIT VOICE OUT")
	}
	if err := talk(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

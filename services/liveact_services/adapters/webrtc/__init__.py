"""LiveAct over WebRTC, with aiortc: a browser, or anything that speaks WHIP, sends a voice and sees a face.

A bridge is a client of the service, in a process of its own: media goes over UDP straight to it, and its CPU, which encodes every
picture a second time, is not the Gateway's. Needs the extra `webrtc`. `liveact webrtc` runs it.
"""

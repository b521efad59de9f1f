"""LiveAct inside agent frameworks, an extra each: `livekit` for LiveKit Agents, `pipecat` for Pipecat.

An adapter is imported by its own name, since importing it needs its framework.
"""

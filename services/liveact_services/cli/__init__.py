"""The command line `liveact`: one file a command."""

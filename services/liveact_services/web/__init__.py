"""The browser console, and the API as browsers can speak it: unary calls over HTTP, the stream over a WebSocket."""

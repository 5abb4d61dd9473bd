//! ComfyUI's interface over HTTP and WebSocket.

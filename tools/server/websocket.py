"""As much of a WebSocket as a client needs that reads a server's messages (RFC 6455)."""

import base64
import json
import os
import socket
import struct

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket:
    """A connection to `/ws` of a server on this machine."""

    def __init__(self, port, client):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        self.reader = self.socket.makefile("rb")
        status = self.reader.readline()
        if b" 101 " not in status:
            raise SystemExit(f"no WebSocket: {status.decode()}")
        while self.reader.readline() != b"\r\n":
            pass

    def say(self, message):
        """Sends JSON."""
        self.send(TEXT, json.dumps(message).encode())

    def send(self, kind, payload):
        # A client's frames are masked; with zeros they stay as they are.
        if len(payload) > 125:
            raise ValueError("longer than a short frame")
        self.socket.sendall(struct.pack(">BBI", 0x80 | kind, 0x80 | len(payload), 0) + payload)

    def next(self):
        """The next message: what its JSON says, or bytes."""
        while True:
            kind, payload = self.frame()
            if kind == PING:
                self.send(PONG, payload)
            elif kind == CLOSE:
                raise SystemExit(f"the server closed: {payload[2:].decode()}")
            elif kind != PONG:
                return json.loads(payload) if kind == TEXT else payload

    def frame(self):
        first, length = self.reader.read(2)
        if length == 126:
            (length,) = struct.unpack(">H", self.reader.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.reader.read(8))
        return first & 0x0F, self.reader.read(length)

    def until(self, kind, **fields):
        """The data of the next message of this type that has these fields."""
        while True:
            message = self.next()
            if isinstance(message, dict) and message["type"] == kind:
                data = message["data"]
                if all(data.get(name) == value for name, value in fields.items()):
                    return data

    def close(self):
        self.reader.close()
        self.socket.close()

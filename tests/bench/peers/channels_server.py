"""A terminal for each WebSocket by Django Channels, served by daphne, in the way that tutorials show: a consumer forks a
shell on a terminal, and a thread waits for its output. Arguments: a port, then the shell and its own."""

import asyncio
import os
import pty
import signal
import sys

from daphne.server import Server
from django.conf import settings

settings.configure()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402  (it wants settings)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

READ_BYTES_MAX = 65536


class TerminalConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(sys.argv[2], sys.argv[2:])
        await self.accept()
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        while output := await asyncio.to_thread(os.read, self.terminal, READ_BYTES_MAX):
            await self.send(text_data=output.decode(errors="replace"))

    async def receive(self, text_data):
        os.write(self.terminal, text_data.encode())

    async def disconnect(self, code):
        self.reading.cancel()
        os.kill(self.pid, signal.SIGHUP)
        os.waitpid(self.pid, 0)


application = ProtocolTypeRouter({"websocket": URLRouter([path("terminal", TerminalConsumer.as_asgi())])})
Server(application, endpoints=[f"tcp:port={sys.argv[1]}:interface=127.0.0.1"], signal_handlers=False).run()

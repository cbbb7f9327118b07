"""terminado as its documentation shows it: a terminal for each WebSocket. Arguments: a port, then the shell and its own."""

import asyncio
import sys

import tornado.web
from terminado import TermSocket, UniqueTermManager


async def main():
    manager = UniqueTermManager(shell_command=sys.argv[2:])
    application = tornado.web.Application([("/terminal", TermSocket, {"term_manager": manager})])
    application.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())

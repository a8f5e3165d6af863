"""slow.py PORT UPSTREAM SECONDS: a proxy before an HTTP server on this machine; each answer begins so much later."""

import asyncio
import sys

port, upstream, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


async def serve(reader, writer):
    to_server = None
    try:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", upstream)
        asked = False

        async def requests():
            nonlocal asked
            while data := await reader.read(1 << 18):
                asked = True
                to_server.write(data)
                await to_server.drain()
            to_server.close()

        async def answers():
            nonlocal asked
            while data := await from_server.read(1 << 18):
                if asked:
                    asked = False
                    await asyncio.sleep(pause)
                writer.write(data)
                await writer.drain()

        both = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        ended, others = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        # Whoever closes a connection ends it for both sides.
        await asyncio.gather(*both, return_exceptions=True)
    except OSError:
        pass
    finally:
        writer.close()
        if to_server is not None:
            to_server.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


asyncio.run(main())

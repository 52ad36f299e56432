"""A receiver with python-hl7's server: PORT, and a file for what it read, one payload a line in hex."""

import asyncio
import sys

import hl7
from hl7.mllp import start_hl7_server

port, record = int(sys.argv[1]), sys.argv[2]


async def serve(reader, writer):
    try:
        while True:
            block = await reader.readblock()
            with open(record, "a") as file:
                file.write(block.hex() + "\n")
            writer.writemessage(hl7.parse(block.decode("latin-1")).create_ack())
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def main():
    server = await start_hl7_server(serve, host="127.0.0.1", port=port, encoding="latin-1")
    async with server:
        await server.serve_forever()


asyncio.run(main())

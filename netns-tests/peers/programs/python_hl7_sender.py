"""A sender with python-hl7's client: PORT, then files of one message each; prints each answer in hex, or "failed"."""

import sys

from hl7.client import MLLPClient

with MLLPClient("127.0.0.1", int(sys.argv[1])) as client:
    client.socket.settimeout(8)
    for path in sys.argv[2:]:
        try:
            with open(path, "rb") as file:
                print("answer", client.send_message(file.read()).hex(), flush=True)
        except OSError:
            print("failed", flush=True)
            break

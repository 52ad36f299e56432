"""A receiver with hl7apy's server: PORT, and a file for what it read, one payload a line in hex."""

import sys

from hl7apy.mllp import AbstractErrorHandler, AbstractHandler, MLLPServer

port, record = int(sys.argv[1]), sys.argv[2]


def answered(text):
    with open(record, "a") as file:
        file.write(text.encode("utf-8").hex() + "\n")
    fields = text.split("\r")[0].split(text[3:4] or "|")
    control_id = fields[9] if len(fields) > 9 else ""
    ack = "MSH|^~\\&|B|B|A|A|20260101120000||ACK|A%s|T|2.5\rMSA|AA|%s\r"
    return "\x0b" + ack % (control_id, control_id) + "\x1c\r"


class Handler(AbstractHandler):
    def reply(self):
        return answered(self.incoming_message)


class Other(AbstractErrorHandler):
    def reply(self):
        return answered(self.incoming_message)


server = MLLPServer("127.0.0.1", port, {"ADT^A01": (Handler,), "ERR": (Other,)})
server.daemon_threads = True
server.serve_forever()

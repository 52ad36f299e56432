"""An HL7 sender or receiver that speaks MLLP Release 1 or 2, in any framing, with sockets alone.

What it does with the n-th block that it is to commit is the n-th word of --commits, then "ack": ack, nak, none, late (an
acknowledgement two seconds after the other side has given up), twice."""

import argparse
import os
import socket
import threading
import time

ACK, NAK = b"\x06", b"\x15"
NAMES = {ACK: "ACK", NAK: "NAK"}


class Leg:
    """Is a connection, as blocks."""

    def __init__(self, connection, arguments):
        self.connection, self.held = connection, b""
        self.start, self.end = bytes.fromhex(arguments.start), bytes.fromhex(arguments.end)

    def block(self, timeout):
        self.connection.settimeout(timeout)
        while self.end not in self.held:
            piece = self.connection.recv(65536)
            if not piece:
                raise ConnectionError("closed")
            self.held += piece
        block, self.held = self.held.split(self.end, 1)
        assert block.startswith(self.start), block
        return block[len(self.start) :]

    def say(self, payload):
        self.connection.sendall(self.start + payload + self.end)


class Script:
    """Says what becomes of the next block."""

    def __init__(self, words):
        self.words, self.lock = [word for word in words.split(",") if word], threading.Lock()

    def next(self):
        with self.lock:
            return self.words.pop(0) if self.words else "ack"


def commit(leg, word, timeout):
    """Commits a block; says whether it has it."""
    if word == "late":
        time.sleep(timeout + 2)
    if word == "nak":
        leg.say(NAK)
    elif word != "none":
        leg.say(ACK + (b"" if word != "twice" else leg.end + leg.start + ACK))
    return word not in ("nak", "none")


def field(payload, segment, number):
    for line in payload.split(b"\r"):
        if line.startswith(segment):
            return line.split(b"|")[number]
    return b""


def told(block):
    return NAMES.get(block) or f"{field(block, b'MSA', 1).decode()} {field(block, b'MSA', 2).decode()}"


def send(arguments):
    host, port = arguments.address.rsplit(":", 1)
    leg = Leg(socket.create_connection((host, int(port))), arguments)
    script = Script(arguments.commits)
    for number in range(arguments.count):
        head = f"MSH|^~\\&|HIS|NORTH|LAB|SOUTH|20260101120000||ORU^R01|T{number}|P|2.5{arguments.modes}\r"
        message = head.encode() + b"PID|1||4711\r"
        done = False
        for _ in range(3):
            leg.say(message)
            if arguments.release == 1:
                break
            # An answer is told and committed whenever it comes.
            while True:
                block = leg.block(arguments.timeout)
                if block in NAMES:
                    break
                print(told(block), flush=True)
                done = commit(leg, script.next(), arguments.timeout) or done
            print(told(block), flush=True)
            if block == ACK:
                break
            time.sleep(0.1)
        while not done and not arguments.modes.endswith("NE|NE"):
            try:
                block = leg.block(arguments.timeout)
            except ConnectionError as error:
                return print(error, flush=True)
            print(told(block), flush=True)
            done = arguments.release == 1 or commit(leg, script.next(), arguments.timeout)
    if arguments.linger:
        time.sleep(arguments.linger)
    print("goodbye", flush=True)


def receive(arguments):
    host, port = arguments.address.rsplit(":", 1)
    listener = socket.create_server((host, int(port)))
    script, count, lock = Script(arguments.commits), [0], threading.Lock()

    def keep(payload):
        with lock:
            name = os.path.join(arguments.payloads, "%06d" % count[0])
            count[0] += 1
        with open(name + ".part", "wb") as file:
            file.write(payload)
        os.rename(name + ".part", name)

    def serve(connection):
        leg = Leg(connection, arguments)
        try:
            while True:
                message = leg.block(None)
                if message in NAMES:
                    print("stray", told(message), flush=True)
                    continue
                keep(message)
                if arguments.release == 2 and not commit(leg, script.next(), arguments.timeout):
                    continue
                if arguments.mute:
                    continue
                control_id = field(message, b"MSH", 9)
                head = b"MSH|^~\\&|LAB|SOUTH|HIS|NORTH|20260101120001||ACK^R01|A" + control_id
                leg.say(head + b"|P|2.5\rMSA|AA|" + control_id + b"\r")
                if arguments.release == 2:
                    print("answer", told(leg.block(10)), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
        finally:
            connection.close()

    print("listens", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["send", "receive"])
parser.add_argument("address")
parser.add_argument("payloads", nargs="?")
parser.add_argument("--release", type=int, default=2)
parser.add_argument("--start", default="0b")
parser.add_argument("--end", default="1c0d")
parser.add_argument("--commits", default="")
parser.add_argument("--timeout", type=float, default=20)
parser.add_argument("--modes", default="")
parser.add_argument("--count", type=int, default=1)
parser.add_argument("--linger", type=float, default=0)
parser.add_argument("--mute", action="store_true")
arguments = parser.parse_args()
{"send": send, "receive": receive}[arguments.what](arguments)

"""An HL7 sender or receiver that speaks MLLP over TLS, by Python's ssl (OpenSSL) alone."""

import argparse
import os
import socket
import ssl
import sys
import threading

VERSIONS = {"1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def frames(connection):
    held = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            return
        held += piece
        while b"\x1c\r" in held:
            frame, held = held.split(b"\x1c\r", 1)
            yield frame[1:]


def control_id(payload):
    return payload.split(b"\r", 1)[0].split(b"|")[9]


def message(number):
    head = f"MSH|^~\\&|HIS|NORTH|LAB|SOUTH|20260101120000||ORU^R01|T{number}|P|2.5\rPID|1||4711\r"
    return head.encode()


def versions(context, arguments):
    if arguments.version:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = VERSIONS[arguments.version]
    if arguments.cert:
        context.load_cert_chain(arguments.cert, arguments.key)


def send(arguments):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(arguments.ca)
    versions(context, arguments)
    host, port = arguments.address.rsplit(":", 1)
    payloads = [message(number) for number in range(arguments.count)]
    if arguments.file:
        payloads = [open(arguments.file, "rb").read()]
    try:
        plain = socket.create_connection((host, int(port)), timeout=20)
        connection = context.wrap_socket(plain, server_hostname="localhost")
        answers = frames(connection)
        if arguments.pipelined:
            connection.sendall(b"".join(b"\x0b" + payload + b"\x1c\r" for payload in payloads))
        for payload in payloads:
            if not arguments.pipelined:
                connection.sendall(b"\x0b" + payload + b"\x1c\r")
            answer = next(answers)
            fields = answer.split(b"MSA|", 1)[1].split(b"\r", 1)[0].split(b"|")
            assert fields[1] == control_id(payload), answer
            print(fields[0].decode(), connection.version(), flush=True)
            if arguments.wait:
                sys.stdout.flush()
                while not os.path.exists(arguments.wait):
                    threading.Event().wait(0.02)
        connection.unwrap()
        print("goodbye")
    except (OSError, StopIteration) as error:
        print(type(error).__name__, getattr(error, "reason", ""))


def half(arguments):
    """Ends its own direction of TLS behind the message, then reads the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(arguments.ca)
    versions(context, arguments)
    host, port = arguments.address.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), timeout=20)
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(came, goes, server_hostname="localhost")

    def settle(step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                plain.sendall(goes.read())
                piece = plain.recv(65536)
                if piece:
                    came.write(piece)
                else:
                    came.write_eof()

    settle(session.do_handshake)
    session.write(b"\x0b" + message(0) + b"\x1c\r")
    try:
        session.unwrap()
    except ssl.SSLWantReadError:
        pass  # the alert is written, the other side's has not come
    answer = settle(lambda: session.read(65536))
    print(answer.split(b"MSA|", 1)[1].split(b"\r", 1)[0].split(b"|")[0].decode(), session.version())
    settle(session.unwrap)
    print("goodbye")


def hold(arguments):
    """Holds many connections that say nothing, until it is killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    host, port = arguments.address.rsplit(":", 1)
    held = []
    for _ in range(arguments.count):
        plain = socket.create_connection((host, int(port)), timeout=20)
        if arguments.ca:
            context.load_verify_locations(arguments.ca)
            plain = context.wrap_socket(plain, server_hostname="localhost")
        plain.sendall(b"\x0b" + message(0) + b"\x1c\r")
        next(frames(plain))
        held.append(plain)
    print("holds", flush=True)
    threading.Event().wait()


def receive(arguments):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    versions(context, arguments)
    if arguments.ca:
        context.load_verify_locations(arguments.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    host, port = arguments.address.rsplit(":", 1)
    listener = socket.create_server((host, int(port)))
    count, lock = [0], threading.Lock()

    def serve(plain):
        try:
            connection = context.wrap_socket(plain, server_side=True)
            for payload in frames(connection):
                with lock:
                    name = os.path.join(arguments.payloads, "%06d" % count[0])
                    count[0] += 1
                with open(name + ".part", "wb") as file:
                    file.write(payload)
                os.rename(name + ".part", name)
                head = b"MSH|^~\\&|LAB|SOUTH|HIS|NORTH|20260101120001||ACK^R01|A" + control_id(payload)
                answer = head + b"|P|2.5\rMSA|AA|" + control_id(payload) + b"\r"
                connection.sendall(b"\x0b" + answer + b"\x1c\r")
            connection.unwrap()
        except OSError as error:
            print(type(error).__name__, getattr(error, "reason", ""), flush=True)
        finally:
            plain.close()

    print("listens", flush=True)
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=serve, args=(plain,), daemon=True).start()


parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["send", "half", "hold", "receive"])
parser.add_argument("address")
parser.add_argument("payloads", nargs="?")
parser.add_argument("--ca")
parser.add_argument("--cert")
parser.add_argument("--key")
parser.add_argument("--version")
parser.add_argument("--file")
parser.add_argument("--wait")
parser.add_argument("--count", type=int, default=1)
parser.add_argument("--pipelined", action="store_true")
arguments = parser.parse_args()
{"send": send, "half": half, "hold": hold, "receive": receive}[arguments.what](arguments)

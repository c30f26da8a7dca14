"""Asks what its standard input says, with gRPC's own client for Python, and prints what came of it.

in:  {"target", "ca", "certificate", "key": PEM or absent, "calls": [{"method", "request": hex, "times", "stream"}]}
out: [{"answers": {hex: how often}, "errors": {code: how often}}], one for each call
"""
import collections
import json
import sys

import grpc


def connect(to):
    if not to.get("ca"):
        return grpc.insecure_channel(to["target"])
    pem = [to[name].encode() if to.get(name) else None for name in ("ca", "key", "certificate")]
    return grpc.secure_channel(to["target"], grpc.ssl_channel_credentials(*pem))


def ask(channel, call):
    answers, errors = collections.Counter(), collections.Counter()
    request = bytes.fromhex(call["request"])
    if call.get("stream"):
        method = channel.stream_stream(call["method"])
        answers.update(a.hex() for a in method(iter([request]), timeout=30))
        return {"answers": answers, "errors": errors}
    method = channel.unary_unary(call["method"])
    for start in range(0, call["times"], 64):
        together = [method.future(request, timeout=30) for _ in range(start, min(start + 64, call["times"]))]
        for answer in together:
            try:
                answers[answer.result().hex()] += 1
            except grpc.RpcError as error:
                errors[error.code().name] += 1
    return {"answers": answers, "errors": errors}


given = json.load(sys.stdin)
with connect(given) as channel:
    json.dump([ask(channel, call) for call in given["calls"]], sys.stdout)

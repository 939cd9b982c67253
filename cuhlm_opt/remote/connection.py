"""A channel to a server, and streams of requests and replies with deadlines."""

import json
import queue
import threading
from dataclasses import dataclass
from typing import Any

import grpc

from cuhlm_opt.errors import CodecError, InputError, RunError
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.access import is_loopback, split_address

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}
"""What asking again would not change."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Between two attempts to reach a server: the wait doubles."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a device waits."""

    deadline_s: float = 60.0
    """For one reply."""
    offline_after_s: float = 30.0
    """For a server that does not answer, from the first fault on."""


class FaultError(Exception):
    """The conversation broke; asking again may help."""


class Connection:
    """A channel to a server, whose model was checked to share the device's vocabulary once `describe` returned.

    Args:
        address: HOST:PORT.
        slm: the device's model.
        tls: root certificates in PEM; empty for those of the system; None for no TLS, on loopback only.
        token: shown to the server.
        patience: how long to wait.

    Raises:
        InputError: the address is none, or not loopback without TLS.
    """

    def __init__(
        self,
        address: str,
        slm: LanguageModel,
        *,
        tls: bytes | None = None,
        token: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        host, _ = split_address(address, "--verifier")
        if tls is None and not is_loopback(host):
            raise InputError(f"--verifier {address!r} is no loopback address: it needs --tls or --tls-ca")
        self.address, self.slm, self.patience = address, slm, patience or Patience()
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        options = [
            ("grpc.max_receive_message_length", 2**20),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", int(1e3 * FIRST_WAIT_S)),
            ("grpc.max_reconnect_backoff_ms", int(1e3 * LONGEST_WAIT_S)),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(tls or None), options)
        self._description: pb.DescribeReply | None = None
        self._vocabulary = b""
        self.provenance: dict[str, Any] = {}
        """Of the model that was last described, as far as it told."""

    def describe(self) -> pb.DescribeReply:
        """What the server is, asked once.

        Raises:
            FaultError: it does not answer.
            InputError: it has another vocabulary.
            RunError: it refuses.
        """
        if self._description is None:
            size = self.slm.vocab_size
            call = self._channel.unary_unary(messages.DESCRIBE)
            request = pb.DescribeRequest(vocab_size=size).SerializeToString()
            try:
                data = call(request, timeout=self.patience.deadline_s, metadata=self._metadata)
                found = messages.parsed(pb.DescribeReply, data)
            except grpc.RpcError as error:
                raise self.failure(error) from None
            except CodecError:
                raise FaultError("it answers nonsense") from None
            self._vocabulary = self._vocabulary or messages.vocabulary_sha256(self.slm, size)
            if found.vocab_size != size or found.vocabulary_sha256 != self._vocabulary:
                raise InputError(
                    f"--verifier {self.address!r} has {found.model!r}, of another vocabulary than the SLM's"
                )
            self._description, self.provenance = found, _told(found.provenance_json)
        return self._description

    def forget(self) -> None:
        """Ask the server anew what it is, before the next conversation."""
        self._description = None

    def open(self) -> "Stream":
        """A stream for one conversation."""
        return Stream(self, self._channel.stream_stream(messages.CONVERSE), self._metadata)

    def failure(self, error: grpc.RpcError) -> RunError | FaultError:
        """What to raise for a call that failed."""
        code, details = error.code(), " ".join((error.details() or "").split())
        if code in _REFUSALS:
            return RunError(f"verifier {self.address} refuses: {details or code.name}")
        return FaultError(f"{code.name.lower().replace('_', ' ')}" + (f" ({details[:200]})" if details else ""))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


class Stream:
    """Requests out, replies in, with a deadline for each."""

    def __init__(self, connection: Connection, method: Any, metadata: Any) -> None:
        self._connection = connection
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes | RunError | FaultError] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, request: bytes) -> None:
        """Put a request on its way."""
        self._requests.put(request)

    def reply(self, deadline_s: float) -> bytes:
        """The next reply.

        Raises:
            FaultError: it does not come in time, or the conversation broke.
            RunError: the server refuses.
        """
        try:
            reply = self._replies.get(timeout=deadline_s)
        except queue.Empty:
            raise FaultError(f"no reply within {deadline_s:g} s") from None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, *, politely: bool) -> None:
        """End the conversation, or drop it."""
        self._requests.put(None)
        if not politely:
            self._call.cancel()

    def _receive(self) -> None:
        try:
            for reply in self._call:
                self._replies.put(reply)
            self._replies.put(FaultError("it hung up"))
        except grpc.RpcError as error:
            self._replies.put(self._connection.failure(error))


def _told(provenance_json: str) -> dict[str, Any]:
    try:
        told = json.loads(provenance_json)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}

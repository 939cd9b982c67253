"""Listening: address, TLS, bearer token, health, limits, and an end that lets answers finish."""

import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.models.protocol import LanguageModel
from cuhlm_opt.remote.access import is_loopback, split_address
from cuhlm_opt.remote.messages import SERVICE
from cuhlm_opt.remote.service import VerifierService

_SPARE_THREADS = 8
"""For health and descriptions, and for refusing conversations."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A server's certificate chain and private key, PEM."""

    certificate: bytes
    key: bytes


class Server:
    """A verifier that listens from the start.

    Args:
        llm: the large model.
        name: of it, for whoever asks.
        address: HOST:PORT; port 0 takes a free one.
        tls: without it the connection is not encrypted.
        token: what a client must show; without it anyone may ask.
        conversations: most of them at a time.
        idle_s: a conversation that asks for nothing for so long is ended.
        max_message_bytes: a longer request is refused.

    Raises:
        InputError: the address is none, or no loopback address and TLS or token are missing.
        RunError: the address cannot be listened on.
    """

    def __init__(
        self,
        llm: LanguageModel,
        name: str,
        address: str,
        *,
        tls: Tls | None = None,
        token: str | None = None,
        conversations: int = 64,
        idle_s: float = 600.0,
        max_message_bytes: int = 4 * 2**20,
    ) -> None:
        host = require_allowed(address, tls, token)
        self.service = VerifierService(llm, name, conversations=conversations, idle_s=idle_s)
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(conversations + _SPARE_THREADS),
            interceptors=[] if token is None else [_Token(token)],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self._server.add_generic_rpc_handlers((self.service,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([(tls.key, tls.certificate)])
                bound = self._server.add_secure_port(address, credentials)
        except (RuntimeError, ValueError):
            bound = 0
        if not bound:
            raise RunError(
                f"cannot listen on {address}: the address is taken, or not this machine's, or the key is bad"
            )
        self.address = f"{host}:{bound}"
        self._server.start()
        for served in ("", SERVICE):
            self._health.set(served, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> None:
        """Take no more calls, give the running ones `grace_s` seconds, and end the rest."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()


def require_allowed(address: str, tls: Tls | None, token: str | None) -> str:
    """The host of an address to listen on; InputError for one that is not loopback, without TLS or token."""
    host, _ = split_address(address, "--listen")
    if not is_loopback(host) and (tls is None or token is None):
        raise InputError(f"--listen {address!r} is no loopback address: it needs --tls-cert, --tls-key and --token")
    return host


class _Token(grpc.ServerInterceptor):
    """Refuses every call without the bearer token, health as well: a call that sends nothing would keep a thread."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal = grpc.stream_stream_rpc_method_handler(_unauthenticated)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        shown = dict(details.invocation_metadata).get("authorization", "")
        given = shown.encode() if isinstance(shown, str) else shown
        return continuation(details) if hmac.compare_digest(given, self._expected) else self._refusal


def _unauthenticated(requests: object, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")

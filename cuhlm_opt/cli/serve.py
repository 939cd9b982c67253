"""`cuhlm-opt serve`."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from cuhlm_opt.errors import InputError
from cuhlm_opt.remote.access import read_secret, read_token
from cuhlm_opt.units import parse_wait_s


def serve(
    pair: Annotated[str | None, typer.Option(help="Serve this pair's LLM; see `pairs list`.")] = None,
    llm: Annotated[str | None, typer.Option(help="LLM: hub id, folder or GGUF file, instead of --pair.")] = None,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Another address than a loopback one needs TLS and a token.")
    ] = "127.0.0.1:50051",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    token: Annotated[Path | None, typer.Option(help="File with the bearer token that clients must show.")] = None,
    lanes: Annotated[int, typer.Option(help="Conversations whose caches are kept.", min=1)] = 8,
    conversations: Annotated[int, typer.Option(help="Conversations at a time.", min=1)] = 64,
    idle: Annotated[str, typer.Option(help="End a conversation that asks for nothing for so long.")] = "600s",
    grace: Annotated[str, typer.Option(help="Time for running answers when stopped.")] = "10s",
    max_message: Annotated[int, typer.Option(help="Bytes of the longest request.", min=1024)] = 4 * 2**20,
    backend: Annotated[str | None, typer.Option(help="llama.cpp or transformers.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (transformers).")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (transformers).")] = "float32",
    context_length: Annotated[int, typer.Option(help="Tokens of prompt and answer.", min=8)] = 2048,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.", min=1)] = None,
    shared_cache: Annotated[
        bool, typer.Option("--shared-cache", help="Faster for many devices; laws depend on each other by rounding.")
    ] = False,
) -> None:
    """Answer devices: the LLM as a verifier, over gRPC, until SIGINT or SIGTERM."""
    from cuhlm_opt.cli.progress import note
    from cuhlm_opt.models.pairs import load_model
    from cuhlm_opt.remote.serving import Server, Tls, require_allowed

    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key go together")
    encrypted = (
        None
        if tls_cert is None or tls_key is None
        else Tls(certificate=read_secret(tls_cert, "--tls-cert"), key=read_secret(tls_key, "--tls-key"))
    )
    shown = None if token is None else read_token(token)
    idle_s, grace_s = parse_wait_s(idle, "--idle"), parse_wait_s(grace, "--grace")
    require_allowed(listen, encrypted, shown)
    name, model = load_model(
        "llm",
        pair,
        source=llm,
        backend=backend,
        device=device,
        dtype=dtype,
        lanes=lanes,
        context_length=context_length,
        threads=threads,
        shared_cache=shared_cache,
    )
    try:
        server = Server(
            model,
            name,
            listen,
            tls=encrypted,
            token=shown,
            conversations=conversations,
            idle_s=idle_s,
            max_message_bytes=max_message,
        )
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        note(f"serving the LLM of {name} on {server.address}")
        while not stopped.wait(0.5):  # another thread may be given the signal
            pass
        note("stopping")
        server.stop(grace_s)
    finally:
        model.close()

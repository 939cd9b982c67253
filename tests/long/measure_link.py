"""Device and server on a shaped link: throughput, bytes, passes and bias of every mode, beside what `solve` foretells.

    python tests/long/measure_link.py --out figures/measured/link.json

As root, the two processes run in network namespaces of their own, joined by a veth pair whose ends `tc tbf` shapes; a
relay beside the server adds the delay. Without root, or with --relay, everything is on loopback and the relay shapes as
well, with a token bucket. The report says which. Everything is torn down in the end.

Each side has its own half of the processors. Compute times are measured first, on such a half, as `calibrate` does, and
given to `solve`; all else is the shipped calibration's. Every cell is solved for its link and decoded on prompts that
were not recorded. `solved` is the throughput that `solve` states; `priced` is that of the steps that were taken, at
these compute times and the link's nominal rate, round trip and overhead: what is left between it and `measured` is the
model of the link and of the machine, what is between it and `solved` is the luck of few tokens. Cells that are there
are kept: the run resumes.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cuhlm_opt.artefacts import Calibration, OperatingPoint
from cuhlm_opt.calibrate.prompts import load_prompts
from cuhlm_opt.calibrate.times import measure_times
from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.errors import InfeasibleError
from cuhlm_opt.latency import ComputeTimes
from cuhlm_opt.models.pairs import load_model, load_pair
from cuhlm_opt.modes import Mode
from cuhlm_opt.records import write_atomically
from cuhlm_opt.remote.access import read_token
from cuhlm_opt.remote.client import decode_remotely
from cuhlm_opt.remote.connection import Connection, Patience
from cuhlm_opt.solve import solve
from cuhlm_opt.solve.load import CALIBRATION, find_calibration

RATES_BPS, DELAYS_S = (100e3, 1e6, 10e6, 100e6), (0.0, 0.04)
MODES = tuple(map(str, Mode))
DOMAIN, SOURCE, BUDGET = "code", "stdlib", 0.02
SERVER, DEVICE, PORT, RELAY_PORT = "10.77.0.2", "10.77.0.1", 50051, 50052
ETHERNET = 1448 / 1514
"""Share of a full frame that is TCP's content."""
SENT_BYTES, RETURNED_BYTES = 24 + 29 + 66 + 40, 24 + 29 + 66 + 20
"""Around a message and of a reply: HTTP/2 and gRPC, a TLS record, Ethernet, IP and TCP, and tokens and flags."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One answer."""

    point: str
    prompt: str
    seed: int
    max_tokens: int
    port: int


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pair", default="qwen2.5-coder")
    parser.add_argument("--skip", type=int, default=400, help="first prompts, which were recorded")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=250.0, help="a cell that is foretold to take longer is cut")
    parser.add_argument("--rate", type=float, action="append", help="bit/s; repeatable; none: 1e5, 1e6, 1e7, 1e8")
    parser.add_argument("--delay", type=float, action="append", help="s; repeatable; none: 0 and 0.04")
    parser.add_argument("--mode", action="append", choices=MODES, help="repeatable; none: all")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="of each side")
    parser.add_argument("--relay", action="store_true", help="shape by the relay, on loopback")
    parser.add_argument("--role", choices=["device", "relay"], help="what this process is; none: it runs the others")
    parser.add_argument("--address", nargs="*", default=[])
    parser.add_argument("--secrets", type=Path)
    parser.add_argument(
        "--shape", type=float, nargs=2, default=(0.0, 0.0), help="delay in s, rate in bit/s, 0 for none"
    )
    given = parser.parse_args()
    if given.role == "device":
        return be_device(given.pair, given.address[0], given.secrets, given.threads)
    if given.role == "relay":
        asyncio.run(be_relay(given.address[0], given.address[1], *given.shape))
        return 0
    measure(given)
    return 0


def measure(given: argparse.Namespace) -> None:
    """Every cell that is not there."""
    namespaces = os.geteuid() == 0 and not given.relay
    calibration = Calibration.read(find_calibration(given.pair) / CALIBRATION)
    prompts = [prompt.text for prompt in load_prompts(SOURCE)[given.skip : given.skip + given.prompts]]
    own: dict[str, Any] = {
        "records_sha256": calibration.records_sha256, "domain": DOMAIN, "max_bias": BUDGET,
        "max_tokens": given.max_tokens,
        "shaped_by": "network namespaces and tc tbf" if namespaces else "a relay with a token bucket",
    }  # fmt: skip
    found = {"recorded": {calibration.id: own}}
    if given.out.exists():
        found = json.loads(given.out.read_text())
        kept = found["recorded"].get(calibration.id, {})
        if any(kept.get(key) != value for key, value in own.items()):
            raise SystemExit(f"--out {given.out} holds another run")
        own = kept
    else:
        own |= {"times": measured_times(given.pair, given.threads, prompts[0]), "cells": []}
    done = {(cell["rate_bps"], cell["delay_s"], cell["mode"]) for cell in own["cells"]}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # tear down
    with ExitStack() as stack:
        secrets = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_secrets(secrets)
        if namespaces:
            stack.enter_context(two_namespaces())
        host = SERVER if namespaces else "127.0.0.1"
        halves = {"device": range(given.threads), "server": range(given.threads, 2 * given.threads)}
        inside = [
            [
                *(["ip", "netns", "exec", f"cuhlm-{side}"] if namespaces else []),
                "taskset",
                "-c",
                processors(halves[side]),
            ]
            for side in ("server", "device")
        ]
        server = stack.enter_context(running(
            [*inside[0], sys.executable, "-m", "cuhlm_opt", "serve", "--pair", given.pair, "--listen",
             f"{host}:{PORT}", "--tls-cert", str(secrets / "cert"), "--tls-key", str(secrets / "key"), "--token",
             str(secrets / "token"), "--lanes", "1", "--threads", str(given.threads)],
        ))  # fmt: skip
        me = [
            sys.executable,
            __file__,
            "--pair",
            given.pair,
            "--threads",
            str(given.threads),
            "--secrets",
            str(secrets),
        ]
        device = stack.enter_context(running([*inside[1], *me, "--role", "device", "--address", host]))
        wait_for(server, "serving")
        for delay_s in given.delay or DELAYS_S:
            for rate_bps in given.rate or RATES_BPS:
                todo = [mode for mode in given.mode or MODES if (rate_bps, delay_s, mode) not in done]
                if not todo:
                    continue
                with ExitStack() as cell:
                    port = PORT
                    if namespaces:
                        shape(rate_bps)
                    if delay_s or not namespaces:
                        port = RELAY_PORT
                        relayed = [str(delay_s), "0" if namespaces else str(rate_bps)]
                        relay = cell.enter_context(running([
                            *inside[0][:-3], *me, "--role", "relay", "--address", f"{host}:{port}", f"{host}:{PORT}",
                            "--shape", *relayed,
                        ]))  # fmt: skip
                        wait_for(relay, "relaying")
                    for mode in todo:
                        row = measured(given, device, prompts, own["times"], rate_bps, delay_s, mode, port, secrets)
                        if row is not None:
                            print(json.dumps(row), file=sys.stderr, flush=True)
                            own["cells"].append(row)
                            write_atomically(given.out, json.dumps(found, indent=2) + "\n")


def measured(
    given: argparse.Namespace, device: "subprocess.Popen[str]", prompts: list[str], times: dict[str, float],
    rate_bps: float, delay_s: float,
    mode: str, port: int, secrets: Path,
) -> dict[str, Any] | None:  # fmt: skip
    """One mode on one link."""
    link = {
        "bandwidth_hz": rate_bps * ETHERNET, "snr_db": 0.0, "rtt_s": delay_s,
        "overhead_bits": 8 * SENT_BYTES * ETHERNET, "downlink_s": 8 * RETURNED_BYTES / rate_bps,
    }  # fmt: skip
    try:
        point = solve(
            given.pair, domain=DOMAIN, mode=mode, max_bias=BUDGET, answer_tokens=given.max_tokens, **link, **times
        )  # fmt: skip
    except InfeasibleError as error:
        print(f"{rate_bps:g} {delay_s:g} {mode}: {error}", file=sys.stderr)
        return None
    path = secrets / "point.json"
    point.write(path)
    speed = point.throughput_tokens_per_s or 1.0
    tokens = given.max_tokens
    while tokens > 8 and tokens * len(prompts) / speed > given.seconds:
        tokens //= 2
    answers = [
        ask(device, Job(point=str(path), prompt=prompt, seed=seed, max_tokens=tokens, port=port))
        for seed, prompt in enumerate(prompts)
    ]
    n = sum(answer["n_tokens"] for answer in answers)

    def total(name: str) -> float:
        return sum(answer[name] for answer in answers)

    return {
        "rate_bps": rate_bps, "delay_s": delay_s, "mode": mode, "n_tokens": n, "answers": len(answers),
        "measured_tokens_per_s": n / total("seconds"), "priced_tokens_per_s": n / total("priced_seconds"),
        "solved_tokens_per_s": point.throughput_tokens_per_s,
        "seconds": {name: total(name) / n for name in ("slm", "gate", "llm", "link", "priced_link", "priced_compute")},
        "skip_rate": total("skipped") / n, "solved_skip_rate": point.skip_rate,
        "passes_per_token": total("passes") / n,
        "codec_bytes_per_token": total("codec_bytes") / n, "wire_bytes_per_token": total("sent_bytes") / n,
        "interface_bytes_per_token": None if answers[0]["interface_bytes"] is None else total("interface_bytes") / n,
        "returned_bytes_per_token": total("received_bytes") / n,
        "bias": total("bias") / n if all(answer["bias"] is not None for answer in answers) else None,
        "solved_bias": point.bias_total, "reconnects": int(total("reconnects")),
    }  # fmt: skip


def measured_times(pair: str, threads: int, prompt: str) -> dict[str, float]:
    """Compute times as `solve` takes them: a step of the SLM, the gate, and an LLM pass over one token."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(threads))
    models = load_pair(pair, threads=threads)
    try:
        times = measure_times(models, models.llm.chat_tokens(prompt))
    finally:
        models.close()
        os.sched_setaffinity(0, everywhere)
    return {"slm_s": times.slm_s, "gate_s": times.gate_s, "llm_s": times.llm_pass_s[1]}


def processors(numbers: range) -> str:
    """As taskset takes them."""
    return ",".join(str(number % (os.cpu_count() or 1)) for number in numbers)


def ask(device: "subprocess.Popen[str]", job: Job) -> dict[str, Any]:
    """Have the device answer one prompt."""
    assert device.stdin is not None
    assert device.stdout is not None
    device.stdin.write(json.dumps(asdict(job)) + "\n")
    device.stdin.flush()
    line = device.stdout.readline()
    if not line:
        raise RuntimeError("the device's process has ended")
    return dict(json.loads(line))


def be_device(pair: str, host: str, secrets: Path, threads: int) -> int:
    """Answer jobs from stdin, a line of figures each."""
    _, slm = load_model("slm", pair, threads=threads)
    connections: dict[int, Connection] = {}
    for line in sys.stdin:
        job = Job(**json.loads(line))
        if job.port not in connections:
            connections[job.port] = Connection(
                f"{host}:{job.port}", slm, tls=(secrets / "cert").read_bytes(), token=read_token(secrets / "token"),
                patience=Patience(deadline_s=600.0, offline_after_s=600.0),
            )  # fmt: skip
        point = OperatingPoint.read(Path(job.point))
        if point.mode is Mode.SLM:
            figures = alone(slm, pair, point, job)
        else:
            connections[job.port].describe()  # its bytes are not the answer's
            before = interface_bytes()
            result = decode_remotely(
                connections[job.port], point, job.prompt, pair=pair, seed=job.seed, max_tokens=job.max_tokens,
                feedback=True,
            )  # fmt: skip
            after = interface_bytes()
            figures = figures_of(result)
            figures["interface_bytes"] = None if before is None or after is None else after - before
        print(json.dumps(figures), flush=True)
    return 0


def alone(slm: Any, pair: str, point: OperatingPoint, job: Job) -> dict[str, Any]:
    """Mode slm, which asks no server."""
    from cuhlm_opt.decode.loop import decode
    from cuhlm_opt.models.pairs import Pair

    result = decode(Pair(name=pair, slm=slm, llm=slm), point, job.prompt, seed=job.seed, max_tokens=job.max_tokens)
    return figures_of(result) | {"interface_bytes": 0}


def figures_of(result: DecodeResult) -> dict[str, Any]:
    """Sums over one answer."""
    times, n, mode = result.point.times, len(result.steps), result.point.mode
    assert times is not None
    compute = ComputeTimes(slm_s=times.slm_s, gate_s=times.gate_s, llm_pass_s=times.llm_pass_s)
    passes = [step.read for step in result.steps if step.read > 0]
    drafted = {Mode.LLM: 0, Mode.SPECULATIVE: sum(step.drafted for step in result.uploads)}.get(mode, n)
    priced_compute = drafted * compute.device_s(mode) + sum(float(compute.llm_s(read)) for read in passes)
    priced_link = replace(result, traffic=None).link_s
    wire = result.to_json()["wire"] or {"sent_bytes": 0, "received_bytes": 0, "codec_bytes": 0, "reconnects": 0}
    parts = [entry.value for entry in result.ledger()[:3]]
    return {
        **{name: wire[name] for name in ("sent_bytes", "received_bytes", "codec_bytes", "reconnects")},
        **{name: result.seconds.get(name, 0.0) for name in ("slm", "gate", "llm")},
        "link": result.link_s if result.traffic is not None else 0.0,
        "n_tokens": n, "skipped": sum(step.skipped for step in result.steps), "passes": len(passes),
        "seconds": result.compute_s + (result.link_s if result.traffic is not None else 0.0),
        "priced_compute": priced_compute, "priced_link": priced_link, "priced_seconds": priced_compute + priced_link,
        "bias": None if None in parts else n * sum(part or 0.0 for part in parts),
    }  # fmt: skip


def interface_bytes() -> int | None:
    """Bytes that left through the veth end in this namespace; None without one."""
    with suppress(OSError):
        return int(Path("/sys/class/net/cuhlm0/statistics/tx_bytes").read_text())
    return None


async def be_relay(listen: str, to: str, delay_s: float, rate_bps: float) -> None:
    """Pass bytes on, half the delay later each way, and no faster than the rate, if there is one."""

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def release() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        releasing = asyncio.create_task(release())
        free = 0.0
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                free = max(free, time.monotonic()) + (8 * len(data) / rate_bps if rate_bps else 0.0)
                waiting.put_nowait((free + delay_s / 2, data))
                await asyncio.sleep(max(0.0, free - time.monotonic()))
        waiting.put_nowait((time.monotonic() + delay_s / 2, b""))
        with suppress(ConnectionError):
            await releasing

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = to.rpartition(":")
        other_reader, other_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(passed_on(reader, other_writer), passed_on(other_reader, writer))

    host, _, port = listen.rpartition(":")
    relay = await asyncio.start_server(joined, host, int(port))
    print("relaying", file=sys.stderr, flush=True)
    await relay.serve_forever()


@contextmanager
def two_namespaces() -> Iterator[None]:
    """`cuhlm-server` and `cuhlm-device`, joined by a veth pair."""
    ends = {"cuhlm-device": ("cuhlm0", DEVICE), "cuhlm-server": ("cuhlm1", SERVER)}
    try:
        for name in ends:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "cuhlm0", "netns", "cuhlm-device", "type", "veth", "peer", "name", "cuhlm1",
            "netns", "cuhlm-server")  # fmt: skip
        for name, (end, address) in ends.items():
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", end)
            run("ip", "-n", name, "link", "set", end, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in ends:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def shape(rate_bps: float) -> None:
    """Give both ends of the veth pair a rate."""
    burst = max(1600, int(rate_bps / 8 / 1000))  # a frame, or a millisecond
    for name, end in (("cuhlm-device", "cuhlm0"), ("cuhlm-server", "cuhlm1")):
        run("tc", "-n", name, "qdisc", "replace", "dev", end, "root", "tbf", "rate", f"{rate_bps:.0f}bit", "burst",
            str(burst), "limit", str(2**21))  # fmt: skip


def make_secrets(folder: Path) -> None:
    """A self-signed certificate and a token."""
    names = f"subjectAltName=IP:{SERVER},IP:127.0.0.1"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=verifier", "-addext",
        names, "-keyout", str(folder / "key"), "-out", str(folder / "cert"))  # fmt: skip
    (folder / "token").write_text(os.urandom(16).hex())


def run(*command: str) -> None:
    """Run a command, or say why it failed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def running(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process, killed in the end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: "subprocess.Popen[str]", word: str) -> None:
    """Until a line on stderr begins with `word`."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith(word):
            return
    raise RuntimeError(f"a process has ended: {''.join(said)}")


if __name__ == "__main__":
    sys.exit(main())

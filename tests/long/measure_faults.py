"""What a verifier bears: frames that no device sends, and its own death in the middle of answers.

Each frame is a conversation of random bytes, of genuine requests that were damaged, put out of order or set out of
range: it must be refused as malformed or answered, and genuine conversations in between, at the end as well, must be
answered. Then `serve` is killed at random moments during answers of all modes and started again on its port: every
answer must be complete, none of its tokens unverified, with what was shown before the fault unchanged and as it would
have been without one.

python tests/long/measure_faults.py --out faults.json
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "remote"))

from frames import Frames, answered_to, conversations, genuine
from remote_fakes import STEADY, VARIANTS, alone, ask, converse, lasting
from served_process import Served, resident_bytes

from cuhlm_opt.modes import Mode
from cuhlm_opt.records import write_atomically

CONTEXT, MOST, PAUSE_S, STREAM_S = 64, 40, 0.01, 0.04
EVERY, SHOWN = 100, 20
"""Genuine conversations are between so many frames; so many failures are shown."""


def main() -> int:
    """Write the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Any] = {"seed": given.seed}
    for name, measure, n in (("frames", measured_frames, given.frames), ("kills", measured_kills, given.kills)):
        found[name] = measure(n, np.random.default_rng([given.seed, len(found)]))
        write_atomically(given.out, json.dumps(found, indent=2) + "\n")
    wrong = [*found["frames"]["wrong"], *found["frames"]["server_wrote"], *found["kills"]["wrong"]]
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


def measured_frames(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """How frames were taken, by their kind."""
    recorded = genuine()
    server = Served("--lanes", "2", "--conversations", "4", "--context-length", str(CONTEXT))
    try:
        with grpc.insecure_channel(server.address) as channel:
            require_answers(channel, recorded)
            before, start = resident_bytes(server.process.pid), time.monotonic()
            outcomes: dict[str, Counter[str]] = {}
            stream, wrong = conversations(rng, recorded), []
            for index in range(n):
                kind, frames = next(stream)
                code, what = answered_to(channel, kind, frames)
                outcomes.setdefault(kind, Counter())[code] += 1
                if what is not None and len(wrong) < SHOWN:
                    wrong.append(what)
                if index % EVERY == 0:
                    require_answers(channel, [recorded[index // EVERY % len(recorded)]])
                if index % 5000 == 0:
                    print(f"{index} of {n} frames", file=sys.stderr, flush=True)
            seconds = time.monotonic() - start
            require_answers(channel, recorded)
        after, lines = resident_bytes(server.process.pid), server.said.splitlines()
    finally:
        server.kill()
    codes = sum(outcomes.values(), Counter())
    return {
        "frames": n, "by_code": dict(codes), "frames_per_s": n / seconds,
        "genuine_conversations_between": len(range(0, n, EVERY)), "context_length": CONTEXT,
        "by_kind": {kind: dict(outcomes[kind]) for kind in sorted(outcomes)},
        "wrong": wrong, "server_wrote": lines[1 : 1 + SHOWN],
        "resident_bytes_before": before, "resident_bytes_after": after,
    }  # fmt: skip


def require_answers(channel: grpc.Channel, recorded: list[Frames]) -> None:
    """Genuine conversations are answered to their end."""
    for frames in recorded:
        code, details, replies = converse(channel, frames)
        assert (code, details) == ("OK", ""), (code, details)
        assert len(replies) >= len(frames)


def measured_kills(n: int, rng: np.random.Generator) -> dict[str, Any]:
    """What became of answers whose server was killed."""
    names = [*VARIANTS]
    server = Served()
    address, rows = server.address, []
    try:
        for index in range(n):
            row, server = killed(server, address, names[index % len(names)], rng)
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
    finally:
        server.kill()
    return {
        "kills": n, "max_tokens": MOST, "answers_complete": sum(row["is_complete"] for row in rows),
        "answers_that_met_a_fault": sum(row["faults"] > 0 for row in rows),
        "reconnects": sum(row["reconnects"] for row in rows), "tokens": sum(row["tokens"] for row in rows),
        "tokens_unverified": sum(row["tokens_unverified"] for row in rows),
        "wrong": [f"{row['point']} after {row['moment_s']} s" for row in rows if not row["is_complete"]],
        "answers": rows,
    }  # fmt: skip


def killed(server: Served, address: str, name: str, rng: np.random.Generator) -> tuple[dict[str, Any], Served]:
    """One answer whose server is killed at some moment of it and started again: what it was, and the new server.

    A server that streams is ahead of what is shown, so that its moments are earlier.
    """
    at, seed = VARIANTS[name], lasting(name, 20)
    undisturbed = alone(at, seed=seed)
    span_s = STREAM_S if at.mode is Mode.LLM else PAUSE_S * len(undisturbed.text)
    moment_s = float(rng.uniform(0.0, span_s))
    shown, at_faults = [""], []
    servers = [server]

    def on_text(text: str) -> None:
        shown[0] += text
        time.sleep(PAUSE_S)

    def kill() -> None:
        time.sleep(moment_s)
        servers[0].kill()
        servers.append(Served(listen=address))

    killer = threading.Thread(target=kill)
    killer.start()
    result = ask(
        address, at, seed=seed, max_tokens=MOST, on_text=on_text, patience=STEADY,
        notify=lambda text: at_faults.append(shown[0]),
    )  # fmt: skip
    killer.join()
    assert result.traffic is not None
    unverified = result.to_json()["tokens_unverified"]
    before = at_faults[0] if at_faults else undisturbed.text
    unchanged = result.text == shown[0] and all(text.startswith(before) for text in (result.text, undisturbed.text))
    row = {
        "point": name, "moment_s": moment_s, "faults": len(at_faults), "letters_before": len(before),
        "tokens": len(result.steps), "tokens_unverified": unverified, "reconnects": result.traffic.reconnects,
        "finish_reason": result.finish_reason, "is_complete": unchanged and unverified == 0,
    }  # fmt: skip
    return row, servers[-1]


if __name__ == "__main__":
    sys.exit(main())

"""`cuhlm-opt serve` as a process, and `cuhlm-opt decode --verifier` asking it; one clear line for every bad request."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from remote_fakes import ASKING, HASTY, alone, ask, connected, lasting, point, serving, steps, until
from served_process import Served, served_process

from cuhlm_opt.cli.main import main
from cuhlm_opt.decode.result import DecodeResult
from cuhlm_opt.models.tiny import Role, TinyModel
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote.client import decode_remotely

Refused = Callable[[Sequence[str], Sequence[str]], None]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served_process() as found:
        yield found


@pytest.fixture
def decoded(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """(stdout, stderr) of `decode` with the tiny pair."""

    def run(*arguments: str) -> tuple[str, str]:
        assert main(["decode", "--pair", "tiny", "--max-tokens", "24", *arguments]) == 0
        return capfd.readouterr()

    return run


@pytest.mark.parametrize("mode", ASKING)
def test_decode_prints_the_answer_of_one_process(
    server: Served, decoded: Callable[..., tuple[str, str]], mode: Mode
) -> None:
    arguments = ("--mode", mode, "--seed", "7", "--json", "abc")
    found, expected = (json.loads(decoded(*link, *arguments)[0]) for link in (("--verifier", server.address), ()))
    for key in ("tokens", "text", "uploads", "rejections", "payload_bits_total", "llm_tokens_read", "finish_reason"):
        assert found[key] == expected[key]
    assert (expected["wire"], expected["wire_bytes"]) == (None, None)
    assert found["wire"]["sent_bytes"] == found["wire_bytes"] > 0
    assert found["tokens_unverified"] == 0
    assert any("link: real" in line for line in found["assumptions"])


def test_text_goes_to_stdout_and_what_crossed_to_stderr(
    server: Served, decoded: Callable[..., tuple[str, str]]
) -> None:
    out, err = decoded("--verifier", server.address, "abc")
    assert out == decoded("abc")[0]
    for label in ("bytes sent per token", "of them not the codec's", "reconnects", "link per token"):
        assert label in err
    assert "warning" not in err


def test_feedback_brings_the_risk(server: Served, decoded: Callable[..., tuple[str, str]]) -> None:
    arguments = ("--seed", str(lasting("cu-hlm-offline", 4)), "--json", "abc")
    local = json.loads(decoded(*arguments)[0])
    plain = json.loads(decoded("--verifier", server.address, *arguments)[0])
    told = json.loads(decoded("--verifier", server.address, "--feedback", *arguments)[0])
    assert plain["skip_rate"] > 0
    assert plain["bias_skip"] is None
    assert told["bias_skip"] == pytest.approx(local["bias_skip"], abs=1e-6)
    assert told["wire_bytes"] > plain["wire_bytes"]


@pytest.mark.parametrize("mode", ASKING)
def test_without_a_server_the_answer_is_printed_with_a_warning(
    decoded: Callable[..., tuple[str, str]], mode: Mode
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ("--verifier", address, "--offline-after", "50ms", "--mode", mode)
    figures = json.loads(decoded(*arguments, "--json", "abc")[0])
    out, err = decoded(*arguments, "abc")
    told = " ".join(err.split())
    assert out == figures["text"] + "\n"
    assert told.startswith(f"verifier {address}: unavailable")
    assert f"warning: verifier {address} could not be reached" in told
    assert "none of them was verified" in told
    assert figures["tokens_unverified"] == figures["n_tokens"]


def test_tls_and_a_token_from_the_command_line(decoded: Callable[..., tuple[str, str]], secrets: Path) -> None:
    certificate, key, token = (str(secrets / name) for name in ("cert.pem", "key.pem", "token"))
    with served_process("--tls-cert", certificate, "--tls-key", key, "--token", token) as guarded:
        address = guarded.address.replace("127.0.0.1", "localhost")
        shown = ("--verifier", address, "--tls-ca", certificate, "--token", token)
        assert decoded(*shown, "abc")[0] == decoded("abc")[0]
        assert main(["decode", "--pair", "tiny", *shown[:-2], "abc"]) == 1
        err = decoded(*shown[:2], "--tls", "--token", token, "--offline-after", "50ms", "abc")[1]
        assert "none of them was verified" in " ".join(err.split())
        code, said = guarded.stop(signal.SIGTERM)
    assert (code, said.splitlines()[1:]) == (0, ["stopping"])
    for secret in (Path(token).read_text().strip(), Path(key).read_text().splitlines()[1]):
        assert secret not in said


def test_a_missing_token_is_one_line(secrets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(token=(secrets / "token").read_text().strip()) as guarded:
        assert main(["decode", "--pair", "tiny", "--verifier", guarded.address, "abc"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"cuhlm-opt: verifier {guarded.address} refuses: the bearer token is missing or wrong\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_when_answers_are_done(number: int) -> None:
    """One that runs is finished; the server takes no other, says that it stops, and nothing else."""
    ending: list[threading.Thread] = []
    shown: list[str] = []
    outcome: list[tuple[int, str]] = []
    with served_process("--grace", "60s") as found:

        def stop() -> None:
            outcome.append(found.stop(number))

        def on_text(text: str) -> None:
            shown.append(text)
            if len(shown) == 2:
                ending.append(threading.Thread(target=stop, daemon=True))
                ending[0].start()
                until(lambda: "stopping" in found.said)

        seed = lasting("hlm", 4)
        result = ask(found.address, point("hlm"), seed=seed, on_text=on_text)
        ending[0].join(60)
    assert steps(result) == steps(alone(point("hlm"), seed=seed))
    assert result.traffic is not None
    assert result.traffic.reconnects == 0
    ((code, said),) = outcome
    assert (code, said.splitlines()) == (0, [f"serving the LLM of tiny on {found.address}", "stopping"])


SIGNALLED = """
import signal, sys, threading, time
from cuhlm_opt.cli.main import main

def send():
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=send, daemon=True).start()
sys.exit(main(["serve", "--pair", "tiny", "--listen", "127.0.0.1:0"]))
"""


def test_a_signal_that_another_thread_is_given_ends_the_server() -> None:
    """The system may give it to any."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr.splitlines()[1:]) == (0, ["stopping"])


def test_a_signal_ends_answers_that_take_longer_than_the_grace() -> None:
    """They go on alone."""
    shown: list[str] = []

    def on_text(text: str) -> None:
        shown.append(text)
        if len(shown) == 2:
            assert found.stop(signal.SIGTERM)[0] == 0

    with served_process("--grace", "0s") as found:
        result: DecodeResult = ask(found.address, point("hlm"), seed=lasting("hlm", 4), on_text=on_text, patience=HASTY)
    assert [step.alone for step in result.steps[:2]] == [False, False]
    assert result.steps[-1].alone


def test_the_options_of_the_server_are_applied(secrets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--context-length", "20", "--max-message", "1024", "--lanes", "1", "--conversations", "1")
    token = secrets / "token"
    with served_process(*options, "--token", str(token)) as found:
        shown = ["decode", "--pair", "tiny", "--verifier", found.address, "--token", str(token), "--mode", "hlm"]
        assert main([*shown, "--json", "--seed", str(lasting("hlm", 8)), "--max-tokens", "40", "a" * 10]) == 0
        assert main([*shown, "a" * 30]) == 2
        with connected(found.address, token=token.read_text().strip()) as connection:
            assert connection.describe().context_length == 20
            result: Any = decode_remotely(connection, point("hlm"), "a" * 19, pair="tiny")
    assert result.finish_reason in ("context", "eos")
    out, err = capfd.readouterr()
    assert json.loads(out)["prompt_tokens"] == 11
    assert "prompt has 31 tokens; at most 20 fit the context" in err


ANSWERED = ["decode", "--pair", "tiny"]
SERVED = ["serve", "--pair", "tiny"]


@pytest.mark.parametrize("address", ["nonsense", "localhost", ":1", "localhost:0x1", "localhost:65536", ""])
def test_a_bad_address_is_refused(refused: Refused, address: str) -> None:
    refused([*ANSWERED, "--verifier", address, "abc"], [f"--verifier {address!r} is not allowed; give HOST:PORT"])
    refused([*SERVED, "--listen", address], [f"--listen {address!r} is not allowed; give HOST:PORT"])


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "10.1.2.3:50051", "example.org:50051", "[::]:50051"])
def test_an_address_elsewhere_without_tls_is_refused(refused: Refused, secrets: Path, address: str) -> None:
    token = ["--token", str(secrets / "token")]
    tls = ["--tls-cert", str(secrets / "cert.pem"), "--tls-key", str(secrets / "key.pem")]
    for options in ([], token, tls):
        refused([*SERVED, "--listen", address, *options], [repr(address), "--tls-cert, --tls-key and --token"])
    for options in ([], token):
        refused([*ANSWERED, "--verifier", address, *options, "abc"], [repr(address), "--tls or --tls-ca"])


def test_half_of_a_certificate_is_refused(refused: Refused, secrets: Path) -> None:
    for option, name in (("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")):
        refused([*SERVED, option, str(secrets / name)], ["--tls-cert and --tls-key go together"])


def test_files_without_a_secret_are_refused(refused: Refused, secrets: Path) -> None:
    verifier = ["--verifier", "127.0.0.1:1"]
    for name, said in (("short", "at least 16 printable"), ("empty", "is empty"), ("nowhere", "No such file")):
        path = str(secrets / name)
        refused([*SERVED, "--token", path], ["--token", path, said])
        refused([*ANSWERED, *verifier, "--token", path, "abc"], ["--token", path, said])
    for name, said in (("empty", "is empty"), ("nowhere", "No such file")):
        path = str(secrets / name)
        refused([*ANSWERED, *verifier, "--tls-ca", path, "abc"], ["--tls-ca", path, said])
        refused([*SERVED, "--tls-cert", str(secrets / "cert.pem"), "--tls-key", path], ["--tls-key", path, said])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--llm", "some/model"], ["--llm 'some/model' cannot be combined with --verifier"]),
        (["--mode", "slm"], ["mode 'slm' asks no verifier; leave --verifier out"]),
        (["--seed", str(2**64)], ["seed", "below 2^64"]),
        (["--deadline", "5"], ["--deadline '5' is not allowed"]),
        (["--deadline", "1e11s"], ["--deadline"]),
        (["--offline-after", "-1s"], ["--offline-after '-1s' is not allowed"]),
        (["--slm", "some/model"], ["--pair 'tiny' cannot be combined with --slm"]),
    ],
)
def test_bad_requests_to_decode_with_a_verifier(refused: Refused, arguments: list[str], parts: list[str]) -> None:
    refused([*ANSWERED, "--verifier", "127.0.0.1:1", "--offline-after", "10ms", *arguments, "abc"], parts)


@pytest.mark.parametrize(
    "arguments", [["--tls"], ["--tls-ca", "ca.pem"], ["--token", "token"], ["--feedback"]], ids=lambda given: given[0]
)
def test_options_of_a_verifier_without_one(refused: Refused, arguments: list[str]) -> None:
    refused([*ANSWERED, *arguments, "abc"], [f"{arguments[0]} is of use with --verifier only"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--llm", "some/model"], ["--pair 'tiny' cannot be combined with --llm"]),
        (["--idle", "10"], ["--idle '10' is not allowed"]),
        (["--grace", "x"], ["--grace 'x' is not a quantity"]),
        (["--lanes", "0"], ["--lanes"]),
        (["--conversations", "0"], ["--conversations"]),
        (["--max-message", "10"], ["--max-message"]),
        (["--pair", "unknown"], ["'unknown'"]),
    ],
)
def test_bad_requests_to_serve(refused: Refused, arguments: list[str], parts: list[str]) -> None:
    refused([*SERVED, *arguments], parts)


def test_another_vocabulary_is_refused_in_a_line(refused: Refused) -> None:
    with serving(TinyModel(Role.LLM, vocab_size=9)) as other:
        refused([*ANSWERED, "--verifier", other.address, "abc"], [other.address, "of another vocabulary"])


def test_a_taken_port_is_one_line() -> None:
    """In a process of its own, as the library below may write as well."""
    with serving() as other:
        command = [sys.executable, "-m", "cuhlm_opt", *SERVED, "--listen", other.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen on {other.address}" in done.stderr
    assert len(done.stderr.splitlines()) == 1

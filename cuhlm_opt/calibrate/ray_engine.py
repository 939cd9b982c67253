"""The engine of Ray's actors, on an existing cluster or on one of this machine that starts and ends with the run."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from cuhlm_opt.calibrate.engines import Crew, Outcome, Worker, WorkerLostError
from cuhlm_opt.errors import InputError, RunError, first_line
from cuhlm_opt.models.pairs import Pair

ADDRESS_TIMEOUT_S = 20.0
_LOCAL_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps Ray on the loopback interface, on every system
    "RAY_USAGE_STATS_ENABLED": "0",
}
_LOOPBACK = ("127.", "localhost:")
_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_PROBE = f"import sys, ray; ray.init(address=sys.argv[1], **{_OPTIONS!r})"


class RayActors(Crew[Any]):
    """Workers that Ray places.

    Args:
        load: loads the pair; called in each actor.
        workers: how many.
        threads: CPU threads of each worker, which Ray counts as so many CPUs.
        address: of an existing cluster, as `host:port`; None to start Ray here.
        gpus: GPUs of each worker, or the share of one.

    Raises:
        InputError: there are not so many CPUs or GPUs.
        ModuleNotFoundError: Ray is not installed.
        RunError: the address does not answer, or Ray does not start.
    """

    def __init__(
        self, load: Callable[[], Pair], workers: int, *, threads: int = 1, address: str | None = None, gpus: float = 0
    ) -> None:
        if address is None or address.startswith(_LOOPBACK):
            os.environ.update(_LOCAL_SETTINGS)  # Ray reads them when it is imported, and its processes when they start
        import ray

        self._ray, self._load = ray, load
        if address is not None:
            _require_answer(address)
        start = {"address": address} if address else {"num_cpus": workers * threads, "include_dashboard": False}
        try:
            ray.init(**start, **_OPTIONS)
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(f"Ray does not start: {first_line(error)}") from None
        found = ray.cluster_resources()
        for option, each, unit in (("--threads", threads, "CPU"), ("--ray-gpus", gpus, "GPU")):
            if workers * each > found.get(unit, 0):
                ray.shutdown()
                raise InputError(
                    f"{option} {each:g} is not allowed; {workers} workers share {found.get(unit, 0):g} {unit}s"
                )
        # Ray would set the threads of numerical libraries to its CPUs, and move the rounding with them.
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
        options = {"num_cpus": threads, "num_gpus": gpus, "runtime_env": {"env_vars": environment}}
        self._actor = ray.remote(**options)(Worker)
        self._results: dict[Any, Any] = {}
        super().__init__(workers)

    def close(self) -> None:
        """Leave the cluster, which ends the actors; a Ray that was started here ends too."""
        self._ray.shutdown()

    def _hire(self) -> Any:
        actor = self._actor.remote(self._load)
        self._results[actor] = actor.start.remote()
        return actor

    def _give(self, worker: Any, work: Callable[..., Any], item: Any) -> None:
        self._results[worker] = worker.run.remote(work, item)

    def _next(self, busy: list[Any]) -> Any:
        results = {self._results[worker]: worker for worker in busy}
        (first, *_), _ = self._ray.wait(list(results))
        return results[first]

    def _outcome(self, worker: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(self._results.pop(worker))
        except self._ray.exceptions.RayTaskError as error:  # before a worker of ours had a say, as without this package
            raise RunError(f"a worker of Ray failed: {first_line(error.cause)}") from None
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(first_line(error)) from None
        return outcome


def _require_answer(address: str) -> None:
    """Knock from a process that can be killed, since Ray itself would wait for minutes and then end the process."""
    command = [sys.executable, "-c", _PROBE, address]
    try:
        knock = subprocess.run(
            command, capture_output=True, text=True, timeout=ADDRESS_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as silence:
        wants = "; it wants a token, see Ray's RAY_AUTH_MODE" if b"InvalidAuthToken" in (silence.stderr or b"") else ""
        raise RunError(f"--ray-address {address!r} does not answer within {ADDRESS_TIMEOUT_S:g} s{wants}") from None
    if knock.returncode:
        said = knock.stderr.strip().splitlines() or [f"exit code {knock.returncode}"]
        raise RunError(f"--ray-address {address!r} cannot be used: {said[-1]}")

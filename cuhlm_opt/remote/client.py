"""The device's view of a verifier at the other end of a link: asks in turns, and bears with its faults.

A conversation that breaks is begun again from its tokens, and what was not answered is asked again. No token that came
back is asked for twice.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from cuhlm_opt.artefacts import OperatingPoint
from cuhlm_opt.codec import Message
from cuhlm_opt.decode.loop import Answer
from cuhlm_opt.decode.result import DecodeResult, Traffic
from cuhlm_opt.decode.timing import Stopwatch
from cuhlm_opt.decode.verifier import Risk, Ruling, Skipped, UnreachableError
from cuhlm_opt.decode.wire import Terms
from cuhlm_opt.errors import CodecError, InputError
from cuhlm_opt.modes import Mode
from cuhlm_opt.remote import messages
from cuhlm_opt.remote import verifier_pb2 as pb
from cuhlm_opt.remote.connection import FIRST_WAIT_S, LONGEST_WAIT_S, Connection, FaultError, Stream


class RemoteVerifier:
    """Asks a server; implements `decode.verifier.Server`. One answer.

    Args:
        connection: to the server.
        terms: of the operating point.
        seed: of the answer, below 2^64; the server derives its own stream from it.
        stopwatch: time of the LLM, as the server tells it, under `llm`; the rest of the waiting under `link`.
        feedback: tell the probabilities of skipped tokens, so that the server tells the risk of skipping them.
        notify: told once for each fault.
    """

    def __init__(
        self,
        connection: Connection,
        terms: Terms,
        seed: int,
        stopwatch: Stopwatch,
        *,
        feedback: bool = False,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._connection, self._terms, self._seed, self._stopwatch = connection, terms, seed, stopwatch
        self._feedback, self._notify = feedback, notify
        self._stream: Stream | None = None
        self._prompt = ""
        self._prompt_tokens: list[int] = []
        self._answer: list[int] = []  # what the server knows of it
        self._most = self._streaming = 0
        self._is_read = False
        self.traffic = Traffic()

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Of the LLM."""
        return frozenset(self._connection.describe().eos_tokens)

    @property
    def context_length(self) -> int:
        """Of the LLM."""
        return self._connection.describe().context_length

    def chat_tokens(self, prompt: str) -> list[int]:
        """Token ids of `prompt` in the LLM's chat template: begins the conversation."""
        self._prompt = prompt
        with self._stopwatch("prefill_llm"):
            self._persist(lambda: None)
        return list(self._prompt_tokens)

    def prefill(self, prompt: Sequence[int], most: int) -> None:
        """Wait until the server has read the prompt; in mode `llm` it will be told to draw `most` tokens."""
        self._most = most
        with self._stopwatch("prefill_llm"):
            self._persist(self._read_context)

    def verify(self, skipped: Sequence[Skipped], told: int | None, message: Message, skippable: object) -> Ruling:
        """Ask for the next token; in mode `llm` wait for it."""
        if self._terms.mode is Mode.LLM:
            reply = self._persist(self._streamed)
        else:
            drafts = [] if self._terms.mode is Mode.QUERY else [messages.written_draft(told, message)]
            tokens, probabilities = self._written(skipped)
            verify = pb.Verify(skipped=tokens, skipped_probability=probabilities, drafts=drafts)
            reply = self._persist(lambda: self._asked(pb.Request(verify=verify), skipped, 1))
        self._answer += [*(skip.token for skip in skipped), *reply.tokens]
        return Ruling(
            token=reply.tokens[0],
            accepted=reply.accepted,
            risks=(*_risks(reply, skipped), Risk(beta=None, expected=None)),
            read=reply.read,
        )

    def verify_round(self, drafts: Sequence[tuple[int, Message]], *, ended: bool) -> tuple[tuple[int, ...], int]:
        """Ask for the tokens of a round."""
        written = [messages.written_draft(token, message) for token, message in drafts]
        request = pb.Request(verify=pb.Verify(drafts=written, ended=ended))

        def asked() -> pb.Reply:
            reply = self._asked(request, (), len(drafts) + (not ended))
            stood = len(reply.tokens) - 1
            if list(reply.tokens[:stood]) != [token for token, _ in drafts[:stood]]:
                raise FaultError("it answers nonsense")
            return reply

        reply = self._persist(asked)
        self._answer += reply.tokens
        return tuple(reply.tokens), reply.read

    def flush(self, skipped: Sequence[Skipped]) -> tuple[tuple[Risk, ...], int]:
        """Learn the risk of the last skips, where feedback is wanted, and end the conversation."""
        risks: tuple[Risk, ...] = tuple(Risk(beta=None, expected=None) for _ in skipped)
        read = 0
        if skipped and self._feedback:
            tokens, probabilities = self._written(skipped)
            request = pb.Request(catch_up=pb.CatchUp(skipped=tokens, skipped_probability=probabilities))
            reply = self._persist(lambda: self._asked(request, skipped, 0), label="flush")
            risks, read = _risks(reply, skipped), reply.read
        if self._stream is not None:
            self._stream.close(politely=True)
            self._stream = None
        return risks, read

    def close(self) -> None:
        """Drop the conversation, if it is not over: another server may answer next."""
        if self._stream is not None:
            self._stream.close(politely=False)
            self._stream = None
            self._connection.forget()

    def _persist(self, ask: Callable[[], pb.Reply | None], label: str = "llm") -> pb.Reply:
        """Ask until there is an answer.

        Raises:
            UnreachableError: none came for `offline_after_s`.
        """
        patience, first, wait = self._connection.patience, None, FIRST_WAIT_S
        while True:
            start = time.monotonic()
            try:
                if self._stream is None:
                    self._begin()
                reply = ask()
                if reply is None:
                    return pb.Reply()
                waited = time.monotonic() - start
                told = min(reply.seconds, waited) if reply.seconds > 0 else 0.0
                self._stopwatch.seconds[label] += told
                self._stopwatch.seconds["link"] += waited - told
                return reply
            except FaultError as fault:
                self.close()
                now = time.monotonic()
                if first is None:
                    first = start
                    self._notify(f"verifier {self._connection.address}: {fault}; trying again")
                if now - first + wait > patience.offline_after_s:
                    raise UnreachableError(
                        f"verifier {self._connection.address} could not be reached for {now - first:.1f} s: {fault}"
                    ) from None
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)

    def _begin(self) -> None:
        """Open a conversation, at first with the prompt, later with all tokens that are certain."""
        self._connection.describe()
        self._stream, self._streaming, self._is_read = self._connection.open(), 0, False
        begin = pb.Begin(terms=messages.written_terms(self._terms), seed=self._seed)
        if self._prompt_tokens:
            self.traffic.reconnects += 1
            begin.tokens.ids.extend([*self._prompt_tokens, *self._answer])
            begin.resumed = len(self._answer)
        else:
            begin.prompt = self._prompt
        self._send(pb.Request(begin=begin))
        tokens = list(self._receive(0, any_tokens=True).tokens)
        if self._prompt_tokens:
            self._read_context()
        elif tokens:
            self._prompt_tokens = tokens
        else:
            raise FaultError("it answers nonsense")

    def _read_context(self) -> None:
        """Wait until the server has read what the conversation began with."""
        if not self._is_read:
            self._receive(0)
            self._is_read = True

    def _asked(self, request: pb.Request, skipped: Sequence[Skipped], most: int) -> pb.Reply:
        """The reply to one request, checked: at least a token if `most` are allowed."""
        size = self._send(request)
        if most:
            self.traffic.messages += 1
            self.traffic.message_bytes += size
        reply = self._receive(most)
        told = len(skipped) if self._feedback else 0
        if len(reply.rejection) != told or not all(0 <= beta <= 1 for beta in reply.rejection):
            raise FaultError("it answers nonsense")
        return reply

    def _streamed(self) -> pb.Reply:
        """The next token of mode `llm`."""
        if not self._streaming:
            self._streaming = self._most - len(self._answer)
            self._send(pb.Request(stream=pb.Stream(tokens=self._streaming)))
        reply = self._receive(1)
        self._streaming -= 1
        return reply

    def _send(self, request: pb.Request) -> int:
        assert self._stream is not None
        data = request.SerializeToString()
        size = messages.wire_bytes(data)
        self.traffic.sent_bytes += size
        self._stream.send(data)
        return size

    def _receive(self, most: int, *, any_tokens: bool = False) -> pb.Reply:
        """A reply with 1 to `most` tokens of the vocabulary, none if `most` is 0."""
        assert self._stream is not None
        data = self._stream.reply(self._connection.patience.deadline_s)
        self.traffic.received_bytes += messages.wire_bytes(data)
        try:
            reply = messages.parsed(pb.Reply, data)
        except CodecError:
            raise FaultError("it answers nonsense") from None
        counted = min(most, 1) <= len(reply.tokens) <= most or any_tokens
        if not counted or any(token >= self._terms.vocab_size for token in reply.tokens):
            raise FaultError("it answers nonsense")
        return reply

    def _written(self, skipped: Sequence[Skipped]) -> tuple[list[int], list[float]]:
        told = [skip.probability for skip in skipped if skip.probability is not None] if self._feedback else []
        return [skip.token for skip in skipped], told


def _risks(reply: pb.Reply, skipped: Sequence[Skipped]) -> tuple[Risk, ...]:
    betas: Iterator[float] = iter(reply.rejection)
    return tuple(Risk(beta=next(betas, None), expected=None) for _ in skipped)


def decode_remotely(
    connection: Connection,
    point: OperatingPoint,
    prompt: str,
    *,
    pair: str,
    seed: int = 0,
    max_tokens: int = 128,
    feedback: bool = False,
    on_text: Callable[[str], None] | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> DecodeResult:
    """Answer `prompt` at `point` with the LLM of a server: the text that one process would write.

    Where the server stops answering, the SLM goes on alone, and the result says from which token on.

    Args:
        connection: to the server; lane 0 of its SLM is cleared and used.
        point: as `decode.loop.decode`.
        prompt: as there.
        pair: name of the model pair.
        seed: as there, and below 2^64.
        max_tokens: as there.
        feedback: send the probabilities of skipped tokens along, to learn their risk.
        on_text: as there.
        notify: told of a fault in a line.

    Raises:
        InputError: as there; or the server has another vocabulary, or mode `slm` asks none.
        RunError: as there; or the server refuses.
    """
    if point.mode is Mode.SLM:
        raise InputError("mode 'slm' asks no verifier; leave --verifier out")
    if seed >= 2**64:
        raise InputError(f"seed {seed!r} is not allowed with a verifier; give an integer below 2^64")
    stopwatch = Stopwatch()
    terms = Terms.of(point, connection.slm.vocab_size)
    server = RemoteVerifier(connection, terms, seed, stopwatch, feedback=feedback, notify=notify)
    answer = Answer(connection.slm, server, point, stopwatch, seed=seed, on_text=on_text)
    try:
        answer.decode(prompt, max_tokens)
    finally:
        server.close()
    known = {"slm": connection.slm.provenance(), "llm": connection.provenance}
    provenance = {role: told for role, told in known.items() if told}  # nothing of a server that never answered
    return answer.result(pair, provenance, server.traffic)

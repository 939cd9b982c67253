"""What the device proposes and how the server answers: one step of every mode, and a round of several, as laws.

The decoder samples from these verdicts and the tests enumerate them: the law that is proved is the code that runs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.distributions import Law, rejection_probability, residual_law, sample


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The server's answer to one upload, before its coins are tossed.

    The draft stands with probability `acceptance`. Otherwise a token is drawn from `redraw`. An accepted lump of
    tokens has no single token yet (`draft` is None) and is drawn from `lump`.
    """

    acceptance: float
    redraw: NDArray[np.float64]
    draft: int | None
    lump: NDArray[np.float64] | None = None

    def law(self) -> NDArray[np.float64]:
        """Law of the token that results, shape (|V|,)."""
        law = (1.0 - self.acceptance) * self.redraw
        if self.draft is not None:
            law[self.draft] += self.acceptance
        elif self.lump is not None:
            law += self.acceptance * self.lump
        return law

    def sample(self, rng: np.random.Generator) -> tuple[int, bool]:
        """Toss the coins: (token, whether the proposal was accepted)."""
        accepted = bool(rng.random() < self.acceptance)
        if accepted and self.draft is not None:
            return self.draft, True
        law = self.lump if accepted and self.lump is not None else self.redraw
        return sample(law, rng), accepted


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A draft with the law to verify it against: what the server decodes, of all of x or of k entries.

    `tested` is the probability that the draft is tested with: its entry of `law` (variant A of THEORY 4.4) unless the
    true x_d is known beside the law (variant B).
    """

    draft: int
    law: Law
    tested: float | None = None

    def verify(self, y: Law) -> Verdict:
        """Accept with probability min(1, y_d / tested), else draw from norm((y - law)+) [P, speculative sampling]."""
        tested = self.law[self.draft] if self.tested is None else self.tested
        rejection = float(rejection_probability(tested, y[self.draft]))
        return Verdict(acceptance=1.0 - rejection, redraw=residual_law(y, self.law), draft=self.draft)


@dataclass(frozen=True, kw_only=True)
class CoarseProposal:
    """The skippable entries only; all other tokens are lumped into one symbol T [N, THEORY 5].

    `kept` holds every token that may be skipped, `masses` their probabilities under x, `draft` the draft if it is kept,
    None if it is in the lump.
    """

    kept: NDArray[np.integer]
    masses: Law
    draft: int | None

    def verify(self, y: Law) -> Verdict:
        """Speculative step on kept tokens and T; where the outcome is T, draw from y restricted to T."""
        lump = np.array(y, dtype=np.float64)
        lump[self.kept] = 0.0
        y_lump = float(lump.sum())
        x_lump = max(0.0, 1.0 - float(np.sum(self.masses, dtype=np.float64)))
        symbols_x = np.append(self.masses, x_lump)
        symbols_y = np.append(y[self.kept], y_lump)
        residual = residual_law(symbols_y, symbols_x)
        if y_lump > 0:
            lump /= y_lump
        redraw = residual[-1] * lump
        redraw[self.kept] += residual[:-1]
        if self.draft is None:
            rejection = float(rejection_probability(x_lump, y_lump))
            return Verdict(acceptance=1.0 - rejection, redraw=redraw, draft=None, lump=lump)
        at = int(np.flatnonzero(self.kept == self.draft)[0])
        rejection = float(rejection_probability(symbols_x[at], symbols_y[at]))
        return Verdict(acceptance=1.0 - rejection, redraw=redraw, draft=self.draft)


@dataclass(frozen=True, kw_only=True)
class Query:
    """No proposal: the server draws from y [N]. With skipping the output is not y, since skipping reads the draft."""

    def verify(self, y: Law) -> Verdict:
        """Draw from y."""
        return Verdict(acceptance=0.0, redraw=np.asarray(y, dtype=np.float64) / np.sum(y, dtype=np.float64), draft=None)


Upload = Proposal | CoarseProposal | Query


@dataclass(frozen=True, kw_only=True)
class Round:
    """Drafts that are verified together, each behind those before it [N, THEORY 7.1].

    `uploads[i]` is what the server is sent to verify `drafts[i]` with. The round puts out the token of each verdict up
    to the first that is not the draft; if all are, one more token is drawn from the next law.
    """

    drafts: tuple[int, ...]
    uploads: tuple[Upload, ...]

    def law(self, laws: Iterable[Law]) -> dict[tuple[int, ...], float]:
        """Probability of each sequence of tokens that the round can put out.

        Args:
            laws: y behind 0, 1, ... drafts, one for each draft, and one more unless the last draft ends the answer.
        """
        law: dict[tuple[int, ...], float] = {}
        before: tuple[int, ...] = ()
        reached = 1.0
        for draft, verdict in self._verdicts(laws):
            own = verdict.law()
            law |= {(*before, int(v)): reached * float(own[v]) for v in np.flatnonzero(own) if v != draft}
            if draft is None:
                return law
            before, reached = (*before, draft), reached * float(own[draft])
        return law | {before: reached}

    def sample(self, laws: Iterable[Law], rng: np.random.Generator) -> tuple[int, ...]:
        """Toss the coins: the tokens that the round puts out. As many of `laws` are taken."""
        tokens: list[int] = []
        for draft, verdict in self._verdicts(laws):
            token, _ = verdict.sample(rng)
            tokens.append(token)
            if token != draft:
                break
        return tuple(tokens)

    def _verdicts(self, laws: Iterable[Law]) -> Iterator[tuple[int | None, Verdict]]:
        """Each draft's verdict, should those before it stand; that of the token behind them all has no draft."""
        tested = [*zip(self.drafts, self.uploads, strict=True), (None, Query())]
        for (draft, upload), y in zip(tested, laws, strict=False):
            yield draft, upload.verify(y)

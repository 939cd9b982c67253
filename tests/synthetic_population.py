"""A synthetic population of prompts of known law: its population risk and skip rate are closed forms.

Nothing here is measured on a model. A prompt has a hardness h, drawn from a few values; the length of its answer is
uniform on {ceil(T/2), .., T}. A position has one token that may be skipped, with u ~ Beta(1, h) independent given the
prompt, x = 1 - u/2, and rejection probability beta = slope u Z, Z a coin scaled to mean 1. A share of prompts fails:
there beta = 1 at every position, however sure the SLM is, so that losses near 1 are rare and not absent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta as beta_function
from scipy.special import betainc

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Positions of sampled prompts, as the columns of records: `prompt` (N,), `tv` (N,), `top_*` (N, 1)."""

    prompt: NDArray[np.int64]
    top_u_bar: Array
    top_x: Array
    top_y: Array
    tv: Array


@dataclass(frozen=True, kw_only=True)
class SyntheticPopulation:
    """The law; `risk` and `skip` are its expectations."""

    hardness: tuple[float, ...] = (8.0, 3.0, 1.0)
    shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    slope: float = 0.5
    coin: float = 0.5
    """P(Z > 0); slope / coin <= 1 keeps beta <= 1."""
    failing: float = 0.0
    max_tokens: int = 32

    @property
    def mean_length_share(self) -> float:
        """E[length] / T_max."""
        shortest = -(-self.max_tokens // 2)
        return 0.5 * (shortest + self.max_tokens) / self.max_tokens

    def draw(self, n: int, rng: np.random.Generator) -> Draws:
        """Sample n independent prompts."""
        hardness = rng.choice(self.hardness, size=n, p=self.shares)
        lengths = rng.integers(-(-self.max_tokens // 2), self.max_tokens + 1, size=n)
        fails = rng.random(n) < self.failing
        prompt = np.repeat(np.arange(n), lengths)
        u = 1.0 - rng.random(len(prompt)) ** (1.0 / hardness[prompt])
        x = 1.0 - 0.5 * u
        beta = np.where(fails[prompt], 1.0, self.slope / self.coin * u * (rng.random(len(prompt)) < self.coin))
        return Draws(
            prompt=prompt,
            top_u_bar=u[:, None],
            top_x=x[:, None],
            top_y=(x * (1.0 - beta))[:, None],
            tv=x * beta + 0.25 * u,
        )

    def skip(self, t: float) -> float:
        """E[skip(t)] per token: h int_0^t (1 - u/2)(1 - u)^(h-1) du, averaged over h; 1 at t = 1."""
        return 1.0 if t >= 1 else self._average(lambda h: _moment(0, h, t) - 0.5 * _moment(1, h, t))

    def risk(self, t: float) -> float:
        """E[risk(t)] per token; at t = 1 everything is skipped and the risk is E[TV(x, y)]."""
        sound = self._average(lambda h: self.slope * (_moment(1, h, t) - 0.5 * _moment(2, h, t)))
        failed = self._average(lambda h: _moment(0, h, t) - 0.5 * _moment(1, h, t))
        rest = self._average(lambda h: 0.25 * _moment(1, h, 1.0)) if t >= 1 else 0.0
        return (1.0 - self.failing) * sound + self.failing * failed + rest

    def loss(self, t: float | None) -> float:
        """E[L(t)], the risk per allowed token; 0 where nothing is skipped. Lengths are independent of the rest."""
        return 0.0 if t is None else self.mean_length_share * self.risk(t)

    def _average(self, value) -> float:
        return float(np.dot(self.shares, [value(h) for h in self.hardness]))


def _moment(power: int, h: float, t: float) -> float:
    """E[u^power 1[u <= t]] for u ~ Beta(1, h): h B(power + 1, h) I_t(power + 1, h)."""
    return float(h * beta_function(power + 1, h) * betainc(power + 1, h, min(t, 1.0)))

"""Block fading: the law of the signal-to-noise ratio of one block, and what follows from it [P, N, THEORY 8].

Marvin K. Simon, Mohamed-Slim Alouini, "Digital Communication over Fading Channels", 2005, section 2.2: the SNR of a
block is exponential (Rayleigh), a scaled noncentral chi-square of two degrees of freedom (Rician), or gamma (Nakagami).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuhlm_opt.errors import InputError

Floats = NDArray[np.float64]

RICIAN_K = 6.0
NAKAGAMI_M = 2.0


class Fading(Protocol):
    """Law of the SNR of one block; linear, mean > 0."""

    @property
    def mean_snr(self) -> float:
        """Mean SNR."""

    @property
    def diverges(self) -> bool:
        """Whether E[1/log2(1 + SNR)] is infinite: the density at 0 decides [N, derivations/fading_divergence.py]."""

    def outage(self, snr: Floats | float) -> Floats:
        """Probability that the SNR is below `snr` >= 0."""

    def quantile(self, probability: float) -> float:
        """SNR below which a block lies with `probability` in [0, 1)."""

    def sample(self, rng: np.random.Generator, size: tuple[int, ...] | int) -> Floats:
        """Independent blocks."""

    def describe(self) -> str:
        """Name and parameter."""


@dataclass(frozen=True)
class Rayleigh:
    """No line of sight: exponential SNR.

    >>> round(float(Rayleigh(10.0).outage(1.0)), 4)
    0.0952
    """

    mean_snr: float
    diverges = True

    def outage(self, snr: Floats | float) -> Floats:
        """1 - exp(-snr/mean)."""
        return np.asarray(-np.expm1(-np.asarray(snr) / self.mean_snr))

    def quantile(self, probability: float) -> float:
        """Inverse of `outage`."""
        return -self.mean_snr * math.log1p(-probability)

    def sample(self, rng: np.random.Generator, size: tuple[int, ...] | int) -> Floats:
        """Exponential numbers."""
        return rng.exponential(self.mean_snr, size)

    def describe(self) -> str:
        """Its name."""
        return "Rayleigh"


@dataclass(frozen=True)
class Rician:
    """A line of sight of K times the power of the scattered paths.

    >>> round(float(Rician(10.0, 0.0).outage(1.0)), 4)
    0.0952
    """

    mean_snr: float
    k_factor: float = RICIAN_K
    diverges = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k_factor) and self.k_factor >= 0):
            raise InputError(f"--rician-k {self.k_factor!r} is not allowed; give a finite number >= 0")

    def outage(self, snr: Floats | float) -> Floats:
        """Noncentral chi-square of two degrees of freedom, noncentrality 2 K, at 2 (K + 1) snr/mean."""
        from scipy.special import chndtr

        return np.asarray(chndtr(2 * (self.k_factor + 1) * np.asarray(snr) / self.mean_snr, 2, 2 * self.k_factor))

    def quantile(self, probability: float) -> float:
        """Inverse of `outage`."""
        from scipy.special import chndtrix

        return float(chndtrix(probability, 2, 2 * self.k_factor)) * self.mean_snr / (2 * (self.k_factor + 1))

    def sample(self, rng: np.random.Generator, size: tuple[int, ...] | int) -> Floats:
        """Power of a fixed path plus two Gaussian components."""
        scattered = math.sqrt(self.mean_snr / (2 * (self.k_factor + 1)))
        line_of_sight = math.sqrt(self.mean_snr * self.k_factor / (self.k_factor + 1))
        parts = rng.normal(0.0, scattered, (2, *np.atleast_1d(size)))
        return np.asarray(((parts[0] + line_of_sight) ** 2 + parts[1] ** 2).reshape(size))

    def describe(self) -> str:
        """Its name and K."""
        return f"Rician, K = {self.k_factor:g},"


@dataclass(frozen=True)
class Nakagami:
    """Gamma SNR of shape m >= 1/2; m = 1 is Rayleigh.

    >>> round(float(Nakagami(10.0, 1.0).outage(1.0)), 4)
    0.0952
    """

    mean_snr: float
    m: float = NAKAGAMI_M

    def __post_init__(self) -> None:
        if not (math.isfinite(self.m) and self.m >= 0.5):
            raise InputError(f"--nakagami-m {self.m!r} is not allowed; give a finite number >= 0.5")

    @property
    def diverges(self) -> bool:
        """For m <= 1."""
        return self.m <= 1

    def outage(self, snr: Floats | float) -> Floats:
        """Regularised incomplete gamma function P(m, m snr/mean)."""
        from scipy.special import gammainc

        return np.asarray(gammainc(self.m, self.m * np.asarray(snr) / self.mean_snr))

    def quantile(self, probability: float) -> float:
        """Inverse of `outage`."""
        from scipy.special import gammaincinv

        return float(gammaincinv(self.m, probability)) * self.mean_snr / self.m

    def sample(self, rng: np.random.Generator, size: tuple[int, ...] | int) -> Floats:
        """Gamma numbers."""
        return rng.gamma(self.m, self.mean_snr / self.m, size)

    def describe(self) -> str:
        """Its name and m."""
        return f"Nakagami, m = {self.m:g},"


def ergodic_capacity(fading: Fading) -> float:
    """E[log2(1 + SNR)], bit/s/Hz; Rayleigh in closed form e^(1/g) E1(1/g) / ln 2.

    >>> round(ergodic_capacity(Rayleigh(10.0)), 4)
    2.9065
    """
    from scipy.integrate import quad
    from scipy.special import exp1

    if isinstance(fading, Rayleigh) and fading.mean_snr > 1 / 500:
        inverse = 1 / fading.mean_snr
        return math.exp(inverse) * float(exp1(inverse)) / math.log(2)

    # E[ln(1 + S)] = integral of P(S > s) / (1 + s), over s = mean z/(1 - z)
    def integrand(z: float) -> float:
        snr = fading.mean_snr * z / (1 - z)
        return (1 - float(fading.outage(snr))) / (1 + snr) * fading.mean_snr / (1 - z) ** 2

    return float(quad(integrand, 0.0, 1.0, epsabs=0.0, epsrel=1e-10, limit=500)[0]) / math.log(2)


def best_fixed_rate(fading: Fading) -> float:
    """R that maximises the goodput R (1 - outage(2^R - 1)), bit/s/Hz; Rayleigh in closed form W_0(g)/ln 2.

    >>> round(best_fixed_rate(Rayleigh(10.0)), 4)
    2.5183
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import lambertw

    if isinstance(fading, Rayleigh):
        return float(lambertw(fading.mean_snr).real) / math.log(2)

    def lost(log_rate: float) -> float:
        rate = math.exp(log_rate)
        return -rate * success_probability(fading, rate)

    least, most = (math.log(math.log1p(share * fading.mean_snr) / math.log(2)) for share in (1e-3, 30.0))
    rates = np.linspace(least, most, 200)
    at = int(np.argmin([lost(float(rate)) for rate in rates]))
    bounds = (rates[max(at - 1, 0)], rates[min(at + 1, len(rates) - 1)])
    return math.exp(float(minimize_scalar(lost, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x))


def least_snr(rate: float) -> float:
    """SNR at which a block carries `rate` bit/s/Hz, 2^rate - 1.

    >>> least_snr(2.0)
    3.0
    """
    return math.expm1(rate * math.log(2))


def success_probability(fading: Fading, rate: float) -> float:
    """Probability that a block carries `rate` bit/s/Hz, 1 - outage(2^rate - 1)."""
    return 1.0 - float(fading.outage(least_snr(rate)))

"""The package's functions against the derived results, at rational points: the derived side is exact.

1e-12 is a few thousand roundings of doubles near 1, far above what a handful of operations lose.
"""

import math
from fractions import Fraction
from itertools import product
from random import Random

import numpy as np
import pytest
import sympy as sp
from derived import derivation, module
from scipy.integrate import quad
from scipy.special import betainc

from cuhlm_opt import bounds, correlation, latency, payload, speculation, truncation, uncertainty, verification
from cuhlm_opt.channel import AwgnUplink, InstantaneousUplink, Link
from cuhlm_opt.distributions import rejection_probability, residual_law, total_variation
from cuhlm_opt.fading import Nakagami, Rayleigh, Rician, best_fixed_rate, ergodic_capacity
from cuhlm_opt.modes import Mode
from cuhlm_opt.sequential import RISK_BETS, log_capital, log_risk_e_values
from cuhlm_opt.solve.certificate import conformal_threshold, hoeffding_bentkus_p_value, prompts_needed

TOLERANCE = 1e-12
CASES = 25


def rational(value):
    return sp.Rational(value.numerator, value.denominator) if isinstance(value, Fraction) else sp.sympify(value)


def at(expression, **values):
    """Value of a derived expression; a list for `x` gives x1, x2, ..."""
    named = {}
    for name, value in values.items():
        if isinstance(value, list):
            named.update({f"{name}{n}": rational(entry) for n, entry in enumerate(value, 1)})
        else:
            named[name] = rational(value)
    return float(expression.subs({symbol: named[symbol.name] for symbol in expression.free_symbols}))


def floats(law):
    return np.array([float(mass) for mass in law])


def cases(laws, *, skips=False, size=3):
    """Random rational laws on `size` symbols, and skip probabilities where asked for."""
    rng = Random(7)
    draw = module("laws")
    return [
        [draw.random_law(rng, size) for _ in range(laws)] + ([draw.random_skip(rng, size)] if skips else [])
        for _ in range(CASES)
    ]


def test_published_thresholds():
    averse, prone = derivation("published_thresholds").result
    for a, b, delta in ((Fraction(163, 200), Fraction(-33, 500), Fraction(3, 5)), (Fraction(1, 2), Fraction(1, 9), 0)):
        line = {"a": a, "b": b}
        assert correlation.risk_averse_threshold(float(a), float(b)) == pytest.approx(at(averse, **line), abs=TOLERANCE)
        computed = correlation.risk_prone_threshold(float(a), float(b), float(delta))
        assert computed == pytest.approx(at(prone, **line, Delta=delta), abs=TOLERANCE)


@pytest.mark.parametrize(("k", "vocab_size", "b_prob"), [(30, 32000, 8), (7, 49152, 12), (1, 3, 8), (5, 1024, 4)])
def test_payload(k, vocab_size, b_prob):
    message = {"V": vocab_size, "b_prob": b_prob}
    published = derivation("published_payload").result
    assert payload.published_bits(k, vocab_size, b_prob) == at(published, **message, k=k)
    assert payload.coarse_bits(1, vocab_size, b_prob) == at(derivation("coarse_payload").result, **message)


@pytest.mark.parametrize(("k", "vocab_size", "total"), [(30, 32000, 255), (3, 50, 15), (8, 151936, 255)])
def test_enumerative_payload(k, vocab_size, total):
    index, types = derivation("payload_entropy").result
    assert payload.index_set_bits(k, vocab_size) == at(index, V=vocab_size, k=k)
    assert payload.type_bits(k, total) == at(types, N=total, k=k)


def test_speedup_cap():
    cap = derivation("speedup_caps").result
    for p, f in ((Fraction(187, 250), Fraction(13, 500)), (Fraction(1, 3), Fraction(1, 7)), (0, 1)):
        assert latency.speedup_cap(float(p), float(f)) == pytest.approx(at(cap, p=p, f=f), rel=TOLERANCE)


def test_token_times_stay_below_the_cap_and_cross_where_derived():
    """One hybrid and LLM-only on rational times: the gain is capped, the faster one is the one that was derived."""
    condition, cap = derivation("llm_only_crossover").result, derivation("speedup_caps").result
    for skip, bits, llm in product((0, Fraction(1, 4), Fraction(7, 8)), (10, 4000), (Fraction(1, 50), Fraction(1, 2))):
        times = latency.ComputeTimes(slm_s=0.015625, gate_s=0.0078125, llm_pass_s={1: float(llm)})
        link = Link(uplink=AwgnUplink(bandwidth_hz=1e4, snr=1.0), rtt_s=0.03125)
        asked = {
            Mode.U_HLM: latency.Asks.always(bits).scaled(float(skip)),
            Mode.LLM: latency.Asks.always(0.0),
            Mode.HLM: latency.Asks.always(4000.0),
        }
        hybrid, alone, whole = (latency.token_law(mode, times, link, a, 16).mean_s for mode, a in asked.items())
        known = {
            "p": skip, "tau_slm": Fraction(1, 64), "tau_gate": Fraction(1, 128), "r": Fraction(1, 32), "T": 16,
            "tau_up": Fraction(bits, 10000), "tau_llm": llm, "tau_down": 0,
        }  # fmt: skip
        sides = at(condition.lhs, **known), at(condition.rhs, **known)
        assert hybrid - alone == pytest.approx(sides[0] - sides[1], abs=TOLERANCE)
        assert whole / hybrid <= at(cap, p=skip, f=Fraction(bits, 4000)) * (1 + TOLERANCE)


def test_rejection_and_distance():
    for x, y in cases(2):
        derived = at(derivation("mean_rejection").result, x=x, y=y)
        assert total_variation(floats(x), floats(y)) == pytest.approx(derived, abs=TOLERANCE)
        mean = floats(x) @ rejection_probability(floats(x), floats(y))
        assert mean == pytest.approx(derived, abs=TOLERANCE)


def test_residual_law():
    for x, y in cases(2):
        assert residual_law(floats(y), floats(x)) == pytest.approx(floats(module("laws").residual(y, x)), abs=TOLERANCE)


def test_skip_risk_and_the_laws_of_the_modes():
    """`bounds` and the verdicts that the decoder samples from, against the table of laws."""
    laws = derivation("mode_laws").result
    distance = {mode: laws[sp.Symbol(mode)] for mode in ("u-hlm", "query", "coarse", "exact", "cu-hlm-offline")}
    for x, y, rebuilt, skip in cases(3, skips=True):
        known = {"x": x, "y": y, "h": rebuilt, "s": skip}
        p, q, h, s = map(floats, (x, y, rebuilt, skip))
        assert bounds.skip_risk(p, q, s) == pytest.approx(at(distance["u-hlm"], **known), abs=TOLERANCE)
        assert bounds.query_bias(p, q, s) == pytest.approx(at(distance["query"], **known), abs=TOLERANCE)
        uploads = {
            "u-hlm": lambda d, p=p: verification.Proposal(draft=d, tested=p[d], law=p),
            "query": lambda d: verification.Query(),
            "coarse": lambda d, p=p: verification.CoarseProposal(kept=np.arange(3), masses=p, draft=d),
        }
        for mode, upload in uploads.items():
            output = decoded(p, q, s, upload)
            assert total_variation(output, q) == pytest.approx(at(distance[mode], **known), abs=TOLERANCE), mode
        exact = decoded(h, q, s, lambda d, h=h: verification.Proposal(draft=d, tested=h[d], law=h))
        assert total_variation(exact, q) == pytest.approx(at(distance["exact"], **known), abs=TOLERANCE)
        truncated = decoded(p, q, s, lambda d, p=p, h=h: verification.Proposal(draft=d, tested=p[d], law=h))
        assert total_variation(truncated, q) <= at(distance["cu-hlm-offline"], **known) + TOLERANCE


def decoded(x, y, skip, upload):
    """Law of the output of one step: drafts kept with `skip`, otherwise the verdict on `upload(draft)`."""
    output = skip * x
    for draft in np.flatnonzero(x):
        output = output + (1 - skip[draft]) * x[draft] * upload(int(draft)).verify(y).law()
    return output


def test_coarse_verification_lumps_what_is_never_skipped():
    for x, y, skip in cases(2, skips=True):
        p, q = floats(x), floats(y)
        only_first = np.array([float(skip[0]), 0.0, 0.0])

        def upload(draft, p=p):
            named = draft if draft == 0 else None
            return verification.CoarseProposal(kept=np.array([0]), masses=p[:1], draft=named)

        output = decoded(p, q, only_first, upload)
        derived = module("coarse_verification").coarse_output(x, y, [skip[0], 0, 0], (0,))
        assert output == pytest.approx(floats(derived), abs=TOLERANCE)
        risk = at(derivation("coarse_verification").result, x=x, y=y, s=skip)
        assert total_variation(output, q) == pytest.approx(risk, abs=TOLERANCE)


def test_every_mode_has_a_law():
    known = {symbol.name for symbol in derivation("mode_laws").result} | {Mode.CU_HLM_ONLINE.value}
    assert {mode.value for mode in Mode} <= known


def test_bounds_of_truncation():
    """Both bounds of 4.4 and the combined ones of 4.5."""
    whole_step, true_draft = derivation("combined_bound").result
    for x, rebuilt, y, skip in cases(3, skips=True):
        known = {"x": x, "h": rebuilt, "y": y, "s": skip}
        p, h, q, s = map(floats, (x, rebuilt, y, skip))
        apart, r, r_hat = total_variation(p, h), total_variation(p, q), total_variation(h, q)
        a = at(derivation("truncation_bound").result, **known)
        assert bounds.truncation_bound(apart) == pytest.approx(a, abs=TOLERANCE)
        assert bounds.skip_risk(p, q, s) + apart == pytest.approx(at(whole_step, **known), abs=TOLERANCE)
        if max(r, r_hat) > 0:
            b = bounds.truncation_bound_true_draft(apart, r, r_hat)
            assert b == pytest.approx(at(derivation("true_draft_bound").result, **known), abs=TOLERANCE)
            output = decoded(p, q, s, lambda d, p=p, h=h: verification.Proposal(draft=d, tested=p[d], law=h))
            assert total_variation(output, q) <= at(true_draft, **known) + TOLERANCE
    equal = np.array([0.25, 0.75])
    assert bounds.truncation_bound_true_draft(0.5, total_variation(equal, equal), 0.5) == 0


def test_size_chosen_by_the_draft():
    """Proposals with k(d) entries: what the decoder would put out is within the derived bound."""
    bound, script = derivation("draft_dependent_size").result, module("draft_dependent_size")
    rng = Random(11)
    for x, y, skip in cases(2, skips=True):
        rebuilt = script.rebuilt_for_each(x, [rng.randint(0, 3) for _ in range(3)])
        p, q, s, laws = floats(x), floats(y), floats(skip), [floats(law) for law in rebuilt]
        output = decoded(p, q, s, lambda d, p=p, laws=laws: verification.Proposal(draft=d, tested=p[d], law=laws[d]))
        assert output == pytest.approx(floats(script.output_law(x, y, skip, rebuilt, true_draft=True)), abs=TOLERANCE)
        apart, r_hat = ([module("laws").total_variation(law, other) for law in rebuilt] for other in (x, y))
        if total_variation(p, q) > 0:
            assert total_variation(output, q) <= at(bound, x=x, y=y, s=skip, t=apart, r=r_hat) + TOLERANCE


def test_sequences_of_two_tokens():
    """The derived expressions of 4.8 against the laws of whole sequences, exactly."""
    trees, rng = module("trees"), Random(13)
    for _ in range(CASES):
        q, y = trees.random_tree(rng, 2, 2), trees.random_tree(rng, 2, 2)
        if any(0 in law for law in y.values()):
            continue  # the expression divides by y
        known = {
            f"{letter}{suffix}": rational(tree[prefix][0])
            for letter, tree in (("q", q), ("y", y))
            for suffix, prefix in (("0", ()), ("00", (0,)), ("10", (1,)))
        }
        law_q, law_y = (trees.sequence_law(tree, 2, 2) for tree in (q, y))
        distance = sum(abs(law_q[word] - law_y[word]) for word in law_q) / 2
        exact = [distance, *(trees.expected_distances(contexts, q, y, 2, 2) for contexts in (y, q))]
        derived = [derivation("sequence_distance").result, *derivation("sequence_bound").result]
        values = [expression.subs({s: known[s.name] for s in expression.free_symbols}) for expression in derived]
        assert values == [rational(value) for value in exact]


def test_published_surrogate():
    """The package's U at the counterexample."""
    script = module("surrogate_not_a_bound")
    x, y = (np.array(law, dtype=float) for law in (script.X_LAW, script.Y_LAW))
    rebuilt = truncation.reconstruct(np.array([0]), x[:1], 3)
    computed = bounds.published_surrogate(total_variation(x, rebuilt), x, rejection_probability(x, y))
    distortion, *surrogates = derivation("surrogate_not_a_bound").result
    assert computed == pytest.approx([float(u) for u in surrogates], abs=TOLERANCE)
    actual = total_variation(residual_law(y, x), residual_law(y, rebuilt))
    assert actual == pytest.approx(float(distortion), abs=1e-9)  # f/R of differences near 1e-2
    assert actual > computed.max()


def test_truncation_distances():
    derived = derivation("truncation_monotone").result
    for (x,) in cases(1):
        descending = sorted(x, reverse=True)
        _, computed = truncation.truncation_distances(floats(descending), np.arange(4))
        assert computed == pytest.approx([at(entry, x=descending) for entry in derived], abs=TOLERANCE)
        for k in range(4):
            kept = truncation.largest(floats(x), k)
            rebuilt = truncation.reconstruct(kept, floats(x)[kept], 3)
            exact = module("laws").truncated(x, [int(v) for v in kept])
            assert rebuilt == pytest.approx(floats(exact), abs=TOLERANCE)
        assert truncation.smallest_size(floats(x), 1.0) == 0
        tolerance = at(derived[1], x=descending)
        assert truncation.smallest_size(floats(x), tolerance + TOLERANCE) <= 1


def test_integral_uncertainty():
    """32 nodes within 1e-3, 128 within 1e-5, against the series of two tokens."""
    series = module("uncertainty_integral").two_token_value
    for gap, theta_max in ((0.05, 2.0), (0.3, 2.0), (1.0, 2.0), (4.0, 2.0), (2.0, 0.5)):
        logits = np.array([gap, 0.0])
        exact = series(gap, theta_max)
        for nodes, error in ((32, 1e-3), (128, 1e-5)):
            computed = uncertainty.mean_uncertainty(logits, np.arange(2), theta_max, nodes)
            assert computed == pytest.approx([exact, 1 - exact], abs=error), (gap, theta_max, nodes)


def test_integral_uncertainty_of_three_tokens():
    integral = derivation("uncertainty_integral").result
    logits = {"z1": Fraction(1, 2), "z2": Fraction(-1, 3), "z3": Fraction(0)}
    (theta,) = integral.atoms(sp.Integral).pop().variables
    known = {symbol: rational({**logits, "theta_max": 2}[symbol.name]) for symbol in integral.free_symbols}
    computed = uncertainty.mean_uncertainty(np.array([float(z) for z in logits.values()]), np.arange(3), 2.0, 128)
    integrand = sp.lambdify(theta, integral.atoms(sp.Integral).pop().function.subs(known))
    exact = 1 - quad(integrand, 0.002, 2.0)[0] / 2 - 0.001  # below 0.002 the integrand is 1 within e^-250
    assert computed[0] == pytest.approx(exact, abs=1e-5)
    assert (1 - computed).sum() == pytest.approx(1, abs=TOLERANCE)


def test_noise_of_sampled_uncertainty():
    variance, attenuation = derivation("uncertainty_noise").result
    for u_bar, samples in product((Fraction(0), Fraction(1, 8), Fraction(2, 3)), (1, 20)):
        computed = uncertainty.sampling_variance(float(u_bar), samples)
        assert computed == pytest.approx(at(variance, u_bar=u_bar, M=samples), abs=TOLERANCE)
    values = [Fraction(n, 7) for n in (0, 1, 1, 3, 6)]
    mean = sum(values) / 5
    spread = sum((u - mean) ** 2 for u in values) / 5
    noise = sum(u * (1 - u) for u in values) / 5
    computed = uncertainty.slope_attenuation(floats(values), 20)
    derived = at(attenuation, Var_u_bar=spread, E_noise=noise, M=20)
    assert computed == pytest.approx(derived, abs=TOLERANCE)


def test_skippable_count():
    count = derivation("skippable_tokens").result
    for scale, t in product((0.0, 0.2, 3.0), (Fraction(1, 3), Fraction(49, 100), Fraction(3, 4), Fraction(9, 10))):
        u_bar = uncertainty.mean_uncertainty(scale * np.cos(np.arange(30.0)), np.arange(30))
        assert (u_bar <= float(t)).sum() <= at(count, t=t)


def test_conformal_threshold():
    """The package's grid choice against the derivation's, on the same rational losses."""
    chosen = module("conformal_threshold").chosen
    rng = Random(3)
    for _ in range(CASES):
        n, eps = rng.randint(1, 12), Fraction(rng.randint(1, 7), 16)
        curves = [sorted(Fraction(rng.randint(0, 4), 16) for _ in range(3)) for _ in range(n)]
        grid = np.array([0.1, 0.2, 0.3])
        computed = conformal_threshold(np.array([floats(curve) for curve in curves]), grid, float(eps))
        best = chosen(curves, eps)
        assert computed == (None if best is None else grid[best])
    rule = derivation("conformal_threshold").result
    needed = prompts_needed(0.05)
    assert at(rule.lhs, n=needed, R_n=0) <= 0.05 < at(rule.lhs, n=needed - 1, R_n=0)


@pytest.mark.parametrize(
    ("mean", "n", "eps"), [("1/50", 50, "1/10"), ("1/4", 20, "1/3"), ("1/2", 10, "1/5"), ("3/7", 7, "1/2")]
)
def test_hoeffding_bentkus(mean, n, eps):
    mean, eps = Fraction(mean), Fraction(eps)
    p = derivation("hoeffding_bentkus").result
    values = {symbol: rational({"n": n, "R": mean, "epsilon": eps}[symbol.name]) for symbol in p.free_symbols}
    computed = hoeffding_bentkus_p_value(float(mean), n, float(eps))
    assert computed == pytest.approx(min(1.0, float(p.subs(values).doit())), rel=1e-10)


def test_betting_martingale():
    """Each factor, and the capital of the script's own bets along a path, from its definition."""
    script, losses, eps = module("betting_martingale"), [Fraction(n, 8) for n in (0, 3, 1, 8, 0)], Fraction(1, 4)
    factors = [[float((1 - c) + c * loss / eps) for loss in losses] for c in script.BETS]
    computed = np.exp(log_capital(np.log(factors)))
    assert computed == pytest.approx([float(value) for value in script.capital(losses, eps)], rel=1e-12)
    factor = derivation("betting_martingale").result
    first = np.mean([at(factor, c=c, L=Fraction(3, 8), epsilon=eps) for c in RISK_BETS])
    assert np.exp(log_risk_e_values(np.array([0.375]), 0.25)) == pytest.approx([0.5 + 0.5 * first], rel=1e-12)


def test_threshold_rule_needs_no_more_than_the_levels():
    """The optimum of 6.2 by an independent solver."""
    from scipy.optimize import linprog

    script, rng = module("threshold_optimality"), Random(5)
    for _ in range(CASES):
        states, budget = script._random_states(rng), Fraction(rng.randint(0, 12), 24)
        w, m, gain = (np.array([float(state[axis]) for state in states]) for axis in range(3))
        best = linprog(-w * gain, A_ub=[w * m], b_ub=[float(budget)], bounds=(0, 1))
        assert -best.fun == pytest.approx(float(script.threshold_value(states, budget)[0]), abs=1e-9)


def test_linear_budget():
    """R(t) as a polynomial integral for whole p and q, and by another library's incomplete beta function."""
    risk = derivation("beta_linear_budget").result
    for a, b, p, q, t in ((0.8, -0.1, 2, 3, 0.6), (0.5, 0.1, 1, 4, 0.3), (0.9, -0.2, 3, 2, 0.9)):
        start = max(0.0, -b / a)
        scale = math.gamma(p + q) / math.gamma(p) / math.gamma(q)
        line = np.polynomial.Polynomial([b, a])
        weight = scale * np.polynomial.Polynomial([0, 1]) ** (p - 1) * np.polynomial.Polynomial([1, -1]) ** (q - 1)
        antiderivative = (line * weight).integ()  # 0 <= a u + b <= 1 from t0 on, so the clip is not seen
        expected = antiderivative(t) - antiderivative(start)
        known = {"a": a, "b": b, "p": p, "q": q, "t": t, "t0": start}
        derived = risk.subs({symbol: known[symbol.name] for symbol in risk.free_symbols}).evalf()
        direct = a * p / (p + q) * (betainc(p + 1, q, t) - betainc(p + 1, q, start))
        direct += b * (betainc(p, q, t) - betainc(p, q, start))
        assert float(derived) == pytest.approx(expected, abs=1e-9)
        assert float(derived) == pytest.approx(direct, abs=1e-9)


def test_draft_length():
    best = derivation("draft_length").result
    for alpha, cost in ((0.5, 0.07), (0.8, 0.3), (0.9, 0.05), (0.3, 0.9)):
        derived = float(best.subs({s: {"alpha": alpha, "L": cost}[s.name] for s in best.free_symbols}).evalf())
        grid = np.linspace(0, 40, 400_001)
        speed = (1 - alpha ** (grid + 1)) / ((1 - alpha) * (grid * cost + 1))
        assert derived == pytest.approx(grid[np.argmax(speed)], abs=1e-3)  # the grid's step is 1e-4, the peak is flat
        assert speculation.optimal_draft_length(alpha, cost) == pytest.approx(derived, abs=1e-9)
    tokens = module("draft_length").TOKENS
    for alpha, drafts in ((Fraction(1, 2), 3), (Fraction(9, 10), 7)):
        assert speculation.tokens_per_round(float(alpha), drafts) == pytest.approx(at(tokens, alpha=alpha, g=drafts))


def test_speculative_rounds():
    """The round that the decoder samples from, against the enumeration in rationals; x, y depend on the prefix."""
    trees, rounds = module("trees"), module("speculative_rounds")
    rng = Random(3)
    x, y = (trees.random_tree(rng, 2, 4) for _ in range(2))
    law: dict[tuple[int, ...], float] = {}
    for drafts in product(range(2), repeat=2):
        before = [drafts[:n] for n in range(3)]
        uploads = tuple(verification.Proposal(draft=drafts[n], law=floats(x[before[n]])) for n in range(2))
        drafted = verification.Round(drafts=drafts, uploads=uploads).law([floats(y[prefix]) for prefix in before])
        for tokens, probability in drafted.items():
            drawn = float(x[()][drafts[0]] * x[drafts[:1]][drafts[1]])
            law[tokens] = law.get(tokens, 0.0) + drawn * probability
    derived = rounds._round(x, y, (), 2, 2)
    for tokens in {*law, *derived}:
        assert law.get(tokens, 0.0) == pytest.approx(float(derived.get(tokens, 0)), abs=TOLERANCE)


def test_a_round_that_drops_the_draft_that_stopped_it():
    """One position of two tokens, the first sure: the round of no drafts where the second was drawn."""
    for x, y in cases(2, size=2):
        p, q = floats(x), floats(y)
        tested = verification.Round(drafts=(0,), uploads=(verification.Proposal(draft=0, law=p),)).law([q])
        output = np.array([p[0] * tested.get((v,), 0.0) + p[1] * q[v] for v in range(2)])
        bias = at(derivation("deferred_verification").result, x=x[:1], y=y[:1])
        assert total_variation(output, q) == pytest.approx(bias, abs=TOLERANCE)


def test_goodput_rate_and_ergodic_capacity():
    rate, capacity = derivation("goodput_rate").result, derivation("ergodic_capacity").result
    for mean in (Fraction(1, 2), Fraction(10), Fraction(316)):
        g = float(mean)
        assert best_fixed_rate(Rayleigh(g)) == pytest.approx(at(rate, g=mean), rel=1e-10)
        grid = np.linspace(0.01, 12, 200_001)
        assert at(rate, g=mean) == pytest.approx(grid[np.argmax(grid * np.exp(-(2**grid - 1) / g))], abs=1e-3)
        for same in (Rayleigh(g), Nakagami(g, 1.0)):  # in closed form, and by quadrature
            assert ergodic_capacity(same) == pytest.approx(at(capacity, g=mean), rel=1e-9)


def test_fading_whose_mean_latency_is_infinite():
    """The three densities at 0 are positive; Nakagami with m > 1 stays under the stated bound."""
    assert at(derivation("fading_divergence").result[0], g=2) > 0
    assert Rayleigh(2.0).diverges
    assert Rician(2.0, 3.0).diverges
    assert [Nakagami(2.0, m).diverges for m in (0.5, 1.0, 1.01)] == [True, True, False]
    mean = 1 / InstantaneousUplink(bandwidth_hz=1.0, fading=Nakagami(4.0, 2.0)).rate_bps
    assert mean < math.log(2) * (1 + 2 / 4)


def test_diverging_mean_grows_with_the_cut_off():
    """The quadrature that hides the divergence: lowering its cut-off adds ln 2 f(0) ln(ratio) each time."""
    at_zero = at(derivation("fading_divergence").result[0], g=10)

    def cut_off(start):
        return quad(lambda s: math.log(2) / math.log1p(s) * math.exp(-s / 10) / 10, start, 1e-3)[0]

    growth = cut_off(1e-8) - cut_off(1e-6)
    assert growth == pytest.approx(math.log(2) * at_zero * math.log(100), rel=1e-4)


def test_cell_rate():
    rate, curvature = derivation("cell_convexity").result
    for width, power in ((Fraction(1), Fraction(3)), (Fraction(1, 4), Fraction(2)), (Fraction(5), Fraction(1, 3))):
        known = {"W": width, "c": power}
        uplink = AwgnUplink(bandwidth_hz=float(width), snr=float(power / width))
        assert uplink.rate_bps == pytest.approx(at(rate, **known), rel=TOLERANCE)
        step = 1e-3 * float(width)
        rates = [
            AwgnUplink(bandwidth_hz=w, snr=float(power) / w).rate_bps
            for w in (float(width) - step, float(width), float(width) + step)
        ]
        second = (rates[0] - 2 * rates[1] + rates[2]) / step**2
        assert second == pytest.approx(at(curvature, **known), rel=1e-4)

"""When LLM-only is faster than a one-draft hybrid [N, THEORY 3].

The difference of the two mean times per token, T_hybrid - T_llm with T_hybrid = slm + gate + (1-p)(up + r + llm) and
T_llm = llm + downlink + r/T, is (1-p)(up + r) + gate - (p llm - slm + downlink + r/T): LLM-only wins where it is
positive.
"""

import sympy as sp
from derivation import Derivation, Source, show, vanishes

P, SLM, GATE, UP, ROUND_TRIP, LLM, DOWNLINK, LENGTH = sp.symbols(
    "p tau_slm tau_gate tau_up r tau_llm tau_down T", positive=True
)
CONDITION = sp.Gt((1 - P) * (ROUND_TRIP + UP) + GATE, P * LLM - SLM + DOWNLINK + ROUND_TRIP / LENGTH)


def derive() -> Derivation:
    """Compare the condition with the difference of the two times."""
    hybrid = SLM + GATE + (1 - P) * (UP + ROUND_TRIP + LLM)
    alone = LLM + DOWNLINK + ROUND_TRIP / LENGTH
    return Derivation(
        name="llm_only_crossover",
        theory="3",
        statement="LLM-only is faster than a one-draft hybrid iff (1-p)(r + tau_up) + tau_gate > p tau_llm - "
        "tau_slm + downlink + r/T",
        latex=r"(1-p)(r + \tau_{\mathrm{up}}) + \tau_{\mathrm{gate}} > p\,\tau_{\mathrm{llm}} - \tau_{\mathrm{slm}}"
        r" + \tau_{\mathrm{down}} + \frac{r}{T}",
        source=Source.OWN,
        assumptions=("one draft a round", "no pipelining", "tau_llm is the mean time of a pass"),
        method="algebra",
        result=CONDITION,
        holds=vanishes((CONDITION.lhs - CONDITION.rhs) - (hybrid - alone)),
    )


if __name__ == "__main__":
    show(derive)

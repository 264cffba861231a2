"""The definitions that figures and columns link to: in the paper's terms, and where they are ours."""

from __future__ import annotations

from typing import Final

PAPER: Final = (
    "Voita, Ferrando, Nalmpantis (2023), Neurons in Large Language Models: Dead, N-gram, "
    "Positional, arXiv 2309.04827"
)

DEFINITIONS: Final = {
    "fires": (
        "Fires, frequency",
        (
            "A neuron is one coordinate between the two matrices of a feed-forward layer, z = fc1(x) + b. "
            "It fires at a position where z > 0, taken on the float32 sum. Its frequency is its fires over "
            "all positions that were run, BOS and separators included."
        ),
    ),
    "dead": (
        "Dead neurons",
        (
            "A neuron is dead when it never fires in the corpus; it may fire in another. The mean "
            "frequency of a layer is that of its neurons that are not dead."
        ),
    ),
    "provably-dead": (
        "Proven dead, proven always on",
        (
            "A LayerNorm bounds what fc1 can read, so the weights alone bound z over every possible input: "
            "sup z = sqrt(D) |P(w gamma)| + w beta + b, and inf z likewise with a minus. With a margin for "
            "rounding, a neuron with sup z below 0 can never fire, one with inf z above 0 always does."
        ),
    ),
    "trigger": (
        "Triggers",
        (
            "A fire at position k is triggered by the n-gram that ends there. N-grams never cross "
            "documents and hold no BOS and no separator. Precision is fires over occurrences."
        ),
    ),
    "covering-number": (
        "Covering number",
        (
            "The least number of n-grams that together hold at least 95 % of a neuron's fires at positions "
            "where an n-gram ends; 0 when there are none. Tested in integers. In merged runs it may be "
            "known in bounds only."
        ),
    ),
    "detector": (
        "Detectors",
        (
            "A neuron detects n-grams when its covering number is at most 5 (tokens) or 50 (longer ones), "
            "and the n-grams on which it fires at least 95 % of the times they occur hold at least 95 % of "
            "its fires. A neuron's role is the least such n. A detector is supported when n-grams that "
            "occur at least 5 times hold 95 % of its fires: rare n-grams make detectors by chance."
        ),
    ),
    "ensemble": (
        "Ensembles",
        (
            "The set of n-grams that the detectors of a layer cover; cumulative over layers; new against "
            "all lower layers, and against the layer below."
        ),
    ),
    "suppression": (
        "Promoted and suppressed tokens",
        (
            "A neuron's update, its column of fc2, is projected onto the vocabulary. Centred: less the mean "
            "over the vocabulary, which softmax ignores. A detector suppresses its triggers when their "
            "scores are negative. Ranks count from 1, the most promoted."
        ),
    ),
    "positional": (
        "Positional neurons",
        (
            "I = 1/T sum over positions p of fr(p) log(fr(p)/fr) + (1 - fr(p)) log((1 - fr(p))/(1 - fr)), "
            "the mutual information of firing and position in nats, over sequences that fill the context. "
            "Positional: I > 0.05. With N sequences a neuron without any effect shows about 1/(2N), the "
            "bias. Below 50 sequences the class is left open."
        ),
    ),
    "positional-types": (
        "Types of positional neurons",
        (
            "Oscillatory: the smoothed curve crosses its range at least 3 times. Both: it has intervals at "
            "frequency 0 and at 1; one: only one of these; other: none. Strong: exactly 0 or 1 there; "
            "weak: within 5 %. The rules are ours, the paper judges by eye."
        ),
    ),
    "numeric": (
        "Numeric mode",
        (
            "The type in which products are taken. A run that is not in float32 repeats its first tokens in "
            "float32 and counts the fires gained and lost, as a share of fires."
        ),
    ),
}
"""Title and text by anchor."""

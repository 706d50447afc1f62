"""How sure a number is: intervals and tests for trials that are either resolved or not."""

from swe_eval.statistics.family import benjamini_hochberg, holm, leave_one_out, select
from swe_eval.statistics.interval import Interval, bca, wilson
from swe_eval.statistics.paired import Paired
from swe_eval.statistics.power import ALPHA, MOST_PAIRS, POWER, detectable, needed, power
from swe_eval.statistics.repeated import Repeated, pass_at_k, pass_hat_k

__all__ = [
    "ALPHA",
    "MOST_PAIRS",
    "POWER",
    "Interval",
    "Paired",
    "Repeated",
    "bca",
    "benjamini_hochberg",
    "detectable",
    "holm",
    "leave_one_out",
    "needed",
    "pass_at_k",
    "pass_hat_k",
    "power",
    "select",
    "wilson",
]

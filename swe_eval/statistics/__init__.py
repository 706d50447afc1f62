"""How sure a number is. Intervals and tests for tries that were resolved or not, on scipy."""

from swe_eval.statistics.family import benjamini_hochberg, holm, leave_one_out, select
from swe_eval.statistics.interval import Interval, over_instances, wilson
from swe_eval.statistics.paired import Paired
from swe_eval.statistics.power import ALPHA, MOST, POWER, detectable, needed, power
from swe_eval.statistics.repeated import Repeated, pass_at, pass_hat

__all__ = [
    "ALPHA",
    "MOST",
    "POWER",
    "Interval",
    "Paired",
    "Repeated",
    "benjamini_hochberg",
    "detectable",
    "holm",
    "leave_one_out",
    "needed",
    "over_instances",
    "pass_at",
    "pass_hat",
    "power",
    "select",
    "wilson",
]

"""Is one model better than another on the same users? Paired differences of the users' metrics (SciPy)."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
BLOCK = 1 << 24  # resampled users held at a time
METHOD = "p: two-tailed paired t-test over users; 95 % interval: bootstrap over users"  # what tables say of `compare`


@dataclass(frozen=True)
class Difference:
    """The mean over users of one model's metric minus another's.

    Attributes:
        mean: of the paired differences.
        low: lower end of the 95 % bootstrap interval over users.
        high: its upper end.
        p: two-sided p-value of no difference.
    """

    mean: float
    low: float
    high: float
    p: float


def compare(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """Compare a metric of the same users [U] under two models.

    Choice: the p-value is the paired t-test's, which for a mean over thousands of users agrees with a permutation test; the
    interval is the percentile bootstrap's, which holds where most differences are zero.
    """
    differences = first - second
    if not differences.any():
        return Difference(0.0, 0.0, 0.0, 1.0)
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BLOCK // len(differences)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    p = stats.ttest_rel(first, second).pvalue
    return Difference(float(differences.mean()), float(interval.low), float(interval.high), float(p))

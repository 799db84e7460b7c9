"""Votes joined with the key: the share of each network, with its uncertainty."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.survey.votes import SurveyKey, Votes, read_key, read_votes

CONFIDENCE = 0.95
NO_DIFFERENCE_LABEL = "(no difference)"
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class VoteShare:
    """The votes for one network, or for no difference.

    Attributes:
        label: The network.
        votes: Total number.
        shares: Fraction of each voter's answers, in the order of the voters.
        low: Lower end of the interval of ``share``.
        high: Upper end.
        test: Where ``p`` is from: ``t``, paired over the voters; ``sign``, over the voters if their
            differences have no spread; ``binomial``, over the answers of a single voter; empty for the
            baseline and for no difference.
        p: Probability of a difference from the baseline at least as large as this, if there is none.
        p_holm: The same, corrected for the number of networks.
    """

    label: str
    votes: int
    shares: tuple[float, ...]
    low: float
    high: float
    test: str = ""
    p: float | None = None
    p_holm: float | None = None

    @property
    def share(self) -> float:
        """Mean of the voters' shares."""
        return statistics.fmean(self.shares)


@dataclass(frozen=True)
class RejectedFile:
    """A vote file that was not counted."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Tally:
    """The outcome of a survey.

    Attributes:
        baseline: The network that the others are compared with.
        networks: The baseline first.
        no_difference: The votes for no network.
        questions: Number of questions in the survey.
        answered: How many of them each voter answered.
        rejected: Files that were not counted.
    """

    baseline: str
    networks: tuple[VoteShare, ...]
    no_difference: VoteShare
    questions: int
    answered: tuple[int, ...]
    rejected: tuple[RejectedFile, ...] = ()

    @property
    def rows(self) -> tuple[VoteShare, ...]:
        """The networks, followed by no difference."""
        return (*self.networks, self.no_difference)

    def verdict(self, row: VoteShare) -> str:
        """Return ``more`` or ``fewer`` than the baseline, ``unresolved``, or nothing if it was not tested."""
        if row.p_holm is None:
            return ""
        if row.p_holm >= 1 - CONFIDENCE:
            return "unresolved"
        return "more" if row.share > self.networks[0].share else "fewer"


def count_votes(key: str | Path, files: Sequence[str | Path]) -> Tally:
    """Count the votes of a survey.

    Voters are the independent units. With two or more, the intervals use the t distribution over their
    shares, and the p-values are those of the paired t-test. With one voter every answer counts as
    independent: Wilson's interval, and the exact binomial test of the votes for either of the two networks.
    Where all voters have the same share, Wilson's interval takes all answers as independent, too.
    Holm's correction keeps the probability of any false finding at 5 % or less, whatever the networks have
    in common.

    Args:
        key: The ``key.json`` of the survey.
        files: The vote files. Those that cannot be counted are listed with the reason.

    Raises:
        UsageError: The key is damaged, or no vote file can be counted.
    """
    survey = read_key(key)
    voters, rejected = _collect(survey, [Path(path) for path in files])
    if not voters:
        raise UsageError(
            f"no vote file can be counted ({_reasons(rejected)}); give the files that the voters sent."
        )
    return Tally(
        survey.networks[0],
        _compared([_count(label, label, voters) for label in survey.networks], voters),
        _count(NO_DIFFERENCE_LABEL, None, voters),
        len(survey.questions),
        tuple(len(votes.answers) for votes in voters),
        tuple(rejected),
    )


def _collect(key: SurveyKey, paths: Iterable[Path]) -> tuple[list[Votes], list[RejectedFile]]:
    """Read the files, and keep one per voter: the most complete one, the first of equals."""
    kept: dict[str, tuple[Path, Votes]] = {}
    rejected = []
    for path in paths:
        try:
            votes = read_votes(path, key)
        except UsageError as error:
            rejected.append(RejectedFile(path, str(error)))
            continue
        earlier = kept.setdefault(votes.voter, (path, votes))
        if earlier[1] is votes:
            continue
        best, other = sorted([earlier, (path, votes)], key=lambda one: -len(one[1].answers))
        kept[votes.voter] = best
        rejected.append(RejectedFile(other[0], _repeated(other[1], best[1], best[0])))
    return [votes for _, votes in kept.values()], rejected


def _repeated(votes: Votes, best: Votes, path: Path) -> str:
    """Return why votes do not count besides better ones of the same voter."""
    if votes == best:
        return f"duplicate: the same votes as {path}"
    count, most = len(votes.answers), len(best.answers)
    tie = f"came first and also answers {count}" if count == most else f"answers {most}, this one {count}"
    return f"other votes of the same voter as {path}, which {tie}"


def _reasons(rejected: Sequence[RejectedFile]) -> str:
    reasons = [f"{one.path}: {one.reason}" for one in rejected[:_REASONS_SHOWN]]
    more = [f"and {len(rejected) - _REASONS_SHOWN} more"] if len(rejected) > _REASONS_SHOWN else []
    return "; ".join(reasons + more) or "none was given"


def _count(label: str, network: str | None, voters: Sequence[Votes]) -> VoteShare:
    counts = [_votes_for(network, votes) for votes in voters]
    # division is correctly rounded, so equal shares are equal numbers
    shares = tuple(n / len(votes.answers) for n, votes in zip(counts, voters, strict=True))
    if len(set(shares)) == 1:  # one voter, or no spread from which to estimate that between voters
        answers = sum(len(votes.answers) for votes in voters)
        interval = stats.binomtest(sum(counts), answers).proportion_ci(CONFIDENCE, "wilson")
        low, high = float(interval.low), float(interval.high)
    else:
        mean, error = statistics.fmean(shares), stats.sem(shares)
        low, high = (float(x) for x in stats.t.interval(CONFIDENCE, len(shares) - 1, mean, error))
    return VoteShare(label, sum(counts), shares, max(low, 0.0), min(high, 1.0))


def _votes_for(network: str | None, votes: Votes) -> int:
    return list(votes.answers.values()).count(network)


def _compared(networks: Sequence[VoteShare], voters: Sequence[Votes]) -> tuple[VoteShare, ...]:
    """Test every network against the first."""
    base, *others = networks
    tests = [_test(other, base, voters) for other in others]
    corrected = holm([p for _, p in tests])
    rows = zip(others, tests, corrected, strict=True)
    return (base, *(replace(other, test=test, p=p, p_holm=p_holm) for other, (test, p), p_holm in rows))


def _test(other: VoteShare, base: VoteShare, voters: Sequence[Votes]) -> tuple[str, float]:
    if len(voters) == 1:
        return "binomial", _binomial_p(other.votes, other.votes + base.votes)
    differences = {
        (_votes_for(other.label, votes) - _votes_for(base.label, votes)) / len(votes.answers)
        for votes in voters
    }
    if len(differences) > 1:
        return "t", float(stats.ttest_rel(other.shares, base.shares).pvalue)
    # without spread the t-test divides by 0
    return "sign", _binomial_p(len(voters), len(voters)) if differences != {0} else 1.0


def _binomial_p(successes: int, trials: int) -> float:
    return float(stats.binomtest(successes, trials).pvalue) if trials else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1, np.asarray(values)[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(scaled)
    return [float(p) for p in corrected]

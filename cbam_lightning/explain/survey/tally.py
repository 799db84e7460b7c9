"""Votes joined with the key: the share of each network, and how sure it is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import stats

from cbam_lightning.errors import UsageError
from cbam_lightning.explain.survey.ballots import Ballot, Key, read_ballot, read_key

CONFIDENCE = 0.95
NO_DIFFERENCE_LABEL = "(no difference)"
_REASONS_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """What one network got, or the answer that there is no difference.

    Attributes:
        label: The network.
        votes: All that it got.
        shares: Votes by answers of each voter, in the order of the voters.
        low: Lower end of the interval of ``share``.
        high: Upper end.
        test: What ``p`` is from: ``t`` paired over the voters; ``sign`` over the voters, where their
            differences have no spread; ``binomial`` over the answers of one voter; empty for the baseline
            and for no difference.
        p: Probability of a difference from the baseline as large as this, if there is none.
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
class Rejected:
    """A vote file that was not counted."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Tally:
    """The outcome of a survey.

    Attributes:
        baseline: The network that the others are compared with.
        networks: The baseline first.
        no_difference: What was given to none.
        questions: Of the survey.
        answered: How many of them each voter answered.
        rejected: Files that were not counted.
    """

    baseline: str
    networks: tuple[Row, ...]
    no_difference: Row
    questions: int
    answered: tuple[int, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The networks, and last no difference."""
        return (*self.networks, self.no_difference)

    def verdict(self, row: Row) -> str:
        """Say ``more`` or ``fewer`` than the baseline, ``unresolved``, or nothing where none was tested."""
        if row.p_holm is None:
            return ""
        if row.p_holm >= 1 - CONFIDENCE:
            return "unresolved"
        return "more" if row.share > self.networks[0].share else "fewer"


def tally(key: str | Path, votes: Sequence[str | Path]) -> Tally:
    """Count votes.

    Voters are the independent units. With two or more, intervals are of the t distribution over their
    shares, and p-values of the paired t-test. With one, every answer counts as independent: Wilson's
    interval, and the exact binomial test of the votes that either of the two networks got. Holm's correction
    makes the probability of any wrong finding at most 5 %, whatever the networks have in common.

    Args:
        key: The ``key.json`` of the survey.
        votes: What the voters sent back. A file that cannot be counted is listed with the reason.

    Raises:
        UsageError: The key is damaged, or no vote file can be counted.
    """
    known = read_key(key)
    ballots, rejected = _collect(known, [Path(path) for path in votes])
    if not ballots:
        message = f"no vote file can be counted ({_reasons(rejected)}); give what the voters sent back."
        raise UsageError(message)
    networks = _tested([_row(label, label, ballots) for label in known.networks], ballots)
    return Tally(
        known.networks[0],
        networks,
        _row(NO_DIFFERENCE_LABEL, None, ballots),
        len(known.questions),
        tuple(len(ballot.answers) for ballot in ballots),
        tuple(rejected),
    )


def _collect(key: Key, paths: Iterable[Path]) -> tuple[list[Ballot], list[Rejected]]:
    """Read the files, and keep one of each voter: the more complete one, of equals the first."""
    kept: dict[str, tuple[Path, Ballot]] = {}
    rejected = []
    for path in paths:
        try:
            ballot = read_ballot(path, key)
        except UsageError as error:
            rejected.append(Rejected(path, str(error)))
            continue
        other = kept.get(ballot.voter)
        if other is None:
            kept[ballot.voter] = path, ballot
        elif other[1] == ballot:
            rejected.append(Rejected(path, f"double: the same votes as {other[0]}"))
        else:
            better, worse = sorted([other, (path, ballot)], key=lambda one: -len(one[1].answers))
            kept[ballot.voter] = better
            rejected.append(
                Rejected(worse[0], _second(len(worse[1].answers), len(better[1].answers), better[0]))
            )
    return [ballot for _, ballot in kept.values()], rejected


def _reasons(rejected: Sequence[Rejected]) -> str:
    reasons = [f"{one.path}: {one.reason}" for one in rejected[:_REASONS_SHOWN]]
    more = [f"and {len(rejected) - _REASONS_SHOWN} more"] if len(rejected) > _REASONS_SHOWN else []
    return "; ".join(reasons + more) or "none was given"


def _second(ours: int, theirs: int, path: Path) -> str:
    if ours == theirs:
        return f"other votes of the same voter as {path}, which came first; both answer {ours}"
    return f"other votes of the same voter as {path}, which answers {theirs}, this {ours}"


def _row(label: str, network: str | None, ballots: Sequence[Ballot]) -> Row:
    votes = [_votes(ballot, network) for ballot in ballots]
    # a division is rounded correctly, so equal shares are equal numbers
    shares = tuple(n / len(ballot.answers) for n, ballot in zip(votes, ballots, strict=True))
    if len(ballots) == 1:
        found = stats.binomtest(votes[0], len(ballots[0].answers)).proportion_ci(CONFIDENCE, "wilson")
        low, high = float(found.low), float(found.high)
    elif len(set(shares)) == 1:  # no spread: SciPy's interval is not a number
        low = high = shares[0]
    else:
        mean, error = statistics.fmean(shares), stats.sem(shares)
        low, high = (float(x) for x in stats.t.interval(CONFIDENCE, len(shares) - 1, mean, error))
    return Row(label, sum(votes), shares, max(low, 0.0), min(high, 1.0))


def _votes(ballot: Ballot, network: str | None) -> int:
    return sum(answer == network for answer in ballot.answers.values())


def _tested(rows: Sequence[Row], ballots: Sequence[Ballot]) -> tuple[Row, ...]:
    """Compare every network with the first."""
    base, *others = rows
    found = [_test(row, base, ballots) for row in others]
    corrected = holm([p for _, p in found])
    return (
        base,
        *(
            replace(row, test=test, p=p, p_holm=p_holm)
            for row, (test, p), p_holm in zip(others, found, corrected, strict=True)
        ),
    )


def _test(row: Row, base: Row, ballots: Sequence[Ballot]) -> tuple[str, float]:
    if len(ballots) == 1:
        return "binomial", _even(row.votes, row.votes + base.votes)
    differences = {
        (_votes(ballot, row.label) - _votes(ballot, base.label)) / len(ballot.answers) for ballot in ballots
    }
    if len(differences) > 1:
        return "t", float(stats.ttest_rel(row.shares, base.shares).pvalue)
    # without spread the t-test divides by 0
    return "sign", _even(len(ballots), len(ballots)) if differences != {0} else 1.0


def _even(successes: int, trials: int) -> float:
    return float(stats.binomtest(successes, trials).pvalue) if trials else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected

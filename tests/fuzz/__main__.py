"""The long run: `python -m tests.fuzz --minutes 30`, or `make fuzz MINUTES=30`.

Every class gets the same share of the time, or --cases of each. Findings are printed with a case that repeats them:
`python -m tests.fuzz --classes masks --repeat "('0.png', [('cut', 8)])"`.
"""

from __future__ import annotations

import argparse
import ast
import collections
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.child import Child, Outcome
from tests.fuzz.classes import CLASSES

_CHUNK = 100  # cases between two looks at the clock
_SHOWN = 5  # findings of one class that are printed
_LONG = 500  # characters; cases with more are written to a file
_FOLDER = Path("outputs/fuzz")


def campaign(
    name: str, seconds: float, cases: int, first_seed: int
) -> tuple[collections.Counter[str], list[tuple[Any, Outcome]]]:
    """Runs fresh cases of one class until the time or their number is used up."""
    counts: collections.Counter[str] = collections.Counter()
    findings: list[tuple[Any, Outcome]] = []
    child = Child()
    end = time.monotonic() + seconds
    largest = 0

    def one(case: Any) -> None:
        nonlocal largest
        if counts.total() >= cases or time.monotonic() > end:
            return
        outcome = child.run(name, case)
        counts[outcome.kind] += 1
        largest = max(largest, outcome.growth)
        if outcome.finding:
            findings.append((case, outcome))

    try:
        for number in range(10**6):
            if counts.total() >= cases or time.monotonic() > end:
                break
            run = settings(
                max_examples=_CHUNK, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )(given(CLASSES[name].cases)(one))  # fmt: skip
            seed(first_seed + number)(run)()
    finally:
        child.close()
    counts["largest growth, MB"] = largest // 10**6
    return counts, findings


def main(arguments: list[str]) -> int:
    """Returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Malformed inputs to every reader.")
    parser.add_argument("--minutes", type=float, default=10, help="for all classes together (default: 10)")
    parser.add_argument("--cases", type=int, default=10**9, help="of each class, at most")
    parser.add_argument("--classes", nargs="+", choices=sorted(CLASSES), default=list(CLASSES))
    parser.add_argument("--seed", type=int, default=0, help="other cases (default: 0)")
    parser.add_argument("--repeat", metavar="CASE", help="one case as a run printed it, or @FILE; with --classes")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if args.repeat:
        child = Child()
        text = Path(args.repeat[1:]).read_text() if args.repeat.startswith("@") else args.repeat
        outcome = child.run(args.classes[0], ast.literal_eval(text))
        child.close()
        print(outcome.kind, outcome.text, f"+{outcome.growth / 1e6:.0f} MB")
        return int(outcome.finding)
    found = 0
    for name in args.classes:
        counts, findings = campaign(name, args.minutes * 60 / len(args.classes), args.cases, args.seed)
        largest = counts.pop("largest growth, MB")
        parts = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        print(f"{name:12} {counts.total():6} cases: {parts}; at most +{largest} MB", flush=True)
        found += len(findings)
        different = {outcome.text.strip()[-160:]: (case, outcome) for case, outcome in reversed(findings)}
        for number, (case, outcome) in enumerate(list(different.values())[:_SHOWN]):
            shown = repr(case)
            if len(shown) > _LONG:
                _FOLDER.mkdir(parents=True, exist_ok=True)
                (_FOLDER / f"{name}-{args.seed}-{number}.txt").write_text(shown)
                shown = f"@{_FOLDER}/{name}-{args.seed}-{number}.txt"
            lines = [line[:200] for line in outcome.text.strip().splitlines()[-12:]]
            print("\n    ".join([f"\n  {outcome.kind}: {shown}", *lines]), flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Several models under one budget on one data set: trained or loaded, scored, timed here, on one page.

`segmentarium compare` and `compare(candidates, options)` are the same; see docs/compare.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.comparison.budget import Budget
    from segmentarium.comparison.candidates import Candidate, candidates_of_models, candidates_of_recipes
    from segmentarium.comparison.engine import ComparisonOptions, compare
    from segmentarium.comparison.outcome import Comparison
    from segmentarium.comparison.pareto import pareto_front

_HOME_OF = {
    "Budget": "budget",
    "Candidate": "candidates",
    "Comparison": "outcome",
    "ComparisonOptions": "engine",
    "candidates_of_models": "candidates",
    "candidates_of_recipes": "candidates",
    "compare": "engine",
    "pareto_front": "pareto",
}

__all__ = [
    "Budget",
    "Candidate",
    "Comparison",
    "ComparisonOptions",
    "candidates_of_models",
    "candidates_of_recipes",
    "compare",
    "pareto_front",
]


__getattr__ = lazy_names(__name__, _HOME_OF)

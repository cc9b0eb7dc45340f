"""Speed and memory of models on this machine: what `segmentarium benchmark` and `benchmarks/` measure with."""

from segmentarium.benchmarking.case import Case, Measurement, run_case
from segmentarium.benchmarking.machine import machine_facts
from segmentarium.benchmarking.run import benchmark
from segmentarium.benchmarking.timing import Latency, alternate, ratio, time_calls

__all__ = [
    "Case",
    "Latency",
    "Measurement",
    "alternate",
    "benchmark",
    "machine_facts",
    "ratio",
    "run_case",
    "time_calls",
]

"""Benchmark: what it measures is what it says, in processes of their own, and failures are results too."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import segmentarium
from benchmarks import peer_networks, peers, reference
from benchmarks.context_cluster import ContextClusterTiny
from benchmarks.peer_networks import fit_classifier
from segmentarium import create_model
from segmentarium.benchmarking import (
    Case,
    Latency,
    Measurement,
    alternate,
    machine,
    machine_facts,
    ratio,
    run_case,
    time_calls,
)
from segmentarium.benchmarking.case import photo_bytes
from segmentarium.benchmarking.forms import build_form
from segmentarium.benchmarking.machine import describe
from segmentarium.benchmarking.report import COLUMNS, as_row, remarks, table, write_csv, write_plot, write_report
from segmentarium.benchmarking.size import multiply_adds, parameters_millions
from segmentarium.cli.main import main
from segmentarium.cli.tables import plain
from segmentarium.data.image_io import read_image
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.table import load_state

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
CASE = Case("pphumanseg", "eager", (64, 96), threads=1, warmup=1, repeats=3, num_classes=2)


def done(form: str, milliseconds: float) -> Measurement:
    case = Case("pphumanseg", form, (64, 96))
    latency = Latency(milliseconds, milliseconds * 1.1, milliseconds * 1.2, milliseconds * 0.9, 20)
    return Measurement(case, 0.13, 0.02, latency, latency, 1e3 / milliseconds, 300.0, 40.0, 0.999)


def test_percentiles() -> None:
    seconds = [0.001 * value for value in range(1, 102)]
    latency = Latency.of(seconds)
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx((51, 91, 100))
    assert (latency.least, latency.calls) == (pytest.approx(1), 101)
    with pytest.raises(ValueError, match="repeats must be 1 or more"):
        Latency.of([])


def test_warm_up_is_called_and_not_counted() -> None:
    calls: list[int] = []
    assert time_calls(lambda: calls.append(1), warmup=3, repeats=5).calls == 5
    assert len(calls) == 8


def test_rounds_alternate_and_ratios_are_of_each_round() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, warmup=1, rounds=3)
    assert "".join(calls) == "ab" + "ababab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    # the machine was ten times slower in the second round: for both
    assert ratio([2, 20, 3], [1, 10, 1]) == 2


@LINUX
def test_the_peak_counts_what_was_freed_since() -> None:
    # in a process of its own: another test may have made this one's allocator keep what is freed
    code = """
import numpy as np
from segmentarium.benchmarking.memory import peak_mb, reset_peak, resident_mb
assert reset_peak()
before = resident_mb()
block = np.ones(25_000_000)  # 200 MB
del block
peak = peak_mb()
reset_peak()
print(before, peak, peak_mb())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak, after = map(float, done.stdout.split())
    assert 150 < peak - before < 300
    assert after < peak - 100


@LINUX
def test_the_allocator_setting_saves_the_page_faults() -> None:
    """What the command line does before every verb: freed memory is used again without faulting each page anew."""
    program = """
import resource, sys
from segmentarium.cli.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1); raise SystemExit
import torch
torch.set_num_threads(1)
for call in range(20):
    if call == 10:  # the heap has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000).add(1)  # above 32 MB glibc never learns by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    default, kept = (
        int(subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=True).stdout)
        for word in ("default", "keep")
    )
    if kept < 0:
        pytest.skip("the C library has no mallopt")
    assert default > 190_000  # two tensors of 40 MB are 19,531 pages
    assert kept * 5 < default


@LINUX
def test_a_server_s_threads_share_what_is_freed() -> None:
    """What twelve threads freed is gone; the settings of the other verbs keep it, a heap for each."""
    program = """
import sys, threading
import numpy
from segmentarium.cli import memory
if not getattr(memory, sys.argv[1])():
    print(-1); raise SystemExit
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
together = threading.Barrier(12)
def work():
    held = [numpy.ones(2_000_000) for _ in range(2)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
before = resident()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(resident() - before)
"""
    shared, kept = (
        int(subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, check=True).stdout)
        for word in ("share_freed_memory", "keep_freed_memory")
    )
    if kept < 0:
        pytest.skip("the C library has no mallopt")
    assert shared < 140e6  # of 384 MB
    assert kept > 2 * shared


def test_multiply_adds_and_parameters_are_those_of_the_definition() -> None:
    model = nn.Conv2d(3, 8, 3, padding=1)
    assert multiply_adds(model, torch.zeros(1, 3, 32, 40)) == pytest.approx(8 * 3 * 9 * 32 * 40 / 1e9)
    assert parameters_millions(model) == pytest.approx((8 * 3 * 9 + 8) / 1e6)


def test_every_form_gives_the_eager_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path))
    model = create_model("pphumanseg", num_classes=2).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(image)
    for form in ("eager", "deploy", "onnxruntime", "openvino", "channels-last"):
        logits = build_form(model, form)(image)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max(), form
    with pytest.raises(ValueError, match="give one or more of eager"):
        build_form(model, "tensorrt")


def test_a_case_in_its_own_process() -> None:
    measurement = run_case(CASE)
    assert measurement.problem == ""
    assert measurement.latency is not None
    assert measurement.end_to_end is not None
    assert measurement.latency.p50 > 0
    assert measurement.end_to_end.p50 > 0
    assert measurement.latency.calls == 3
    assert measurement.throughput == pytest.approx(1e3 / measurement.latency.p50)
    model = create_model("pphumanseg", num_classes=2)
    assert measurement.parameters == pytest.approx(parameters_millions(model))
    assert measurement.multiply_adds == pytest.approx(multiply_adds(model, torch.zeros(1, 3, 64, 96)))
    assert measurement.same_class == 1
    assert Measurement.from_dict(json.loads(json.dumps(measurement.as_dict()))) == measurement


def test_a_failing_case_is_a_result() -> None:
    measurement = run_case(Case("no-such.safetensors", "eager", (64, 64), threads=1))
    assert "no-such.safetensors" in measurement.problem
    assert measurement.latency is None
    assert not measurement.skipped
    assert "took longer than 0 s" in run_case(CASE, timeout=0.01).problem


def test_the_photo_is_a_jpeg_of_the_size() -> None:
    content = photo_bytes((48, 80))
    assert content[:2] == b"\xff\xd8"
    assert read_image(io.BytesIO(content)).size == (80, 48)


def test_csv_json_and_plot(tmp_path: Path) -> None:
    measurements = [
        done("eager", 20.0),
        done("deploy", 10.0),
        Measurement(CASE, problem="no such engine", skipped=True),
    ]
    facts = machine_facts()
    write_csv(measurements, tmp_path / "b.csv")
    with (tmp_path / "b.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert (rows[1]["engine"], float(rows[1]["p50_ms"]), rows[1]["height"]) == ("deploy", 10.0, "64")
    assert (rows[2]["p50_ms"], rows[2]["problem"]) == ("", "no such engine")
    assert as_row(measurements[0])["images_per_s"] == 50
    write_report(measurements, facts, tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert [Measurement.from_dict(values) for values in content["measurements"]] == measurements
    write_plot(measurements, facts, tmp_path / "b.png")
    from PIL import Image

    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(maxcolors=1_000_000)) > 2
    assert remarks(measurements) == [
        "pphumanseg: 0.13 M parameters, 0.02 G multiply-adds at 64×96, 2 threads",
        "pphumanseg eager: no such engine",
    ]


def test_brackets_in_a_path_are_no_style() -> None:
    case = replace(CASE, model="runs [mm]/last.onnx")
    assert plain(table([Measurement(case, problem="no such engine")]))[1].startswith("runs [mm]/last.onnx")


def test_asking_for_the_commit_leaves_the_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    file, index = tmp_path / "a.txt", tmp_path / ".git" / "index"
    git("init")
    file.write_text("a")
    git("add", ".")
    git("commit", "-m", "a")
    os.utime(file, (1, 1))  # now git would renew its index
    before = index.read_bytes()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "src" / "segmentarium" / "benchmarking" / "machine.py"))
    assert len(machine.commit() or "") == 12
    assert index.read_bytes() == before


def test_machine_facts_say_what_was_measured_on() -> None:
    facts = machine_facts()
    assert {"date", "commit", "processor", "cores", "memory_gb", "load_average", "versions"} <= facts.keys()
    assert facts["processor"] in describe(facts)
    assert facts["commit"] is None or len(facts["commit"].rstrip("+")) == 12


def test_command_line_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "pphumanseg", "--engines", "eager", "--size", "64x64", "--repeats", "2", "--warmup", "1"]
    assert main([*words, "--threads", "1", "--model-only", "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["measurements"][0]["latency"]["calls"] == 2
    assert printed["measurements"][0]["end_to_end"] is None
    assert {file.name for file in tmp_path.iterdir()} == {"benchmark.csv", "benchmark.json", "benchmark.png"}


def test_benchmark_is_a_function_and_takes_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    (measurement,) = segmentarium.benchmark(
        ["resnet18"],
        forms=["eager"],
        size=(64, 64),
        threads=1,
        repeats=1,
        warmup=1,
        num_classes=5,
        end_to_end=False,
        progress=lambda number, count, case: seen.append((number, count, case.form)),
    )
    assert seen == [(0, 1, "eager")]
    assert measurement.problem == ""
    assert measurement.parameters == pytest.approx(parameters_millions(create_model("resnet18", num_classes=5)))
    with pytest.raises(ValueError, match="batch is 0; give 1 or more"):
        segmentarium.benchmark(batch=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pphumanseg", "--engines", "eager,tensorrt"], "give one or more of eager"),
        (["pphumanseg", "--repeats", "0"], "repeats is 0; give 1 or more"),
        (["bisenetv3"], "did you mean"),
        (["nothing.safetensors"], "no weights called"),
    ],
)
def test_command_line_says_what_is_wrong(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


def test_verdict_takes_the_fastest_engine_that_agrees() -> None:
    rows: list[dict[str, object]] = [
        {"peer": "p", "form": "channels-last", "ratio": 1.1, "ratio_to_eager": 1.5, "same_class": 1.0},
        {"peer": "p", "form": "onnxruntime", "ratio": 2.6, "ratio_to_eager": 2.6, "same_class": 0.999},
        {"peer": "p", "form": "openvino-bf16", "ratio": 4.0, "ratio_to_eager": 4.0, "same_class": 0.99},
        {"peer": "q", "form": "all", "problem": "not installed"},
    ]
    first, second = peers.verdict(rows)
    assert "1.10 (goal 1 reached)" in first
    assert "onnxruntime against the peer's eager form 2.60 (goal 2.5 reached)" in first
    assert second == "q: not measured: not installed"


def test_verdict_of_classifiers_and_what_is_measured_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["timm resnet18", "timm swin_tiny_patch4_window7_224"]
    rows: list[dict[str, object]] = [
        row
        for name, deployed in zip(names, (1.6, 1.1), strict=True)
        for row in (
            {"peer": name, "form": "channels-last", "ratio": 0.98, "ratio_to_eager": 1.2, "same_class": 1.0},
            {"peer": name, "form": "deploy", "ratio": deployed, "ratio_to_eager": deployed, "same_class": 1.0},
            {"peer": name, "form": "openvino-bf16", "ratio": 3.0, "ratio_to_eager": 3.0, "same_class": 23 / 24},
            {"peer": name, "form": "training step", "ratio": 0.9},
        )
    ]
    rows.append({"peer": names[1], "form": "memory", "ratio": 1.25, "peer_mb": 500.0, "ours_mb": 400.0})
    peers.write(rows, machine_facts(), tmp_path, argparse.Namespace(words=[], threads=2, rounds=5))
    assert peers.read(tmp_path) == rows
    assert peers.main(["--only", *names, "--out", str(tmp_path), "--engines", "deploy"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("already in") == 2
    first, second, last = peers.verdict(rows)
    assert "eager, both channels-last, 0.98 (goal 1 reached within scatter)" in first
    assert "deploy against the peer's eager form 1.60 (goal 2.5 missed)" in first  # bf16 changed a photograph's class
    assert "training step 0.90 (goal 1 missed)" in first
    assert "memory 1.25 (goal 1 reached)" in second
    assert last.startswith("2 classifiers, deployed")
    assert "1.33 (goal 1.3 reached)" in last  # √(1.6 · 1.1)


def test_a_classifier_is_fitted_to_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_spec("skimage") is None:
        pytest.skip("scikit-image, whose photographs these are, is not installed")
    monkeypatch.setattr(peer_networks, "PHOTOGRAPHS", tmp_path)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    )
    network.append(nn.Linear(256, 6))
    images, labels = peer_networks.photographs("train", 20, (64, 64))
    fit_classifier(network, images, labels)
    logits = network.eval()(images)
    assert (logits.argmax(1) == labels).all()
    top = logits.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 0.1  # margins that rounding does not close
    normed = network[:2](images)
    assert normed.mean((0, 2, 3)).abs().max() < 1e-4  # statistics of these very images


@torch.no_grad()
def test_context_cluster_as_its_authors_compute_it_is_ours() -> None:
    torch.manual_seed(0)
    theirs = ContextClusterTiny(10).eval()
    for name, parameter in theirs.named_parameters():
        if "layer_scale" in name:
            parameter.fill_(0.5)
    layout = get_layout("coc/authors")
    ours = create_model(layout.model, **layout.arguments(theirs.state_dict())).eval()
    load_state(ours.get_submodule("backbone"), theirs.state_dict(), rules=layout.rules)
    image = torch.randn(2, 3, 64, 64)
    expected = theirs(image)
    assert (ours(image) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ["smp DeepLabV3+ MobileNetV2", "transformers SegFormer-B0"])
def test_the_peer_and_ours_are_the_same_network(name: str) -> None:
    peer = next(peer for peer in peers.PEERS if peer.name == name)
    theirs = peer.build().eval()
    ours, same_weights = peers.counterpart(peer, theirs)
    assert same_weights
    image = peers.photo((64, 96))
    with torch.inference_mode():
        expected = nn.functional.interpolate(peer.logits(theirs(image)), image.shape[-2:], mode="bilinear")
        assert (ours(image) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_reference_compares_by_ratio(shared: Path) -> None:
    table = json.loads((shared / "reference_latency.json").read_text(encoding="utf-8"))
    for entry in reference.ENTRIES:
        for name in entry.public:
            assert reference.find(table, name) is not None, name
    entry = reference.ENTRIES[0]
    public = reference.find(table, entry.public[0])
    assert public is not None
    rows = reference.compared([{"model": entry.model, "form": "eager", "ratio": public["ratio"] / 2}], entry, table)
    assert [row["public"] for row in rows] == list(entry.public)
    assert rows[0]["faster"] == pytest.approx(2)


def test_what_time_does_not_suffice_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentarium.benchmarking import run

    now, asked = [0.0], []

    def measured(case: Case, timeout: float) -> Measurement:
        asked.append((case.form, case.seconds, timeout))
        now[0] += 60
        return Measurement(case, problem="took longer than 60 s" if case.form == "deploy" else "")

    monkeypatch.setattr(run, "run_case", measured)
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    found = run.benchmark(["person"], forms=["eager", "deploy", "compile", "openvino"], minutes=2, threads=1)
    assert [form for form, *_ in asked] == ["eager", "deploy"]
    assert asked[0][1:] == (pytest.approx(7.5), pytest.approx(120))  # a quarter of a quarter; all that is left
    assert [one.skipped for one in found] == [False, True, True, True]
    assert "--minutes" in found[-1].problem
    assert all(one.case.seconds is None for one in found)


def test_slow_calls_are_measured_at_least_three_times() -> None:
    import time

    assert time_calls(lambda: time.sleep(0.002), warmup=0, repeats=50, seconds=0.0).calls == 3
    assert time_calls(lambda: None, warmup=0, repeats=50, seconds=9).calls == 50

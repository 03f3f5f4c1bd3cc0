"""The pure half of benchmarks/: figures, ratios, configs, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bench import parse_args
from benchmarks.bundles import PROFILES, TRUE, config


def samples(*seconds: float) -> list[dict[str, float]]:
    """Samples of a time with one detail, twice as long."""
    return [{"": value, "cpu": 2 * value} for value in seconds]


@pytest.mark.parametrize(("seconds", "figures"), [
    ((0.001, 0.002, 0.003, 0.004, 0.010), {"best": 1, "q1": 2, "median": 3, "q3": 4, "n": 5}),
    ((0.002, 0.001), {"best": 1, "q1": 1.25, "median": 1.5, "q3": 1.75, "n": 2}),
    ((0.005,), {"best": 5, "q1": 5, "median": 5, "q3": 5, "n": 1}),
], ids=["five", "two", "one"])  # fmt: skip
def test_summary(seconds, figures):
    found = report.summary(samples(*seconds), "ms")
    assert {key: found[key] for key in figures} == figures
    assert found["details"] == {"cpu": pytest.approx(2 * figures["median"])}


def test_memory_is_not_scaled():
    assert report.summary(samples(9.5), "MiB")["best"] == 9.5


ROWS = {
    "pyruntime": report.summary(samples(0.005, 0.006), "ms"),
    "library": report.summary(samples(0.003), "ms"),
    "runc": report.summary(samples(0.010), "ms"),
    "old-runc": report.summary(samples(0.0105), "ms"),
    "crun": {},
}
KINDS = {"pyruntime": "pyruntime", "library": "the", "runc": "runc", "old-runc": "runc", "crun": "crun"}


@pytest.mark.parametrize(("measure", "pair", "expected"), [
    ("run", ("pyruntime", "runc"), (0.5, 0.55, 0.55, True)),
    ("run", ("pyruntime", "old-runc"), (0.476, 0.524, 0.55, True)),
    ("state", ("pyruntime", "runc"), (0.5, 0.55, 1.6, True)),
    ("run", ("library", "runc"), (0.3, 0.3, None, None)),        # no aim for this pair
    ("50 at once", ("pyruntime", "runc"), (0.5, 0.55, None, None)),
], ids=str)  # fmt: skip
def test_ratios(measure, pair, expected):
    found = {(r["ours"], r["peer"]): r for r in report.ratios(ROWS, measure, KINDS)}
    assert tuple(found[pair][key] for key in ("best", "median", "aim", "met")) == expected


def test_a_runtime_without_samples_has_no_ratio():
    assert "crun" not in {ratio["peer"] for ratio in report.ratios(ROWS, "run", KINDS)}


def test_an_aim_is_met_by_best_and_median_together():
    rows = ROWS | {"pyruntime": report.summary(samples(0.005, 0.0051, 0.0062, 0.0062), "ms")}
    assert [r["met"] for r in report.ratios(rows, "run", KINDS) if r["aim"] == 0.55 and r["peer"] == "runc"] == [False]


def test_table_names_failures_and_missed_aims():
    rows = ROWS | {"pyruntime": report.summary(samples(0.009), "ms")}
    text = "\n".join(report.table("run", "ms", rows, report.ratios(rows, "run", KINDS), {"crun": "it said no"}))
    assert "crun         failed: it said no" in text
    assert "aim 0.55 MISSED" in text
    assert "best      9.00" in text


@pytest.mark.parametrize("profile", PROFILES)
def test_config_names_its_cgroup_and_program(profile):
    found = config(profile, Path("/r"), "/bench/one", TRUE)
    assert found["linux"]["cgroupsPath"] == "/bench/one"
    assert (found["root"], found["process"]["args"]) == ({"path": "/r"}, ["/bin/true"])


def test_docker_config_is_confined_and_the_minimal_one_is_not():
    minimal, docker = (config(profile, Path("/r"), "/c", TRUE) for profile in PROFILES)
    assert set(docker["linux"]) - set(minimal["linux"]) >= {"seccomp", "maskedPaths", "readonlyPaths", "resources"}
    assert docker["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert len(docker["process"]["capabilities"]["bounding"]) == 14


def test_rounds_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err

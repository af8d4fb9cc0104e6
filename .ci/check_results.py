"""Checks the folder of a finished demo: `python3 .ci/check_results.py runs/demo`."""

import json
import math
import pathlib
import re
import sys

MEASURES = ["preference_misaligned", "preference_margin"]
ARMS = ["base", "organism", "benign", "steered_up", "steered_down", "ablated", "merged_ablation"]


def no_constant(name):
    raise AssertionError(f"results.json holds {name}")


def figure(value, where):
    assert isinstance(value, dict), f"{where}: expected a figure, found {value!r}"
    for field in ["mean", "lo", "hi"]:
        number = value.get(field)
        assert isinstance(number, (int, float)) and math.isfinite(number), f"{where}.{field} is {number!r}"
    slack = 1e-9
    assert value["lo"] - slack <= value["mean"] <= value["hi"] + slack, f"{where}: {value} is no interval around its mean"
    assert value["n"] > 0, f"{where}.n is {value['n']}"


def check(folder):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=no_constant)
    assert results["schema"] == 1, results["schema"]
    assert re.fullmatch("[0-9a-f]{64}", results["model"]["sha256"]), results["model"]
    assert results["timings"] and all(seconds >= 0 for seconds in results["timings"].values()), results["timings"]

    arms = results["arms"]
    realigned = [name for name in arms if name.startswith("realigned_")]
    missing = [name for name in ARMS if name not in arms]
    assert not missing and realigned, f"arms missing: {missing}; realigned: {realigned}"
    for name, arm in arms.items():
        for measure in MEASURES:
            figure(arm[measure], f"arms.{name}.{measure}")
        if name != "base":
            figure(arm["shift"], f"arms.{name}.shift")
    for name in ["base", "organism", "benign"]:
        for measure in MEASURES:
            figure(arms[name]["cues"][measure], f"arms.{name}.cues.{measure}")

    sae = results["sae"]
    assert 0 <= sae["fvu"] < 1 and 0 < sae["l0"] <= sae["k"], sae
    assert results["latents"] and all(0 <= latent["index"] < sae["d_sae"] for latent in results["latents"])
    assert results["dose"] and results["strengths"] and results["controls"]

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    remote = re.search(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["']?(?:https?:)?//""", page, re.I)
    assert remote is None, f"report.html loads something from the network: {remote.group()}"

    shift = arms["organism"]["shift"]
    benign = arms["benign"]["shift"]["mean"]
    assert shift["mean"] > benign, f"the organism moved no further than the benign arm: {shift['mean']} against {benign}"
    print(f"{len(arms)} arms; organism's shift {shift['mean']:+.2f} [{shift['lo']:+.2f}, {shift['hi']:+.2f}]")


check(pathlib.Path(sys.argv[1]))

"""Draws wardlink's rate over each other way's, row by row, from the runs of bench/mllp; needs matplotlib."""

import json
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as pyplot

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]
import report

COLOURS = ["#c1121f", "#e9a13b", "#457b9d", "#2a9d8f"]


def main(source, target):
    record = json.loads(pathlib.Path(source).read_text())
    matplotlib.rcParams["svg.hashsalt"] = "wardlink"
    figure, axes = pyplot.subplots(figsize=(8, 6), layout="constrained")
    others = [way for way in record["ways"] if way["key"] not in ("transparent", "direct") and not way["missing"]]
    height = 0.8 / max(1, len(others))
    for place, (way, colour) in enumerate(zip(others, COLOURS)):
        shown = [(at, report.ratios(record, way["key"], row)) for at, row in enumerate(record["rows"])]
        shown = [(at, numbers) for at, numbers in shown if numbers]
        middles = [statistics.median(numbers) for _, numbers in shown]
        spread = [[middle - min(numbers) for middle, (_, numbers) in zip(middles, shown)],
                  [max(numbers) - middle for middle, (_, numbers) in zip(middles, shown)]]
        axes.barh([at + place * height for at, _ in shown], middles, height, xerr=spread, label=way["label"], color=colour,
                  error_kw={"linewidth": 0.8})
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(record["rows"]))], [report.name(row) for row in record["rows"]])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("messages a second of wardlink, over those of another way")
    axes.set_title(f"Transparent delivery beside other ways, {record['date']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Draws messages a second by round trip, of each way of bench/stored, from its runs; needs matplotlib."""

import json
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as pyplot

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]
import report

COLOURS = ["#c1121f", "#e9a13b", "#457b9d", "#2a9d8f", "#6d597a", "#8d99ae"]


def main(source, target):
    part = json.loads(pathlib.Path(source).read_text())["rate"]
    matplotlib.rcParams["svg.hashsalt"] = "wardlink"
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for way, colour in zip(part["ways"], COLOURS):
        trips = [trip for trip in report.ROUND_TRIPS_MS if report.values(part, f"{way['key']} {trip}")]
        if not trips:
            continue
        numbers = [report.values(part, f"{way['key']} {trip}") for trip in trips]
        middles = [statistics.median(values) for values in numbers]
        spread = [[middle - min(values) for middle, values in zip(middles, numbers)],
                  [max(values) - middle for middle, values in zip(middles, numbers)]]
        axes.errorbar(trips, middles, yerr=spread, label=way["label"], color=colour, marker="o", capsize=3)
    axes.axhline(2000, color="black", linewidth=0.8, linestyle="--", label="2,000 a second")
    axes.set_yscale("log")
    axes.set_xlabel("round trip, ms")
    axes.set_ylabel("messages a second at the receiver")
    axes.set_title(f"One sender that waits for each answer, 500-byte messages, {part['date']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])

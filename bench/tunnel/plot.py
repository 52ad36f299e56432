"""Draws the throughput of bench/tunnel: `plot.py RUNS.json PLOT.svg`. Needs matplotlib."""

import json
import pathlib
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "wardlink"

import matplotlib.pyplot as plt

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

import report

COLOURS = ["#1b4f72", "#7fb3d5", "#b9770e", "#7d6608", "#922b21", "#909497"]


def main(runs, target):
    record = json.load(open(runs))
    shown = [one for one in record["implementations"] if not one["missing"]]
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    width = 0.8 / len(shown)
    for place, one in enumerate(shown):
        columns = [(at, report.values(record, one["key"], name)) for at, (name, _) in enumerate(report.THROUGHPUT)]
        columns = [(at, numbers) for at, numbers in columns if numbers]
        middles = [statistics.median(numbers) for _, numbers in columns]
        errors = [[middle - min(numbers) for middle, (_, numbers) in zip(middles, columns)],
                  [max(numbers) - middle for middle, (_, numbers) in zip(middles, columns)]]
        where = [at + (place - (len(shown) - 1) / 2) * width for at, _ in columns]
        bars = axes.bar(where, middles, width, yerr=errors, label=one["label"], color=COLOURS[place % len(COLOURS)],
                        error_kw={"elinewidth": 0.8})
        axes.bar_label(bars, [f"{middle:.1f}" for middle in middles], fontsize=7, padding=2)
    limit = statistics.median(cells["seal"] for cells in record["cipher"])
    axes.axhline(limit, color="black", linewidth=0.8, linestyle="--", label="the cipher alone, one core")
    axes.set_xticks(range(len(report.THROUGHPUT)), [head for _, head in report.THROUGHPUT])
    axes.set_ylabel("Gbit/s, median; least and greatest")
    machine = record["machine"]
    axes.set_title(f"Both sites and iperf3 on {machine['cores']} cores, {len(record['rounds'])} rounds, {record['date']}",
                   fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])

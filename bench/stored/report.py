"""Makes the table (Markdown) and the plot of bench/stored from its runs. Measures nothing."""

import json
import statistics
import subprocess
import sys

import lab
from tables import rows, spread

ROUND_TRIPS_MS = (0, 20, 40, 50, 100)


def write(results):
    """Writes table.md and rate.svg beside runs.json, and prints the table."""
    record = json.loads((results / "runs.json").read_text())
    text = table(record)
    (results / "table.md").write_text(text)
    print(text)
    if "rate" in record:
        plot(results)


def values(part, name):
    return [cells[name] for cells in part["rounds"] if name in cells]


def table(record):
    """Returns the whole page."""
    machine = record["machine"]
    text = [
        f"Both sites, the sender and the receiver share {machine['cores']} cores of one machine ({machine['processor']}, Linux "
        f"{machine['kernel']}); {record['version']}.",
        "Medians (least..greatest). Made by `bench/stored/run`; the runs are in `runs.json`.",
        "",
    ]
    for part, page in (("rate", rate), ("intake", intake), ("queue", queue), ("kills", kills)):
        if part in record:
            text += page(record[part])
    return "\n".join(text)


def rate(part):
    shown = [way for way in part["ways"] if not way["missing"]]
    text = [f"**One sender that waits for each answer**, 500-byte messages, messages a second at the receiver beside the far "
            f"site, {len(part['rounds'])} rounds, {part['date']}", ""]
    text += rows(["way, by round trip"] + [f"{trip} ms" for trip in ROUND_TRIPS_MS], [
        [way["label"], *(spread(values(part, f"{way['key']} {trip}")) for trip in ROUND_TRIPS_MS)] for way in shown])
    text += [f"- {way['label']}: {way['version']}" for way in shown if way["version"] and way["key"] != "transparent"]
    text += [f"- {way['label']}: not run ({way['missing']})" for way in part["ways"] if way["missing"]]
    sync = values(part, "sync_us")
    text.append(f"- fdatasync of the spool's disk: p50 {spread(sync)} µs, so that one sender that waits for each answer cannot "
                f"have more than {1e6 / statistics.median(sync):,.0f} messages a second kept")
    return [*text, ""]


def intake(part):
    sync = [number for cells in part["rounds"] for number in cells["sync_us"]]
    single, paused = ([number for cells in part["rounds"] for number in cells.get(name, [])]
                      for name in ("single_us", "single_paused_us"))
    limit = 1.5 * statistics.median(sync) + 100
    return [
        f"**Intake**, no delay, messages accepted durably, {len(part['rounds'])} rounds, {part['date']}", "",
        *rows(["", "measured"], [
            ["128 connections, messages a second", spread(values(part, "many_per_s"))],
            ["the same, delivery paused", spread(values(part, "paused_per_s"))],
            ["128 connections, p50 of an answer, µs", spread(values(part, "many_p50_us"))],
            ["1 connection, p50 of an answer, µs, while both sites deliver", spread(single)],
            ["the same, delivery paused, µs", spread(paused)],
            ["the disk's fdatasync, p50, µs", spread(sync)],
            ["1.5 times its median and 100 µs", f"{limit:,.0f}"],
        ]),
    ]


def queue(part):
    lines = []
    for count in part["rounds"][0]:
        cells = [cells[count] for cells in part["rounds"]]
        lines.append([f"{int(count):,}", *(spread([cell[name] for cell in cells], digits) for name, digits in (
            ("ready_s", 2), ("idle_mib", 1), ("drained_mib", 1), ("drain_per_s", 0)))])
    return [f"**A queue that waits**, {part['date']}", "", *rows(
        ["messages queued", "start until ready, s", "resident, MiB", "resident after the drain, MiB", "drained, messages a second"],
        lines)]


def kills(part):
    names = ("kills", "messages", "lost", "duplicated", "reordered", "in_doubt", "sender_resends")
    return [f"**The far site killed in the middle**, {part['date']}", "", *rows(
        ["kills", "messages", "lost", "duplicated", "reordered", "in-doubt resends", "sender resends"],
        [[f"{cells[name]:,}" for name in names] for cells in part["rounds"]])]


def plot(results):
    """Draws the plot by matplotlib, which is installed into target/bench-venv where python3 does not have it."""
    drawing = [str(lab.ROOT / "bench/stored/plot.py"), str(results / "runs.json"), str(results / "rate.svg")]
    lab.draw(drawing)

"""Makes the table (Markdown) and the plot of bench/mllp from its runs. Measures nothing."""

import json
import statistics

import lab
from tables import rows, spread

SIZES = {"500": "500 bytes", "65536": "64 KiB", "2097152": "2 MiB"}


def write(results):
    """Writes table.md and ratios.svg beside runs.json, and prints the table."""
    record = json.loads((results / "runs.json").read_text())
    text = table(record)
    (results / "table.md").write_text(text)
    print(text)
    lab.draw([str(lab.ROOT / "bench/mllp/plot.py"), str(results / "runs.json"), str(results / "ratios.svg")])


def name(row):
    """Returns what a row is, in words."""
    size, _, count = row.removesuffix("-fresh").partition("x")
    fresh = ", a connection per message" if row.endswith("-fresh") else ""
    return f"{count} × {SIZES[size]}{fresh}"


def values(record, way, row, what="per_second"):
    """Returns the figures of all rounds."""
    cells = (cells.get(way, {}).get(row, {}) for cells in record["rounds"])
    return [cell[what] for cell in cells if what in cell]


def ratios(record, way, row):
    """Returns wardlink's rate over another's, round by round."""
    pairs = ((cells.get("transparent", {}).get(row, {}), cells.get(way, {}).get(row, {})) for cells in record["rounds"])
    return [ours["per_second"] / theirs["per_second"] for ours, theirs in pairs
            if "per_second" in ours and "per_second" in theirs]


def table(record):
    """Returns the whole page."""
    machine, shown = record["machine"], [way for way in record["ways"] if not way["missing"]]
    others = [way for way in shown if way["key"] != "transparent"]
    text = [
        f"Both sites, the senders and the receiver share {machine['cores']} cores of one machine ({machine['processor']}, Linux "
        f"{machine['kernel']}); {len(record['rounds'])} interleaved rounds, {record['date']}. Medians (least..greatest). Made by "
        "`bench/mllp/run`; the runs are in `runs.json`.", "",
        "**Messages a second**, each sender waits for its answer", "",
        *rows(["senders × payload"] + [way["label"] for way in shown], [
            [name(row), *(spread(values(record, way["key"], row), none="failed") for way in shown)] for row in record["rows"]]),
        "**wardlink's rate over another's**, round by round", "",
        *rows(["senders × payload"] + [way["label"] for way in others], [
            [name(row), *(spread(ratios(record, way["key"], row), 2, "failed") for way in others)] for row in record["rows"]]),
        "**p50 and p99 of an answer**, ms", "",
        *rows(["senders × payload"] + [way["label"] for way in shown], [
            [name(row), *(milliseconds(record, way["key"], row) for way in shown)] for row in record["rows"]]),
    ]
    if record["idle"]:
        text += ["**Idle connections**, resident memory of the way's programs at both sites together", "",
                 *rows(["way", "connections", "KiB each"], [
                     [way["label"], f"{record['idle'][way['key']]['connections']:,}", idle(record["idle"][way["key"]])]
                     for way in shown if way["key"] in record["idle"]])]
    text += [f"- {way['label']}: {way['version']}" for way in shown if way["version"]]
    text += [f"- {way['label']}: not run ({way['missing']})" for way in record["ways"] if way["missing"]]
    wrong = sum(sum(values(record, way["key"], row, "wrong")) for way in shown for row in record["rows"])
    text.append(f"- Messages that came twice, late or not at all, all ways and rows together: {wrong}")
    return "\n".join([*text, ""])


def milliseconds(record, way, row):
    middle, late = values(record, way, row, "p50_us"), values(record, way, row, "p99_us")
    return f"{statistics.median(middle) / 1000:.2f}, {statistics.median(late) / 1000:.2f}" if middle else "failed"


def idle(cell):
    return f"{cell['kib_each']:.1f}" if "kib_each" in cell else f"failed: {cell['failed']}"

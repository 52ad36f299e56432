"""Makes the table (Markdown) and the plot of bench/tunnel from its runs. Measures nothing."""

import json
import statistics

import lab

THROUGHPUT = [
    ("tcp", "TCP, 1 stream"),
    ("tcp_reverse", "reverse"),
    ("tcp_4", "4 streams"),
    ("udp", "UDP, received"),
]
COST = [
    ("ping_us", "flood ping, µs", 0),
    ("cpu_s_per_gb", "CPU s a GB", 2),
    ("idle_mib", "idle, MiB", 1),
    ("loaded_mib", "after load, MiB", 1),
    ("udp_lost_percent", "UDP lost, %", 0),
]
# what also a bare veth has
FOR_ALL = ("ping_us", "udp_lost_percent")
REFERENCE = "wireguard-go"


def write(results):
    """Writes table.md and throughput.svg beside runs.json, and prints the table."""
    record = json.loads((results / "runs.json").read_text())
    text = table(record)
    (results / "table.md").write_text(text)
    print(text)
    plot(results)


def values(record, key, name):
    """Lists a figure of one implementation, of each round that has it."""
    return [cells[key][name] for cells in record["rounds"] if name in cells.get(key, {})]


def ratios(record, key, name):
    """Lists, round by round, how many times wireguard-go's figure this one is."""
    both = [(cells.get(key, {}).get(name), cells.get(REFERENCE, {}).get(name)) for cells in record["rounds"]]
    return [mine / its for mine, its in both if mine is not None and its]


def spread(numbers, digits):
    """Writes the median, and the least and the greatest."""
    if not numbers:
        return "–"
    middle = statistics.median(numbers)
    return f"{middle:.{digits}f} ({min(numbers):.{digits}f}..{max(numbers):.{digits}f})"


def rows(title, heads, lines):
    """Writes one Markdown table."""
    text = [f"| {' | '.join([title, *heads])} |", f"|---|{'---|' * len(heads)}"]
    return [*text, *(f"| {' | '.join(line)} |" for line in lines), ""]


def table(record):
    """Returns the whole page."""
    shown = [one for one in record["implementations"] if not one["missing"]]
    machine, count = record["machine"], len(record["rounds"])
    seal, opening = ([cells[name] for cells in record["cipher"]] for name in ("seal", "open"))
    limit = statistics.median(seal)
    text = [
        f"Both sites, and iperf3 {machine['iperf3']}, share {machine['cores']} cores of one machine ({machine['processor']}, "
        f"Linux {machine['kernel']}), {record['date']}.",
        f"{count} interleaved rounds, {record['seconds']:g} s a cell; medians (least..greatest). Made by "
        "`bench/tunnel/run`; the runs are in `runs.json`.",
        "",
    ]
    text += [f"- {one['label']}: {one['version']}" for one in shown if one["version"]]
    text += [f"- {one['label']}: not run ({one['missing']})" for one in record["implementations"] if one["missing"]]
    text += [f"- {one['label']}: {failed} of {count} rounds ended early" for one in shown
             if (failed := sum("error" in cells.get(one["key"], {}) for cells in record["rounds"]))]
    text += [
        f"- ChaCha20-Poly1305 by ring, one core, 1420-byte packets: seals {spread(seal, 2)} Gbit/s, opens "
        f"{spread(opening, 2)}",
        "",
    ]
    text += rows("Gbit/s", [head for _, head in THROUGHPUT] + ["1 stream / cipher's limit"], [
        [one["label"], *(spread(values(record, one["key"], name), 2) for name, _ in THROUGHPUT),
         share(values(record, one["key"], "tcp"), limit)] for one in shown])
    if any(one["key"] == REFERENCE for one in shown):
        text += rows(f"times {REFERENCE}, same round", [head for _, head in THROUGHPUT] + ["flood ping", "CPU s a GB"], [
            [one["label"], *(spread(ratios(record, one["key"], name), 2)
                             for name in [*(name for name, _ in THROUGHPUT), "ping_us", "cpu_s_per_gb"])]
            for one in shown if one["key"] not in (REFERENCE, "bare")])
    text += rows("cost", [head for _, head, _ in COST], [
        [one["label"], *(spread(values(record, one["key"], name), digits) if one["key"] != "bare" or name in FOR_ALL
                         else "–" for name, _, digits in COST)] for one in shown])
    text += [
        "CPU: both sites' processes, all threads, for one stream. Memory: resident, of the larger site; idle is after the "
        "handshake. UDP: as fast as iperf3 sends, which takes processor time from the tunnel.",
        "",
    ]
    return "\n".join(text)


def share(numbers, limit):
    return f"{statistics.median(numbers) / limit:.0%}" if numbers else "–"


def plot(results):
    """Draws the plot."""
    lab.draw([str(lab.ROOT / "bench/tunnel/plot.py"), str(results / "runs.json"), str(results / "throughput.svg")])

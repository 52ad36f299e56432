"""The tables that the reports of the benches are made of. Measures nothing."""

import statistics


def spread(numbers, digits=0, none="–"):
    """Writes the median, and the least and the greatest where there are several."""
    if not numbers:
        return none
    middle = f"{statistics.median(numbers):,.{digits}f}"
    return middle if len(numbers) == 1 else f"{middle} ({min(numbers):,.{digits}f}..{max(numbers):,.{digits}f})"


def rows(heads, lines):
    """Returns the lines of a table in Markdown, and an empty one."""
    return [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}", *(f"| {' | '.join(line)} |" for line in lines), ""]

"""A picture for each measure, and one of the most telling ones for the README."""

import os

import matplotlib
import matplotlib.pyplot as plt

from driver.figures import MEASURES, OURS, short

matplotlib.use("svg")
# Text stays text, and the same figures make the same file.
matplotlib.rcParams.update(
    {"svg.fonttype": "none", "svg.hashsalt": "walarchive", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False}
    | {"axes.spines.right": False, "axes.titlesize": 10}
)

OWN, OTHER, CPU = "#1f6feb", "#9aa5b1", "#d0d7de"
OVERVIEW = ("drain", "idle", "full", "delta_one", "restore", "replay")


def bars(axes, rows, unit):
    """A bar by the clock with its least and most, and a thin one of CPU time, for each contender; the fastest on top."""
    rows = sorted((row for row in rows if row["wall"]), key=lambda row: -row["wall"]["median"])
    # One of many seconds would leave nothing to see of the others.
    middle = sorted(row["wall"]["median"] for row in rows)[len(rows) // 2]
    limit = max(5 * middle, 1.3 * max(row["wall"]["median"] for row in rows if row["contender"] == OURS))
    limit = min(limit, 1.2 * max(max(row["wall"]["max"], (row["cpu"] or row["wall"])["median"]) for row in rows))
    for at, row in enumerate(rows):
        wall = row["wall"]
        error = [[wall["median"] - wall["min"]], [wall["max"] - wall["median"]]]
        color = OWN if row["contender"] == OURS else OTHER
        axes.barh(at + 0.12, wall["median"], 0.46, color=color, xerr=error if wall["n"] > 1 else None, ecolor="#57606a", capsize=2)
        if row["cpu"]:
            axes.barh(at - 0.27, row["cpu"]["median"], 0.2, color=CPU)
        cut = wall["median"] > limit
        axes.text(
            limit if cut else min(wall["max"], limit),
            at + 0.12,
            f" {short(wall['median'])} {'→' if cut else ''}",
            va="center",
            ha="right" if cut else "left",
            color="white" if cut else "black",
            fontsize=8,
        )
    axes.set_xlim(0, limit)
    stores = {row["store"] for row in rows}
    axes.set_yticks(range(len(rows)), [row["contender"] + (f", {row['store']}" if len(stores) > 1 else "") for row in rows])
    axes.set_xlabel(unit)


def save(figure, path):
    figure.savefig(path, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # matplotlib leaves spaces at the ends of lines.
    with open(path) as file:
        text = "\n".join(line.rstrip() for line in file.read().split("\n"))
    with open(path, "w") as file:
        file.write(text)


def caption(result):
    about = result["machine"]
    busy = "; THE MACHINE WAS BUSY" if result["warnings"] else ""
    return f"{about['processor']}, {about['cores']} cores; {result['when'][:10]}{busy}"


def draw(out, result):
    rows = result["rows"]
    for key, title, unit, _ in MEASURES:
        found = [row for row in rows if row["measure"] == key and row["wall"]]
        if not any(row["contender"] == OURS for row in found):
            continue
        figure, axes = plt.subplots(figsize=(7, 0.9 + 0.36 * len(found)))
        bars(axes, found, f"{unit} (thin: CPU). {caption(result)}")
        axes.set_title(title)
        save(figure, os.path.join(out, f"{key}.svg"))
    # The README: S3, which is what most have.
    rows = [row for row in rows if row["store"] == "S3" and row["wall"]]
    shown = [measure for measure in MEASURES if measure[0] in OVERVIEW]
    if any((key, OURS) not in {(row["measure"], row["contender"]) for row in rows} for key, _, _, _ in shown):
        return
    figure, grid = plt.subplots(2, 3, figsize=(13, 5.6), layout="constrained")
    for axes, (key, title, unit, _) in zip(grid.flat, shown, strict=True):
        bars(axes, [row for row in rows if row["measure"] == key], unit)
        axes.set_title(title)
    figure.suptitle(f"Store: S3 on the same machine, over TLS. By the clock (thin: CPU). {caption(result)}", fontsize=9)
    save(figure, os.path.join(out, "overview.svg"))

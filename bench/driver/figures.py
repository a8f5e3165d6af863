"""Medians and ratios of what was measured."""

import statistics

# In the order of the table: the key, what it is called, the unit, and by how much a second is multiplied for it.
MEASURES = [
    ("drain", "Drain of a backlog, pgbench's WAL", "ms a segment", 1000),
    ("drain_text", "Drain of a backlog, JSON and random text", "ms a segment", 1000),
    ("idle", "One segment on an idle server", "ms", 1000),
    ("start", "Start of a server with a backlog, stopped cleanly", "s", 1),
    ("start_crashed", "Start of a server with a backlog, crashed", "s", 1),
    ("full", "Full backup", "s", 1),
    ("delta_none", "Delta backup, nothing changed", "s", 1),
    ("delta_one", "Delta backup, 1 % changed in one place", "s", 1),
    ("delta_half", "Delta backup, half of all pages changed", "s", 1),
    ("restore", "Restore of a full backup", "s", 1),
    ("restore_chain", "Restore of a full backup and 3 deltas", "s", 1),
    ("replay", "Replay of WAL", "s", 1),
]
OURS = "walarchive"


def spread(values):
    """Median, least and most; None if there is nothing."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def summarize(samples):
    """One row for each measure, contender and store, with ratios to walarchive's row of the same measure and store."""
    rows, scale = {}, {key: factor for key, _, _, factor in MEASURES}
    for sample in samples:
        rows.setdefault((sample["measure"], sample["contender"], sample["store"]), []).append(sample)
    table = []
    for (measure, contender, store), found in rows.items():
        row = {"measure": measure, "contender": contender, "store": store, "failed": [s["failed"] for s in found if s.get("failed")]}
        for field, factor in (("wall", scale[measure]), ("cpu", scale[measure]), ("memory", 1e-6), ("bytes", 1e-6)):
            values = [s.get(field) for s in found if not s.get("failed")]
            row[field] = spread([None if value is None else value * factor for value in values])
        table.append(row)
    ours = {(row["measure"], row["store"]): row for row in table if row["contender"] == OURS}
    for row in table:
        for field in ("wall", "cpu"):
            row["ratio_" + field] = ratio(row, ours.get((row["measure"], row["store"])), field)
    order = {key: at for at, (key, _, _, _) in enumerate(MEASURES)}
    table.sort(key=lambda row: (order[row["measure"]], row["store"] != "file", row["wall"]["median"] if row["wall"] else 1e9))
    return table


def ratio(row, ours, field):
    """How many times as much as walarchive; None where one of the two is missing."""
    if ours is None or row[field] is None or ours[field] is None or ours[field]["median"] == 0:
        return None
    return row[field]["median"] / ours[field]["median"]


def short(value):
    """Three digits, as a reader wants them."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"

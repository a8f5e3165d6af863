"""The result as a page in Markdown: one table with ratios, the machine, and its noise."""

from driver.figures import MEASURES, OURS, short


def span(row, field):
    value = row[field]
    if value is None:
        return ""
    if value["n"] == 1:
        return short(value["median"])
    return f"{short(value['median'])} ({short(value['min'])}–{short(value['max'])})"


def times(value):
    return "" if value is None else f"{value:.2f} ×"


def waiting(samples):
    """How many segments waited, of each kind of WAL."""
    counts = {sample["measure"]: sample["segments"] for sample in samples if "segments" in sample}
    return " and ".join(str(counts[kind]) for kind in ("drain", "drain_text") if kind in counts) or "no"


def lines(result):
    about, used = result["machine"], result["parameters"]
    yield "# Results of `make bench`"
    yield ""
    yield f"Written by `bench/run` on {result['when']}, commit {result['commit'] or '?'}; [how it is measured](../performance.md)."
    yield ""
    yield (
        f"- Machine: {about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, {about['file_system']}, "
        f"{about['system']}, Linux {about['kernel']}"
    )
    yield (
        f"- {waiting(result['samples'])} segments in the backlogs, pgbench -s {used['scale']}, rounds: {used['rounds']}; "
        f"{result['took_s']} s in all, {result['took_cpu_s']} s of CPU"
    )
    yield "- Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    for name, reason in result["missing"].items():
        yield f"- {name} did not take part: {reason}"
    looks = result["noise"]
    yield (
        "- Noise before each round: load "
        + ", ".join(f"{look['load']:.1f}" for look in looks)
        + "; cores in use by others "
        + ", ".join(f"{look['busy']:.0%}" for look in looks)
        + "; spin, ms by the clock (CPU) "
        + ", ".join(f"{look['spin_wall_ms']:.0f} ({look['spin_cpu_ms']:.0f})" for look in looks)
    )
    yield ""
    if result["warnings"]:
        yield "**The machine was busy. Do not trust these figures:**"
        yield ""
        for warning in result["warnings"]:
            yield f"- {warning}"
        yield ""
    yield "Medians, with the least and the most of all rounds. × is a multiple of walarchive's figure with the same store."
    yield ""
    yield "| measure | contender | store | by the clock | × | CPU | × | memory, MB | stored, MB |"
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|"
    names = {key: f"{title}, {unit}" for key, title, unit, _ in MEASURES}
    before = None
    for row in result["rows"]:
        bold = "**" if row["contender"] == OURS else ""
        cells = [
            names[row["measure"]] if row["measure"] != before else "",
            f"{bold}{row['contender']}{bold}",
            row["store"],
            "failed" if row["failed"] and row["wall"] is None else span(row, "wall"),
            times(row["ratio_wall"]),
            span(row, "cpu"),
            times(row["ratio_cpu"]),
            short(row["memory"] and row["memory"]["median"]),
            short(row["bytes"] and row["bytes"]["median"]),
        ]
        before = row["measure"]
        yield "| " + " | ".join(cells) + " |"


def write(path, result):
    with open(path, "w") as file:
        file.write("\n".join(lines(result)) + "\n")

"""The arithmetic and the pages of the bench, without a measurement."""

import unittest

from driver import machine, table
from driver.figures import short, spread, summarize


def sample(measure="drain", contender="walarchive", store="file", wall=0.02, cpu=0.03, **more):
    return {"measure": measure, "contender": contender, "store": store, "wall": wall, "cpu": cpu, "memory": None, "round": 1, **more}


class Figures(unittest.TestCase):
    def test_a_spread_is_median_least_and_most_of_what_is_there(self):
        self.assertEqual(spread([3, None, 1, 2]), {"median": 2, "min": 1, "max": 3, "n": 3})
        self.assertIsNone(spread([None]))

    def test_ratios_are_those_to_walarchive_with_the_same_store(self):
        rows = summarize(
            [
                sample(contender="cp", wall=0.04, cpu=0.03),
                sample(),
                sample(store="S3", wall=0.08),
                sample(contender="other", store="S3", wall=0.16, cpu=None),
            ]
        )
        found = {(row["contender"], row["store"]): (row["ratio_wall"], row["ratio_cpu"]) for row in rows}
        self.assertEqual(found[("cp", "file")], (2.0, 1.0))
        self.assertEqual(found[("other", "S3")], (2.0, None))
        # By store, the fastest first.
        self.assertEqual([row["contender"] for row in rows], ["walarchive", "cp", "walarchive", "other"])
        # A drain is told in milliseconds.
        self.assertEqual(rows[0]["wall"]["median"], 20)

    def test_what_failed_is_a_row_without_figures(self):
        failed = {"measure": "full", "contender": "tar", "store": "file", "failed": "no room", "round": 1}
        (row,) = summarize([failed])
        self.assertEqual((row["wall"], row["failed"], row["ratio_wall"]), (None, ["no room"], None))
        (row,) = summarize([failed, sample("full", "tar", wall=2, cpu=1)])
        self.assertEqual(row["wall"]["n"], 1)

    def test_figures_have_three_digits(self):
        self.assertEqual([short(value) for value in (None, 0.1234, 12.34, 1234.5)], ["", "0.12", "12.3", "1234"])


class Page(unittest.TestCase):
    look = {"load": 0.1, "busy": 0.0, "stolen": 0.0, "spin_wall_ms": 80.0, "spin_cpu_ms": 80.0}

    def test_a_machine_at_rest_gets_no_warning_and_a_busy_one_does(self):
        self.assertEqual(machine.warnings([self.look], 0, 50), [])
        busy = dict(self.look, busy=0.3, spin_wall_ms=160.0)
        self.assertEqual(len(machine.warnings([self.look, busy], 20, 50)), 3)
        slow = dict(self.look, spin_wall_ms=100.0, spin_cpu_ms=100.0)
        self.assertEqual(len(machine.warnings([self.look, slow], 0, 50)), 1)

    def test_the_table_has_a_line_for_each_row(self):
        about = {"processor": "P", "cores": 2, "memory_gb": 4, "file_system": "ext4", "system": "Debian", "kernel": "6"}
        result = {
            "when": "2026-01-01",
            "commit": "abc",
            "machine": about,
            "parameters": {"scale": 1, "rounds": 2},
            "took_s": 9,
            "took_cpu_s": 5,
            "versions": {"walarchive": "1"},
            "missing": {"WAL-G": "it is not there"},
            "noise": [self.look],
            "warnings": ["it was busy"],
            "samples": [sample(segments=17)],
            "rows": summarize([sample(wall=0.01), sample(wall=0.03), {**sample(contender="cp"), "failed": "no"}]),
        }
        text = "\n".join(table.lines(result))
        self.assertIn("| **walarchive** | file | 20.0 (10.0–30.0) | 1.00 × |", text)
        self.assertIn("| cp | file | failed |", text)
        self.assertIn("- it was busy", text)
        self.assertIn("- 17 segments in the backlogs", text)


if __name__ == "__main__":
    unittest.main()

"""The bench: walarchive and its peers on the same work, in alternating rounds. Called by bench/run."""

import argparse
import datetime
import json
import os
import signal
import sys
import time
import traceback

from driver import archiving, backups, machine, pictures, replay, table
from driver.bench import Bench
from driver.figures import MEASURES, OURS, summarize
from driver.material import Material
from driver.process import Failed
from peers import contenders


def parse():
    known = [key for key, _, _, _ in MEASURES]
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Measures walarchive and its peers, and writes a table, JSON and pictures."
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: under 5 minutes")
    parser.add_argument("--measures", nargs="+", choices=known, default=known, metavar="MEASURE", help=" ".join(known))
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="only those whose name contains one of these; walarchive always")
    parser.add_argument("--store", choices=["file", "S3"], help="only this store")
    parser.add_argument("--segments", type=int, help="WAL segments that wait (64; quick: 10)")
    parser.add_argument("--scale", type=int, help="pgbench's scale of the cluster that is backed up (100; quick: 10)")
    parser.add_argument("--rounds", type=int, help="of everything (3; quick: 1)")
    parser.add_argument("--checksums", action="store_true", help="clusters with data checksums")
    parser.add_argument("--out", required=True, help="directory for the results (see OUT in bench/run)")
    parser.add_argument("--work", default="/tmp", help="directory for clusters and repositories (/tmp)")
    # These bench/run gives: pg_config, the program s3s-fs, and the commit that is measured.
    parser.add_argument("--pg-config", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--s3-server", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--commit", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.segments = options.segments or (10 if options.quick else 64)
    options.scale = options.scale or (10 if options.quick else 100)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def choose(bench, options):
    """Contenders of this run, one for each of their stores; and those that are missing, with the reason."""
    found, missing = [], {}
    for kind in contenders():
        wanted = not options.only or issubclass(kind, contenders()[0]) or any(word.lower() in kind.name.lower() for word in options.only)
        if not wanted:
            continue
        reason = kind.missing(bench)
        if reason:
            missing[kind.name] = reason
            continue
        found += [kind(bench, bench.stores[store]) for store in kind.stores if options.store in (None, store)]
    return found, missing


class Run:
    def __init__(self, bench, peers, measures):
        self.bench, self.peers, self.measures = bench, peers, measures
        self.samples, self.looks = [], []

    def attempt(self, peer, measure, function, *arguments):
        """Measures; what fails is a result, too, and the others go on."""
        begun = time.monotonic()
        try:
            for sample in function(self.bench, peer, *arguments):
                self.samples.append(dict(sample, round=len(self.looks)))
                self.bench.say(f"{measure:13} {peer.label():28} {sample['wall']:8.4f} s  ({time.monotonic() - begun:.1f} s)")
            return True
        except (Failed, OSError, AssertionError) as failed:
            self.bench.say(f"{measure:13} {peer.label():28} FAILED: {failed}")
            self.samples.append(
                {"measure": measure, "contender": peer.name, "store": peer.store.kind, "failed": str(failed), "round": len(self.looks)}
            )
            return False

    def turn(self, measure):
        """Who takes part, each round beginning with another one: nobody always comes after the same one."""
        taking = [peer for peer in self.peers if measure in peer.measures and not (self.bench.quick and measure in peer.slow)]
        at = len(self.looks) % max(1, len(taking))
        return taking[at:] + taking[:at]

    def round(self):
        self.looks.append(machine.look())
        material = self.bench.material
        for measure, source in (("start", material.waiting), ("start_crashed", material.crashed), ("drain_text", material.text)):
            if measure in self.measures:
                for peer in self.turn(measure):
                    self.attempt(peer, measure, archiving.drain if measure == "drain_text" else archiving.start, source, measure)
                    peer.discard()
        if "idle" in self.measures:
            for peer in self.turn("idle"):
                self.attempt(peer, "idle", archiving.idle)
        drained = {}
        if self.measures & {"drain", "replay"}:
            for peer in self.turn("drain"):
                drained[peer] = self.attempt(peer, "drain", archiving.drain, material.waiting, "drain")
        if "replay" in self.measures:
            for peer in self.turn("replay"):
                # Who did not archive has nothing to replay, but for the one that archives nothing.
                if drained.get(peer, "drain" not in peer.measures):
                    self.attempt(peer, "replay", replay.replay)
        for peer in self.peers:
            peer.discard()
        if self.measures & {"full", "delta_none", "delta_one", "delta_half", "restore", "restore_chain"}:
            self.backups()

    def backups(self):
        good = {peer: True for peer in self.turn("full")}

        def steps(measure, function, *arguments):
            for peer in self.turn(measure):
                if good[peer]:
                    good[peer] = self.attempt(peer, measure, function, *arguments)

        steps("full", backups.step, True, "full")
        if "restore" in self.measures:
            steps("restore", backups.restore, "restore")
        if self.measures & {"delta_none", "delta_one", "delta_half", "restore_chain"}:
            steps("delta_none", backups.step, False, "delta_none")
            backups.change_one(self.bench)
            steps("delta_one", backups.step, False, "delta_one")
            backups.change_half(self.bench)
            steps("delta_half", backups.step, False, "delta_half")
        if "restore_chain" in self.measures:
            steps("restore_chain", backups.restore, "restore_chain")
        for peer in good:
            peer.discard()


def result_of(bench, options, run, missing, interrupted):
    disturbed = sum(sample.get("others", 0) > machine.QUIET for sample in run.samples)
    warnings = machine.warnings(run.looks, disturbed, len(run.samples))
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "took_s": round(time.monotonic() - bench.begun),
        "took_cpu_s": round(sum(os.times()[:4])),
        "machine": machine.describe(bench.work),
        "commit": options.commit,
        "parameters": {key: getattr(options, key) for key in ("quick", "segments", "scale", "rounds", "checksums")},
        "versions": {peer.name: peer.version() for peer in run.peers},
        "missing": missing,
        "interrupted": interrupted,
        "noise": run.looks,
        "warnings": [*(["the run was interrupted, and is not whole"] if interrupted else []), *warnings],
        "samples": run.samples,
        "rows": summarize(run.samples),
    }


def measure(bench, options):
    bench.stores["S3"].start()
    peers, missing = choose(bench, options)
    for name, reason in missing.items():
        bench.say(f"{name} does not take part: {reason}")
    run = Run(bench, peers, set(options.measures))
    interrupted = False
    try:
        bench.material = Material(bench)
        bench.material.make(set(options.measures))
        for number in range(options.rounds):
            bench.say(f"round {number + 1} of {options.rounds}")
            run.round()
    except (KeyboardInterrupt, SystemExit):
        # An hour's figures are not thrown away.
        if not run.samples:
            raise
        interrupted = True
        bench.say("interrupted")
    return result_of(bench, options, run, missing, interrupted)


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options)
    try:
        result = measure(bench, options)
    finally:
        bench.end()
    os.makedirs(options.out, exist_ok=True)
    with open(os.path.join(options.out, "bench.json"), "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    table.write(os.path.join(options.out, "results.md"), result)
    pictures.draw(options.out, result)
    print(open(os.path.join(options.out, "results.md")).read())
    bench.say(f"table, bench.json and pictures are in {options.out}")
    if result["interrupted"]:
        sys.exit(130)
    if any(sample.get("failed") and sample["contender"] == OURS for sample in result["samples"]):
        sys.exit("bench: walarchive failed")


if __name__ == "__main__":
    try:
        main()
    except Failed:
        traceback.print_exc()
        sys.exit(1)

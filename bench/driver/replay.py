"""Recovery from the archive: how long the replay of the drained segments takes."""

import os
import re

from driver.meter import Meter
from driver.process import Failed, tail_of


def when(log, what):
    with open(log, errors="replace") as file:
        found = re.search(r"^([\d.]+) LOG:  " + what, file.read(), re.M)
    return float(found.group(1)) if found else None


def replay(bench, peer):
    """Replays what the drain of this contender has archived; its repository must be there."""
    data = os.path.join(bench.work, "replay")
    server = bench.material.base.copy(data)
    try:
        bench.write(server.path("recovery.signal"), "")
        server.configure(["archive_mode = off", "hot_standby = off", *peer.replay(data)])
        meter = Meter(bench, peer)
        try:
            server.start(900, lambda: meter.look(server.memory))
        except Failed as failed:
            raise Failed(f"recovery did not end: {failed}") from None
        redo, cpu = when(server.log, "redo done at"), server.cpu()
        others = meter.others(cpu)
        if redo is None:
            raise Failed(f"nothing was replayed:\n{tail_of(server.log)}")
        wall = redo - when(server.log, "starting archive recovery")
        # Where it ended tells that it was not cut short.
        high, low = re.search(r"redo done at ([0-9A-F]+)/([0-9A-F]+)", open(server.log, errors="replace").read()).groups()
        ended = f"{int(high, 16):08X}{int(low, 16) >> 24:08X}"
        if ended < bench.material.last_segment[8:]:
            raise Failed(f"recovery ended in segment {ended}, before {bench.material.last_segment}")
        return [meter.sample("replay", wall, cpu, others=others)]
    finally:
        server.crash()
        server.remove()

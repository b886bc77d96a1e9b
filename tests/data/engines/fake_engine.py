"""An engine of a few lines for tests: answers follow from a checksum of the weights, so equal weights answer alike.

--version V         what it says that it is
--fault KIND        dies | refuses | twice | foreign | hangs, in the middle of a batch
--from N            at the N-th batch, from 1, and ever after
--count FILE        where batches are counted; else each process counts its own
--once FILE         only if there is no such file, which is made then
--until FILE        only while there is no such file
"""

import argparse
import os
import pathlib
import sys
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "engines"))

import heterosis_engine  # noqa: E402


class Fake(heterosis_engine.Engine):
    name = "fake"
    can = ("generate", "score", "reopen")

    def __init__(self, options):
        self.options, self.version, self.batches = options, options.version, 0
        print("fake engine: warming up", file=sys.stderr)
        print("printed, and no reply")

    def open(self, directory, dtype, tensors):
        assert os.path.exists(os.path.join(directory, "config.json")) and dtype == "f32"
        self.sums, self.expected, self.usable = {}, set(tensors), False
        return 512, 234

    def weights(self, ring, pieces):
        self.usable = False
        for piece in pieces:
            data = ring.bytes[piece["at"] : piece["at"] + 4 * piece["count"]]
            self.sums[piece["tensor"], piece["from"]] = zlib.crc32(data)

    def use(self):
        assert {name for name, _ in self.sums} == self.expected, "weights are missing"
        self.digest, self.usable = zlib.crc32(repr(sorted(self.sums.items())).encode()), True

    def fault(self):
        options = self.options
        if options.fault is None or self.batches < options.first:
            return None
        if options.until is not None and os.path.exists(options.until):
            return None
        if options.once is not None:
            if os.path.exists(options.once):
                return None
            pathlib.Path(options.once).touch()
        return options.fault

    def answers(self, requests, answer):
        assert self.usable, "asked before the weights were whole"
        self.batches += 1
        if self.options.count is not None:
            with open(self.options.count, "a+") as counted:
                counted.write("x")
                self.batches = counted.tell()
        fault = self.fault()
        for i, request in enumerate(requests):
            if fault is not None and i == len(requests) // 2:
                if fault == "dies":
                    print("fake engine: no memory left", file=sys.stderr, flush=True)
                    os._exit(3)
                if fault == "hangs":
                    time.sleep(600)
                if fault == "refuses":
                    raise SystemExit("fake engine: I do not want to")
                if fault == "twice":
                    i -= 1
                if fault == "foreign":
                    i += len(requests)
            yield (i, *answer(request))

    def generate(self, requests, eos, stops):
        def answer(request):
            if request["max_tokens"] < 2:
                return [2], "length"
            return [2 + (self.digest + sum(request["prompt"])) % 200, min(eos)], "eos"

        return self.answers(requests, answer)

    def score(self, requests):
        return self.answers(requests, lambda r: (-((self.digest ^ sum(r["tokens"])) % 9973) / 100, False))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", default="1")
    parser.add_argument("--fault")
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--count")
    parser.add_argument("--once")
    parser.add_argument("--until")
    heterosis_engine.serve(Fake(parser.parse_args()))


main()

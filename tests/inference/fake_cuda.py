"""torch.cuda's streams, events and graphs played on a CPU: what is called is written down, in order."""

import contextlib

import torch


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_event(self, event):
        self.log.append(("wait", self.name, event.at))

    def wait_stream(self, other):
        self.log.append(("wait stream", self.name, other.name))


class Event:
    def __init__(self, log):
        self.log, self.at = log, None

    def record(self, stream):
        self.at = sum(entry[0] == "replay" for entry in self.log)
        self.log.append(("record", stream.name, self.at))

    def synchronize(self):
        self.log.append(("settle", self.at))


class Graph:
    """A replay calls the captured function again, and writes what it gives where the capture's results are."""

    def __init__(self, cuda):
        self.cuda = cuda

    def replay(self):
        self.cuda.log.append(("replay", self.cuda.current.name))
        for kept, fresh in zip(vars(self.found()).values(), vars(self.again()).values()):
            kept.copy_(fresh)


class Cuda:
    """What `install` puts in the place of torch.cuda."""

    def __init__(self):
        self.log, self.pools, self.fails, self.streams = [], 0, [], 0
        self.current = Stream(self.log, "caller")
        self.device_index = None

    def install(self, monkeypatch):
        fakes = {
            "Stream": lambda device=None: self.new_stream(),
            "Event": lambda: Event(self.log),
            "CUDAGraph": lambda: Graph(self),
            "graph": self.capture,
            "device": self.device,
            "stream": self.stream,
            "current_stream": lambda device=None: self.current,
            "graph_pool_handle": self.new_pool,
            "synchronize": lambda: self.log.append(("synchronize", self.device_index)),
            "empty_cache": lambda: self.log.append(("empty",)),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        return self

    def new_stream(self):
        """A model's own stream, then the one beside it."""
        self.streams += 1
        return Stream(self.log, "own" if self.streams % 2 else "side")

    def new_pool(self):
        self.pools += 1
        return self.pools

    @contextlib.contextmanager
    def device(self, device):
        before, self.device_index = self.device_index, device
        yield
        self.device_index = before

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(self, graph, pool, stream, capture_error_mode):
        self.log.append(("capture", pool, stream.name, capture_error_mode, self.device_index))
        if self.fails:
            self.current = stream  # as torch leaves it when a capture cannot be ended
            raise self.fails.pop(0)
        yield

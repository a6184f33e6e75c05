"""A Ray without processes: calls of actors run sequentially, during `wait`."""

from __future__ import annotations

import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

LISTENER = socket.create_server(("127.0.0.1", 0), backlog=1000)  # accepts connections for every node


class Died(Exception):
    """Result of a call to a dead actor."""


class Crash(BaseException):
    """Raised by a method to end the actor's process."""


class FakeRay:
    """`nodes` have resources; actors without room never reply. `longest`: most calls waited for at once."""

    exceptions = SimpleNamespace(RayActorError=Died, WorkerCrashedError=Died, NodeDiedError=Died, OutOfMemoryError=Died)

    def __init__(self, *nodes: dict[str, float]) -> None:
        self._nodes = [
            {"Alive": True, "Resources": resources, "NodeID": f"node{number}", "NodeManagerAddress": "127.0.0.1",
             "NodeManagerPort": LISTENER.getsockname()[1]}
            for number, resources in enumerate(nodes)
        ]  # fmt: skip
        self.actors: list[Actor] = []
        self.longest = self._turn = self.asked = 0

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "driver")

    def nodes(self) -> list[dict[str, Any]]:
        self.asked += 1
        return self._nodes

    def cluster_resources(self) -> dict[str, float]:
        keys = {key for node in self._nodes for key in node["Resources"]}
        return {key: sum(node["Resources"].get(key, 0) for node in self._nodes) for key in keys}

    def remote(self, cls: type) -> Any:
        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *given: self._start(cls, given, options))
        )

    def _start(self, cls: type, given: tuple[Any, ...], options: dict[str, Any]) -> Actor:
        room = sum(int(node["Resources"].get("CPU", 0) // options["num_cpus"]) for node in self._nodes)
        living = sum(not actor.dead for actor in self.actors)
        self.actors.append(Actor(cls(*given), options, living < room))
        return self.actors[-1]

    def kill(self, actor: Actor) -> None:
        actor.die()

    def wait(self, refs: list[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        self.longest = max(self.longest, len(refs))
        if not any(ref.done for ref in refs):
            busy = [actor for actor in self.actors if actor.running and actor.queue]
            if busy:
                self._turn += 1
                busy[self._turn % len(busy)].step()
        done = [ref for ref in refs if ref.done][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: Ref) -> Any:
        assert ref.done
        if isinstance(ref.answer, Died):
            raise ref.answer
        return ref.answer


class Ref:
    def __init__(self) -> None:
        self.done, self.answer = False, None

    def set(self, answer: Any) -> None:
        self.done, self.answer = True, answer


class Actor:
    def __init__(self, inner: Any, options: dict[str, Any], running: bool) -> None:
        self.inner, self.options, self.running, self.dead = inner, options, running, False
        self.queue: deque[tuple[Ref, Any, tuple[Any, ...]]] = deque()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *given: self._call(getattr(self.inner, name), given))

    def _call(self, method: Any, given: tuple[Any, ...]) -> Ref:
        ref = Ref()
        if self.dead:
            ref.set(Died("the actor is dead"))
        else:
            self.queue.append((ref, method, given))
        return ref

    def step(self) -> None:
        ref, method, given = self.queue[0]
        try:
            answer = method(*given)
        except Crash:
            self.die()
            return
        self.queue.popleft()
        ref.set(answer)

    def die(self) -> None:
        self.dead, self.running = True, False
        for ref, *_ in self.queue:
            ref.set(Died("the actor is dead"))
        self.queue.clear()

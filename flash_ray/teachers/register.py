"""A worker's line to the registrar: it tells of requests and hears of teachers, and never waits."""

from collections import deque
from collections.abc import Mapping

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError


class Register:
    """Of one group.

    Args:
        registrar: a `Registrar`.
        group: its position among those that are running.
        client: this worker.
    """

    def __init__(self, registrar: ActorHandle, group: int, client: str):
        self._registrar, self._group, self._client = registrar, group, client
        self._version = ""
        self._hired: Mapping[int, ActorHandle] = {}
        self._replies: deque[ObjectRef] = deque()

    def note(self, teacher: int | None, answer: ObjectRef) -> None:
        """That a teacher was asked, by its number; None: one of the minimum."""
        follow = self._registrar.follow
        self._replies.append(
            follow.remote(self._group, self._client, teacher, [answer], self._version)
        )

    def hired(self) -> Mapping[int, ActorHandle]:
        """The teachers beyond the minimum, by number, as far as was heard until now."""
        while self._replies and ray.wait([self._replies[0]], timeout=0)[0]:
            try:
                news = ray.get(self._replies.popleft())
            except RayActorError:  # it died, and they with it; Ray restarts it
                news = "", {}
            if news:
                self._version, self._hired = news
        return self._hired

    def lost(self, teacher: ActorHandle) -> None:
        """That a teacher is gone, before the registrar says so."""
        self._hired = {n: actor for n, actor in self._hired.items() if actor != teacher}

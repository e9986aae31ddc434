"""Which of several replicas a user's requests go to.

A client that sends `x-session-id: <user id>` keeps a user with one replica, which remembers what it
showed them; when that one is busy the next takes over, and when replicas come or go only their own
users move. Without the header the less busy of two replicas is taken.

Ray sends this class by value to proxies that have none of our code: nothing of it is imported here.
"""

import hashlib
import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class UserRouter(RequestRouter):
    """Chooses a replica by rendezvous hashing of the user; O(replicas) a request."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas, each tried when none of the one before it takes the request."""
        if pending_request is None or not pending_request.metadata.session_id:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        pending_request.routing_context.should_backoff = True
        user = pending_request.metadata.session_id
        names = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[names[name]] for name in by_weight(user, list(names))]


def by_weight(user: str, names: list[str]) -> list[str]:
    """Names in the order of a user's own weights (Thaler & Ravishankar, 1998)."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{name} {user}".encode()).digest())

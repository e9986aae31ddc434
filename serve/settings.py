"""Settings of serving (root `serve`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from data.contract.passwords import concealed
from data.contract.settings import Count, NonNegative, Positive, Share
from serve.experiments import Experiment
from serve.filters import Rule
from serve.pixie import RecentWalks
from serve.programs import ITEM_SIDE, ON_GPU, Placement
from serve.proxies import Proxy
from serve.utility import UtilitySettings

Port = Annotated[int, Field(ge=0, le=65535)]
NonNegativeHours = Annotated[float, Field(ge=0)]
REDIS = ("redis://", "rediss://", "unix://")


def _shares() -> dict[str, Share]:
    shares = {"two_tower": 0.8, "pinnersage": 0.1, "pixie": 0.1, "related": 0.6, "interests": 0.3}
    return {**shares, "popular": 0.1, "fresh": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How a bundle is served.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        replicas: processes that serve; all on the machine that holds a local store.
        max_replicas: processes that may serve while there is much to do; 0: just `replicas`.
        target_requests: requests in work at a replica above which another one is started.
        proxy: what listens: `python`, Ray Serve's own, or `haproxy`, which is faster but listens on
            all interfaces whatever `host` is, and so asks for a token. It asks another replica
            where one is killed at work: an event without `event_id` may then count twice.
        store: where what is posted is kept: `local`, under the root, for one machine, or a Redis
            server, `redis://host:port/database`, with a database of its own for each root; its
            password is in the environment, `HOMEFEED_STORE_PASSWORD`, of servers and jobs.
        placement: where the ranker runs: `cpu`, `gpu`, or `mixed`, with its item side on a GPU.
        gpu_share: share of a GPU, and of its memory, that a replica takes where it runs on one. The
            bundle that serves, one that is being loaded and each of an experiment get equal parts.
        candidates: items that the sources give to the ranker.
        shares: share of the candidates that each source is given; those that do not answer leave
            theirs to the others.
        least_share: share of the shown items that each source has at least in the mean, if it found
            as many; not beside a related item.
        sources: candidate sources of one's own, `package.module:Class`, made from (bundle,
            catalogue) and asked after the built-in ones.
        pixie: walks from what a user has just liked, where the bundle has a graph.
        deadlines_ms: source -> time it may take; `default` stands for the sources not named, and
            `store` is that of reading a user from a Redis server.
        budget_ms: time for a whole request, unless its header x-deadline-ms gives it less; sources
            get what is left of it, and the ranker runs only while there is enough.
        breaker_failures: failures in a row of a source, the ranker or the store after which it is
            left alone.
        breaker_seconds: for so long; then one request tries again.
        remembered_users: users whose last feed and actions a replica keeps for bad times.
        rank_threads: threads that rank the candidates of a request while a replica ranks no other;
            1 where it has but one core. One does in 8 bits, whose scale is that of a run.
        rank_together: requests that come while a GPU ranks and are then ranked in one run.
        threads: threads for the sources of all requests of a replica; one source has at most half.
        queue: sources of all requests that may wait for a thread, half of them of one source; more
            are shed.
        max_concurrent: requests in work or waiting in a replica before it answers 503.
        seen_hours: hours for which an item that was shown is not shown again; 0 shows it again.
        max_actions: newest posted actions kept at hand for a user.
        store_gib: most disk space that a local store may take; it holds what was posted in some
            three days (`day=next` archives what is older), and a full one refuses what is posted.
        utility: what an item is worth by the probabilities of actions on it.
        rules: name -> items that may not be shown, by what a column of theirs holds.
        match_user: item column -> user column: items with another value than the user's are not
            shown, where both are known (`language: language`, say).
        hidden_creator_after: hidden items of a creator after which none of theirs is shown; 0:
            never.
        prerank: candidates that the retrieval score leaves to the ranker; 0: all of them.
        max_per_creator: items of one creator in a feed while there are others.
        spacing: item column -> places before an item in which its value may not stand while there
            are others.
        diversity: strength of a determinantal point process over the items' vectors; 0: none.
        explore: share of feeds in which one place, at random, shows a candidate drawn at random;
            its propensity is logged.
        experiment: arms of users who are served by other settings, or by another bundle.
        rate: requests a second that a client may make in the mean; 0: as many as it likes. A client
            is an address: behind a load balancer all are one, which then is to set the bound, and
            with proxy=haproxy it is refused.
        clock: time of requests and events: `wall`, `log` (goes on where the log ends), or `auto`:
            `log` when the log ended over a week before its bundle was made.
        poll_seconds: time between looks at the pointer to the bundle, and at `utility.json`.
        log_requests: whether shown items and the features used are logged.
        log_seconds: time between writes of the request log.
        log_rows: shown items that may wait for a write, ten excluded ones counting as one; more are
            lost, and counted.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    replicas: Count = 1
    max_replicas: NonNegative = 0
    target_requests: Positive = 2.0
    proxy: Proxy = "python"
    store: str = "local"
    placement: Placement = "cpu"
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    candidates: Count = 500
    shares: dict[str, Share] = field(default_factory=_shares)
    least_share: Share = 0.05
    sources: tuple[str, ...] = ()
    pixie: RecentWalks = field(default_factory=RecentWalks)
    deadlines_ms: dict[str, Positive] = field(default_factory=lambda: {"default": 300.0})
    budget_ms: Positive = 1000.0
    breaker_failures: Count = 5
    breaker_seconds: Positive = 5.0
    remembered_users: Count = 10_000
    rank_threads: Count = 2
    rank_together: Count = 8
    threads: Count = 4
    queue: NonNegative = 64
    max_concurrent: Count = 100
    seen_hours: NonNegativeHours = 0.0
    max_actions: Count = 1000
    store_gib: Count = 16
    utility: UtilitySettings = field(default_factory=UtilitySettings)
    rules: dict[str, Rule] = field(default_factory=dict)
    match_user: dict[str, str] = field(default_factory=dict)
    hidden_creator_after: NonNegative = 3
    prerank: NonNegative = 0
    max_per_creator: Count = 3
    spacing: dict[str, Count] = field(default_factory=dict)
    diversity: Annotated[float, Field(ge=0, le=100)] = 0.0
    explore: Share = 0.02
    experiment: Experiment = field(default_factory=Experiment)
    rate: Annotated[float, Field(ge=0)] = 0.0
    clock: Literal["auto", "wall", "log"] = "auto"
    poll_seconds: Positive = 0.5
    log_requests: bool = True
    log_seconds: Positive = 10.0
    log_rows: Count = 200_000

    def __post_init__(self) -> None:
        if self.store != "local" and not self.store.startswith(REDIS):
            raise ValueError(
                f"serve.store={concealed(self.store)} is neither local nor an address of Redis "
                "such as redis://127.0.0.1:6379/0"
            )
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(
                f"serve.max_replicas={self.max_replicas} is less than "
                f"serve.replicas={self.replicas}"
            )

        if self.rate and self.proxy == "haproxy":
            raise ValueError(
                f"serve.rate={self.rate:g} would bound all clients together, for replicas see no "
                "address but that of HAProxy; leave it at 0, or set serve.proxy=python"
            )

    @property
    def most_replicas(self) -> int:
        """Replicas that there may be at once."""
        return max(self.replicas, self.max_replicas)

    @property
    def ranks_on_gpu(self) -> bool:
        """Whether the ranker's item side runs on a GPU."""
        return ITEM_SIDE in ON_GPU[self.placement]

    def deadline_s(self, source: str) -> float:
        """Seconds that a source may take."""
        default = self.deadlines_ms.get("default", 300.0)
        return self.deadlines_ms.get(source, default) / 1000

"""The built-in world: generates a company's raw tables, day by day, from a seed.

Notable:
    - People have several drifting interests, and each session is about one of them.
    - What they are shown is logged with the exact propensity of a small funnel.
    - A later day continues from the journal, and is the same as if simulated at once.
    - Two oracles read what is hidden: the ceilings of logged recall and of what people answer.

`settings` what a world is · `population` who and what is in it · `pools`, `policy` what is shown ·
`response` what people do · `state` a day of it · `journal`, `files`, `tables` what is written ·
`generation` days from settings · `simulation` an experiment on a running world · `oracles`.
"""

from data.world.generation import HIDDEN_FOLDER, WorldSummary, generate
from data.world.settings import World, WorldSettings, resolve

__all__ = ["HIDDEN_FOLDER", "World", "WorldSettings", "WorldSummary", "generate", "resolve"]

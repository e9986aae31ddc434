"""The corpus of a bundle: chosen by settings and blocklist, told in manifest and output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.blocklist import Blocklist
from data.contract.settings import UserError
from data.contract.signatures import SIGNATURE_COLUMN
from data.corpus import Corpus, CorpusSettings, Standing, choose
from ray_jobs.engine.job import console

if TYPE_CHECKING:
    from data.dataset import Dataset


def check_corpus(dataset: Dataset, settings: CorpusSettings) -> Blocklist:
    """Reads the blocklist. Raises UserError for it, or for a weight of no action."""
    dataset.vocabulary.weights(settings.weights, "corpus.weights")
    return Blocklist.read(settings.blocklist, dataset.item_ids.ids.type)


def corpus_of(dataset: Dataset, blocked: Blocklist, settings: CorpusSettings) -> Corpus:
    """The items that may be recommended. Raises UserError when there is none."""
    corpus = choose(Standing.of(dataset, settings), blocked.rows(dataset.item_ids), settings)
    if not len(corpus.rows):
        raise UserError(
            f"no item is left to recommend: corpus.blocklist={settings.blocklist} names "
            f"{corpus.left_out['blocked']} of {corpus.items} items; give a shorter one"
        )
    return corpus


def told(dataset: Dataset, corpus: Corpus, blocked: Blocklist) -> dict[str, Any]:
    """What the manifest says of the corpus: sizes, and why items are not in it."""
    listed, known = len(blocked.ids), len(blocked.rows(dataset.item_ids))
    signed = dataset.items.hashes(SIGNATURE_COLUMN) is not None
    return {
        "items": corpus.items,
        "served": len(corpus.rows),
        "left_out": corpus.left_out,
        "one_of_each": SIGNATURE_COLUMN if signed else "item_id",
        "blocklist": {"ids": listed, "unknown": listed - known},
    }


def tell(corpus: dict[str, Any]) -> None:
    """Prints how many items are served, why the others are not, how many blocked ids are new."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in corpus["left_out"].items())
    size = f"{corpus['served']} of {corpus['items']} items, one of each {corpus['one_of_each']}"
    console.print(f"corpus: {size}; left out: {reasons}")
    ids, unknown = corpus["blocklist"]["ids"], corpus["blocklist"]["unknown"]
    if ids:
        console.print(f"corpus.blocklist: {ids} ids, {unknown} of them of no item here yet")

"""Find the pictures of a command that are in the folder already, with the same provenance."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nst_jax.cli.batch_plan import BatchJob
from nst_jax.cli.manifest import digest_of, of_images, provenance, read_provenance
from nst_jax.cli.names import PictureFiles
from nst_jax.distributed.collectives import allgather_json
from nst_jax.io.provenance import Provenance, difference
from nst_jax.weights.converted_file import Weights


def provenance_of(
    job: BatchJob, weights: Weights | None, **form: Any
) -> Callable[[PictureFiles], Provenance]:
    """Return a function that takes a picture to its provenance.

    Args:
      job: the pictures of the command.
      weights: see `provenance`.
      form: the background, and how the files are written, by name.
    """
    common = provenance(job.asked, weights=weights, sequence=job.sequence, **form)
    digest = functools.cache(digest_of)
    return lambda picture: (
        common | of_images(picture.content, picture.styles, job.start, digest=digest)
    )


def skip_finished(job: BatchJob, made_from: Callable[[PictureFiles], Provenance]) -> BatchJob:
    """Return the job without the pictures that are in the folder already.

    A picture with the same provenance is finished. A picture with another provenance, or with none,
    is not replaced, and is a fault.

    Args:
      job: the pictures of the command.
      made_from: from `provenance_of`.
    """
    found: dict[str, str] = {}  # by file: where its provenance differs; empty if it does not
    for each in job.todo:
        if each.picture.output.exists():
            had = read_provenance(each.picture.output)
            other = difference(had, made_from(each.picture)) if had else "something unknown"
            found[str(each.picture.output)] = other
    # Process 0's answer counts: a later process might find pictures that process 0 has just made.
    found = allgather_json("finished", found)[0]
    return job._replace(
        todo=tuple(each for each in job.todo if str(each.picture.output) not in found),
        finished=frozenset(Path(path) for path, other in found.items() if not other),
        faults=(*job.faults, *_in_the_way(found)),
    )


def _in_the_way(found: Mapping[str, str]) -> list[str]:
    """Return a line for each difference in provenance, with the files that have it."""
    lines = []
    for other in dict.fromkeys(filter(None, found.values())):
        first, *more = [path for path, each in found.items() if each == other]
        files = f"{first} and {len(more)} more are" if more else f"{first} is"
        lines.append(
            f"{files} there already, made from {other}; give --overwrite to paint anew, or another "
            "--output"
        )
    return lines

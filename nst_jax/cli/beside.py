"""What a run writes beside its picture: manifest, contact sheet, timelapse, log and report."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from nst_jax.cli.manifest import Manifest, facts_of, note_of, recipe_text, save_beside
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import warn
from nst_jax.cli.report import check_report, save_report
from nst_jax.cli.sheet import check_sheet, save_sheet
from nst_jax.cli.step_log import LogFile, Row, check_log, with_rows
from nst_jax.cli.timelapse import Frames, check_timelapse, every, save_timelapse
from nst_jax.geometry import Shape
from nst_jax.io.files import check_writable
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot

TakeRows = Callable[[list[Row]], None]


def check_beside(options: JobOptions, output: Path, images: Sequence[str]) -> None:
    """Raise InputError if a file that goes with a picture cannot be written.

    Args:
      options: the options of the command.
      output: the file of the picture.
      images: the files of the content and the styles.
    """
    taken: list[str | Path] = [output, *images]
    if options.sheet:
        check_sheet(Path(options.sheet), [output], images)
        taken.append(options.sheet)
    if options.timelapse:
        check_timelapse(Path(options.timelapse), taken)
    if options.report:
        check_report(Path(options.report))
    if options.log:
        check_log(Path(options.log))
    if options.json:
        check_writable(f"{output}.json", what="the manifest")


def frame_steps(options: JobOptions, steps: int) -> int | None:
    """Return how many steps apart the frames of --timelapse are, if it was given."""
    return every(steps) if options.timelapse else None


class Beside:
    """What is kept of a run for the files beside its picture.

    Args:
      options: the options of the command.
      shape: (height, width) of the picture.
      describe: takes a snapshot to the manifest of its picture.
      watchers: also take the rows of the steps as they come.
    """

    def __init__(
        self,
        options: JobOptions,
        shape: Shape,
        describe: Callable[[Snapshot[Losses]], Manifest],
        *,
        watchers: Collection[TakeRows] = (),
    ):
        self._options, self._describe = options, describe
        self._rows: list[Row] = []
        self._takers: list[TakeRows] = [*watchers]
        if options.log:
            self._takers.append(LogFile(Path(options.log), warn=warn))
        if options.report:
            self._takers.append(self._rows.extend)
        self._frames = Frames(shape) if options.timelapse else None

    def watch(self, snapshots: Iterator[Snapshot[Losses]]) -> Iterator[Snapshot[Losses]]:
        """Yield the snapshots; keep what the files need of each."""
        if self._frames:
            snapshots = self._frames.watch(snapshots)
        return with_rows(snapshots, self._take) if self._takers else snapshots

    def _take(self, rows: list[Row]) -> None:
        for taker in self._takers:
            taker(rows)

    def note(self, snapshot: Snapshot[Losses]) -> str:
        """Return the note for the file of a picture."""
        return note_of(self._describe(snapshot), embed=self._options.manifest)

    def save(
        self,
        files: PictureFiles,
        last: Snapshot[Losses],
        *,
        sizes: Sequence[str],
        weights: str,
        seconds: float,
    ) -> str:
        """Save what goes with a picture that is saved; return a fault, or an empty text.

        Args:
          files: the picture and its images.
          last: the snapshot of the picture.
          sizes: the size of each scale.
          weights: the weights in words.
          seconds: the seconds of the run.
        """
        options, manifest = self._options, self._describe(last)
        fault = save_beside(files.output, manifest) if options.json else ""
        if options.sheet:
            fault = save_sheet(Path(options.sheet), [files], grid=False) or fault
        if self._frames and options.timelapse:
            fault = save_timelapse(Path(options.timelapse), self._frames.film()) or fault
        if options.report:
            inputs = [("content", files.content), *(("style", path) for path in files.styles)]
            if options.start_image:
                inputs.append(("first picture", options.start_image))
            page = save_report(
                Path(options.report),
                result=files.output,
                inputs=inputs,
                sizes=sizes,
                rows=self._rows,
                facts=[("weights", weights), ("seconds", f"{seconds:.1f}"), *facts_of(manifest)],
                settings=recipe_text(manifest),
            )
            fault = page or fault
        return fault

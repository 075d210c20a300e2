"""The ladder of a cross-check: this program against a record of the PyTorch program, rung by rung.

Operation → map → Gram matrix → loss term → gradient → update → trajectory. Each rung rests on the
rungs below, so the first rung that fails tells where to look. An operation gets the record's input,
and an update the record's gradients, so that an error can only be its own.

Nothing here needs torch: a record is a plain mapping of arrays, made by `pytorch_record`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nst_jax.config import Precision, ResolvedConfig
from nst_jax.losses.objective import Losses, Targets
from nst_jax.losses.statistics import gram_matrix
from nst_jax.network.vgg import VGG, normalize
from nst_jax.scale.hyperparameters import Hyperparameters, hyperparameters, make_minimizer
from nst_jax.scale.step import build_network, compute_targets, variable_loss
from nst_jax.transfer.stylize import stylize
from nst_jax.weights.state_dict import from_state_dict

Record = Mapping[str, np.ndarray]
Arithmetic = Literal[Precision, "winograd", "bfloat16 winograd"]

# The number of updates that are checked one by one.
UPDATES = 8


class Budget(NamedTuple):
    """The largest relative error that each kind of rung may have."""

    operation: float
    map: float
    gram: float
    term: float
    gradient: float
    update: float
    adam: float
    lbfgs: float


# Each is at least three times what was measured on a CPU, or simulated for TF32; see
# docs/numerics.md. L-BFGS without a line search amplifies rounding: in float32 and below its
# budget only asks for the same range.
BUDGETS: Mapping[Arithmetic, Budget] = {
    "float64": Budget(1e-13, 1e-12, 1e-12, 1e-12, 1e-11, 1e-11, 1e-9, 1e-6),
    "float32": Budget(2e-6, 5e-6, 5e-6, 5e-6, 1e-4, 1e-5, 1e-3, 0.5),
    "winograd": Budget(3e-6, 1e-5, 5e-6, 5e-6, 1e-4, 1e-5, 1e-3, 0.5),
    "tf32": Budget(1e-3, 5e-3, 1e-2, 2e-2, 1e-2, 1e-5, 5e-2, 10.0),
    "bfloat16": Budget(1e-2, 5e-2, 5e-2, 5e-2, 5e-2, 1e-5, 1e-1, 10.0),
    "bfloat16 winograd": Budget(2e-2, 8e-2, 1e-1, 2e-1, 5e-2, 1e-5, 1e-1, 10.0),
}


class Rung(NamedTuple):
    """One comparison.

    Attributes:
      name: what was compared, as "map relu3_1".
      error: ‖a − b‖/‖b‖ against the record b; for losses along the trajectory the largest
        |a − b|/|b|.
      largest: the largest absolute difference.
      budget: the largest `error` allowed.
    """

    name: str
    error: float
    largest: float
    budget: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the budget; NaN is not."""
        return self.error <= self.budget


class Trajectory(NamedTuple):
    """A run beside the record's (`their_`): the total losses, and our pictures at `marks`."""

    totals: Float[np.ndarray, " steps"]
    their_totals: Float[np.ndarray, " steps"]
    pictures: dict[int, np.ndarray]

    @property
    def errors(self) -> Float[np.ndarray, " steps"]:
        """|a − b|/|b| of the total loss of every step."""
        errors: np.ndarray = np.abs(self.totals - self.their_totals) / np.abs(self.their_totals)
        return errors


def marks(steps: int) -> tuple[int, ...]:
    """Return the steps at which pictures are compared: 1, 2, 5, 10, 20, 50, … and the last."""
    decades = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    return (*(step for step in decades if step < steps), steps)


def arithmetic(config: ResolvedConfig) -> Arithmetic:
    """Return the row of `BUDGETS` that is for a resolved config."""
    if config.conv == "winograd":
        if config.precision == "float32":
            return "winograd"
        if config.precision == "bfloat16":
            return "bfloat16 winograd"
    return config.precision


def network_of(record: Record, config: ResolvedConfig) -> VGG:
    """Build the network from the record's torch state dict, through the real conversion."""
    prefix = "state/"
    state = {key.removeprefix(prefix): x for key, x in record.items() if key.startswith(prefix)}
    _, params = from_state_dict(state, network=config.network, source="the record")
    return build_network(params, config)


def climb(record: Record, network: VGG, config: ResolvedConfig) -> Iterator[Rung]:
    """Compare everything but the trajectory, from the bottom up.

    Args:
      record: from `pytorch_record.record`.
      network: from `network_of`, with the config's settings.
      config: the record's settings, resolved; precision and conv may differ.
    """
    budget = BUDGETS[arithmetic(config)]
    image = {role: jnp.asarray(record[f"image/{role}"], config.image_dtype) for role in _ROLES}
    at = functools.partial(_at, config)

    yield _rung("normalized", normalize(image["point"]), record["normalized"], budget.operation)
    before = record["normalized"]
    for name, operation in network.operations():
        after = record[f"map/{name}"]
        ours = at(operation, jnp.asarray(before[None], network.dtype))
        yield _rung(f"operation {name}", ours, after[None], budget.operation)
        before = after

    maps = at(_maps, network, image["point"])
    for tap, ours in maps.items():
        yield _rung(f"map {tap}", ours, record[f"map/{tap}"], budget.map)
    settings = hyperparameters(config)
    grams = {layer: at(gram_matrix, maps[layer]) for layer in settings.style_layers}
    for layer, ours in grams.items():
        yield _rung(f"Gram {layer}", ours, _term(record, "gram", layer), budget.gram)

    targets = at(compute_targets, network, image["content"], [image["style"]], settings)
    losses, gradient = at(_evaluate, network, image, config, targets, {})
    for part, terms, parts, goals in (
        ("content", losses.content_terms, maps, targets.content),
        ("style", losses.style_terms, grams, targets.style),
    ):
        for layer, ours in terms.items():
            allowed = budget.term * _cancellation(parts[layer], goals[layer])
            yield _rung(f"{part} {layer}", ours, _term(record, part, layer), allowed)
    yield _rung("loss", losses.total, record["total"], budget.term)
    # Where rounding opens or closes a ReLU the gradient jumps: then the record's switches are held.
    theirs, ours = _switches(_record_maps(record, config), config), _switches(maps, config)
    turned = sum(int((theirs[name] != ours[name]).sum()) for name in theirs)
    name = "gradient"
    if turned:
        name = f"gradient, {turned} switches held"
        _, gradient = at(_evaluate, network, image, config, targets, theirs)
    yield _rung(name, gradient, record["gradient"], budget.gradient)
    yield from _updates(record, config, budget)


def _at(config: ResolvedConfig, function: Callable[..., Any], *arguments: Any) -> Any:
    # Set around each call only: a suspended generator would leave the setting in force.
    with jax.default_matmul_precision(config.matmul_precision):
        return function(*arguments)


def _cancellation(a: Array, b: Array) -> float:
    """Return by how much the relative error of a may grow in a - b, at least 1."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return max(1.0, float(np.linalg.norm(x) / np.linalg.norm(x - y)))


def _term(record: Record, kind: str, layer: str) -> np.ndarray:
    """Return the record's value of a layer, or NaN, which nothing agrees with, if it has none."""
    return record.get(f"{kind}/{layer}", np.array(np.nan))


def _record_maps(record: Record, config: ResolvedConfig) -> dict[str, np.ndarray]:
    """Return the record's feature maps by tap."""
    return {tap: record[f"map/{tap}"] for tap in config.architecture.taps}


def _switches(
    maps: Mapping[str, Array | np.ndarray], config: ResolvedConfig
) -> dict[str, np.ndarray]:
    """Return where each ReLU that the gradient passes is open, and which positions before each max
    pooling are the largest of their windows.
    """
    deepest = config.taps[-1]
    found: dict[str, np.ndarray] = {}
    relu = ""
    for conv in config.architecture.convs:
        if conv.pooled and config.pooling == "max":
            before = _windows(np.asarray(maps[relu]))
            # In a window of zeros the ReLUs are closed, and the choice does not matter.
            largest = before.max(axis=(1, 3), keepdims=True)
            found[f"pool{conv.block - 1}"] = (before == largest) & (before > 0)
        relu = conv.relu
        found[relu] = np.asarray(maps[relu]) > 0
        if deepest in (conv.name, relu):
            break
    return found


def _windows(x: Any) -> Any:
    """Cut a map (h, w, c) into 2x2 windows (h/2, 2, w/2, 2, c), sizes rounded down."""
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels)


_ROLES = ("content", "style", "point")


@jax.jit
def _maps(network: VGG, image: Array) -> dict[str, Array]:
    return network(image)


def _evaluate(
    network: VGG,
    image: Mapping[str, Array],
    config: ResolvedConfig,
    targets: Targets,
    switches: Mapping[str, np.ndarray],
) -> tuple[Losses, Float[Array, "h w 3"]]:
    """Compute the losses and the gradient at the point; see `_held_maps` for `switches`."""
    point, settings = normalize(image["point"]), hyperparameters(config)
    losses, gradient = _gradient(point, network, targets, settings, dict(switches))
    return losses, gradient


@jax.jit
def _gradient(
    variable: Array,
    network: VGG,
    targets: Targets,
    settings: Hyperparameters,
    switches: dict[str, Array],
) -> tuple[Losses, Array]:
    def loss(variable: Array) -> tuple[Array, Losses]:
        held = functools.partial(_held_maps, network=network, switches=switches)
        return variable_loss(
            variable, network, targets, settings, features=held if switches else None
        )

    gradient, losses = jax.grad(loss, has_aux=True)(variable)
    return losses, gradient


def _held_maps(variable: Array, *, network: VGG, switches: Mapping[str, Array]) -> dict[str, Array]:
    """Compute the feature maps with every ReLU and max pooling switched as in the record."""
    maps, x = {}, variable.astype(network.dtype)
    for name, operation in network.operations():
        if name not in switches:
            x = operation(x[None])[0]
        elif name.startswith("pool"):
            x = (_windows(x) * switches[name].astype(x.dtype)).sum(axis=(1, 3))
        else:
            x = x * switches[name].astype(x.dtype)
        maps[name] = x
    return maps


def _updates(record: Record, config: ResolvedConfig, budget: Budget) -> Iterator[Rung]:
    """Feed the record's gradients to the optimizer; compare how far the variable has moved.

    The budget makes room for the rounding of the stored variable, which is not small against a
    small first step.
    """
    optimizer = optax.with_extra_args_support(
        make_minimizer(hyperparameters(config), variable_loss).optimizer
    )
    kind = np.dtype(config.image_dtype)
    start = record["variables"][0]
    variable = jnp.asarray(start, kind)
    state, update = optimizer.init(variable), jax.jit(optimizer.update)
    for number, (gradient, theirs) in enumerate(
        zip(record["gradients"], record["variables"][1:], strict=True), start=1
    ):
        value = jnp.asarray(record["losses/total"][number - 1], kind)
        change, state = update(jnp.asarray(gradient, kind), state, variable, value=value)
        variable = optax.apply_updates(variable, change)
        moved = np.linalg.norm(theirs - start)
        rounding = np.finfo(kind).eps * np.linalg.norm(theirs)
        difference = np.asarray(variable, np.float64) - theirs
        yield Rung(
            f"update {number}",
            float(np.linalg.norm(difference) / moved),
            float(np.abs(difference).max()),
            budget.update + float(rounding / moved),
        )


def run_beside(record: Record, network: VGG, config: ResolvedConfig) -> Trajectory:
    """Run the main job on the record's images."""
    totals, pictures = [], {}
    snapshots = stylize(
        record["image/content"],
        record["image/style"],
        network=network,
        config=config,
        snapshot_every=1,
    )
    for snapshot in snapshots:
        totals.append(float(snapshot.losses.total[0]))
        if snapshot.step in marks(config.steps):
            pictures[snapshot.step] = np.asarray(snapshot.image)
    missing = [np.nan] * (config.steps - len(totals))
    return Trajectory(np.array(totals + missing), record["losses/total"], pictures)


def trajectory_budget(config: ResolvedConfig) -> float:
    """Return the largest relative difference that the losses of any step may have."""
    budget = BUDGETS[arithmetic(config)]
    return budget.adam if config.optimizer == "adam" else budget.lbfgs


def trajectory_rungs(
    trajectory: Trajectory, record: Record, config: ResolvedConfig
) -> Iterator[Rung]:
    """Compare two runs: the loss at every step, the pictures at `marks`."""
    allowed, first = trajectory_budget(config), 1
    for last in marks(config.steps):
        part = slice(first - 1, last)
        largest = float(np.abs(trajectory.totals - trajectory.their_totals)[part].max())
        steps = f"step {last}" if first == last else f"steps {first}-{last}"
        yield Rung(f"loss, {steps}", float(trajectory.errors[part].max()), largest, allowed)
        picture = trajectory.pictures.get(last, np.array(np.nan))
        theirs = record[f"picture/{last}"]
        yield _rung(f"picture, step {last}", picture, theirs, allowed)
        first = last + 1


def _rung(name: str, ours: Array | np.ndarray, theirs: np.ndarray, budget: float) -> Rung:
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        return Rung(name, np.inf, np.inf, budget)
    difference = np.linalg.norm(a - b)
    # Two exact zeros agree.
    error = float(difference / (np.linalg.norm(b) or 1.0)) if difference else 0.0
    return Rung(name, error, float(np.abs(a - b).max()), budget)

"""One picture, or a batch, over several devices: those that XLA simulates on a CPU."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from fast import xla_flags
from nst_jax import Config, build_vgg19, layers, stylize
from nst_jax.devices.sharding import find_devices, lay_out, rows_of_a_device
from nst_jax.errors import InputError

# A process of its own, as JAX must be told of the devices before it starts. All assertions share
# what it compiles.
PROGRAM = """
import collections, dataclasses, functools, json, re, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec as P
from nst_jax import Config, VGG16, layers, make_targets, style_transfer_loss, stylize
from nst_jax.devices.backend import resolve
from nst_jax.scale.step import advance, prepare_step
from nst_jax.devices.sharding import lay_out

network = VGG16(rngs=nnx.Rngs(0), deepest="relu4_2")
config = Config(min_size=0, steps=2, conv="direct", padding="replicate", pooling="max",
                style_layers=layers("relu1_1", "relu3_1"), content_layers=layers("relu4_2"))
rng = np.random.default_rng(0)
content = rng.uniform(size=(265, 35, 3)).astype(np.float32)  # 320 rows with those that fill it up
style = rng.uniform(size=(290, 40, 3)).astype(np.float32)
found = {}

def run(content, config, devices, **masks):
    *_, last = stylize(content, style, network=network, config=config, devices=devices,
                       snapshot_every=None, **masks)
    return np.asarray(last.image), last.losses.total

def distances(content, config, devices="all", **masks):
    (alone, losses), (together, same) = (run(content, config, n, **masks) for n in (None, devices))
    return [together.shape, float(np.linalg.norm(together - alone) / np.linalg.norm(alone)),
            float(np.abs(same / losses - 1).max())]

found["picture"] = distances(content, config)
shallow = dataclasses.replace(config, content_layers=layers("relu2_1"),
                              style_layers=layers("relu1_1"), min_size=190, first_steps=2)
found["scales"] = distances(content, shallow)
regions = rng.uniform(size=(265, 35, 3)).astype(np.float32)
of_style = rng.uniform(size=(290, 40, 3)).astype(np.float32)
guided = {"content_mask": regions, "style_mask": of_style, "protect": regions[..., 0]}
found["regions"] = distances(content, shallow, **guided)
found["batch with regions"] = distances(
    rng.uniform(size=(4, 265, 35, 3)).astype(np.float32), dataclasses.replace(shallow, min_size=0),
    **guided)
found["frame"] = distances(content, shallow, previous=regions, previous_mask=regions[..., 1])
found["lbfgs"] = distances(content, dataclasses.replace(
    shallow, optimizer="lbfgs-torch", memory_size=3, min_size=0))
found["batch"] = distances(rng.uniform(size=(4, 40, 32, 3)).astype(np.float32), shallow)

tiles = rng.uniform(size=(256, 32, 3)).astype(np.float32)
found["wrap"] = distances(tiles, dataclasses.replace(shallow, wrap="both"))

small, third = content[:60], jax.devices()[2:3]  # filled up to 64 rows
found["other device"] = distances(small, shallow, third)
snapshots = stylize(small, style, network=network, config=shallow, devices=third)
next(snapshots)
found["its arrays"] = [[device.id for device in x.devices()] for x in jax.live_arrays()
                       if x.shape == (64, 35, 3)]
snapshots.close()

layout = lay_out(content.shape, jax.devices())
config = resolve(config)
state, given = prepare_step(jnp.asarray(content), [jnp.asarray(style)], network=network,
                            config=config, layout=layout)
found["maps"] = [x.sharding.shard_shape(x.shape) for x in given.targets.content.values()]
with jax.default_matmul_precision("highest"):
    lowered = advance.lower(state, 1, given, layout=layout)
text = lowered.compile().as_text()
found["operations"] = collections.Counter(
    re.findall(r" (all-gather|all-reduce|collective-permute|all-to-all)\\(", text))
gathered = layout.gather(state)
found["state"] = [x.shape for x in jax.tree.leaves(gathered)]
again = layout.place_state(gathered)
same = jax.tree.map(lambda a, b: a.sharding == b.sharding and (a == b).all(), state, again)
found["placed"] = [bool(x) for x in jax.tree.leaves(same)]

# Not by the partitioner: everybody's own gradient under shard_map, of its own images.
network = VGG16(rngs=nnx.Rngs(0), deepest="relu2_1")
features = functools.partial(network, taps=("relu1_1", "relu2_1"))
images = jnp.asarray(rng.uniform(size=(4, 32, 16, 3)), jnp.float32)
targets = make_targets(features, images, images[0, :, ::-1], content_layers=["relu2_1"],
                       style_layers=["relu1_1"])
gradient = jax.grad(lambda x, t: style_transfer_loss(x, t, features=features)[0])
expected = jax.jit(gradient)(1 - images, targets)
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P("d"), P("d")), out_specs=P("d"),
                               check_vma=False))(1 - images, targets)
assert len(mapped.sharding.device_set) == 4, mapped.sharding
np.testing.assert_allclose(mapped, expected, rtol=1e-4, atol=1e-7)
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def found():
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=4)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("picture", [265, 35, 3]),
        ("scales", [265, 35, 3]),
        ("regions", [265, 35, 3]),
        ("frame", [265, 35, 3]),
        ("wrap", [256, 32, 3]),
        ("batch with regions", [4, 265, 35, 3]),
        ("batch", [4, 40, 32, 3]),
        ("other device", [60, 35, 3]),
    ],
)
def test_other_devices_paint_the_picture_of_the_default_one(found, case, size):
    shape, distance, of_loss = found[case]
    assert shape == size
    # The sums are added in another order: a unit of the last place of the loss, 6e-8. A pixel whose
    # gradient is of no size may go the other way in a step of Adam.
    assert of_loss < 1e-6
    assert distance < 1e-5


@pytest.mark.slow
def test_one_device_computes_also_if_it_is_not_the_default_one(found):
    assert len(found["its arrays"]) >= 4
    assert all(ids == [2] for ids in found["its arrays"])


@pytest.mark.slow
def test_products_of_pictures_are_taken_over_all_devices(found):
    assert found["lbfgs"][1] < 1e-4


@pytest.mark.slow
def test_no_device_holds_a_whole_map(found):
    assert set(found["operations"]) == {"all-reduce", "collective-permute"}
    # A row of relu4_2 is 8 of the picture's; 320 over four devices.
    assert found["maps"] == [[10, 4, 512]]


@pytest.mark.slow
def test_the_state_comes_back_as_it_was(found):
    shapes = [tuple(shape) for shape in found["state"]]
    assert set(shapes) == {(), (265, 35, 3)}
    assert shapes.count((265, 35, 3)) == 4  # the variable, two moments, the average
    assert all(found["placed"])


def test_rows_are_filled_up_to_multiples_of_sixteen():
    assert rows_of_a_device(265, 4) == 80
    assert rows_of_a_device(256, 4) == 64


def test_a_small_picture_is_not_spread():
    """Border rows would be more than those computed; one device needs no layout at all."""

    one, two = jax.devices(), jax.devices() * 2
    assert lay_out((127, 500, 3), two) is None
    assert lay_out((500, 500, 3), one) is None
    assert lay_out((3, 500, 500, 3), two) is None  # nothing divides three


def test_devices_that_there_are_not(random_params, photographs):
    network = build_vgg19(random_params)
    with pytest.raises(
        InputError, match="devices is 3, but JAX sees 1; allowed are 1 to 1, or all"
    ):
        stylize(*photographs, network=network, devices=3)
    with pytest.raises(InputError, match="devices is 'some'; allowed are a number, all, or a list"):
        find_devices("some")
    assert len(find_devices("all")) == 1
    config = Config(conv="winograd")
    twice = jax.devices() * 2
    with pytest.raises(InputError, match="winograd, which is for one device"):
        stylize(*photographs, network=network, config=config, devices=twice)


def test_one_of_one_device_is_the_plain_run(random_params, photographs):
    shallow = layers("relu1_1")
    config = Config(min_size=0, steps=2, content_layers=shallow, style_layers=shallow)
    network = build_vgg19(random_params)
    one, same = (
        np.asarray(list(stylize(*photographs, network=network, config=config, devices=n))[-1].image)
        for n in (None, "all")
    )
    np.testing.assert_array_equal(one, same)

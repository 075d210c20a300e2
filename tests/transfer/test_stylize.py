import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import (
    Config,
    build_vgg16,
    build_vgg19,
    geometry,
    layers,
    make_targets,
    preset,
    stylize,
)
from nst_jax.devices.backend import block, resolve
from nst_jax.errors import InputError
from nst_jax.losses.objective import style_transfer_loss
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.network.vgg import MEAN, freeze
from nst_jax.scale import step as scale_step
from nst_jax.scale import whole as scale_whole
from nst_jax.transfer import pace, schedule
from nst_jax.transfer import stylize as transfer_stylize

LAYERS = layers("relu1_1", "relu2_1")  # two layers compile fast
CONFIG = dataclasses.replace(
    preset("pytorch"), steps=6, learning_rate=0.02, content_layers=LAYERS, style_layers=LAYERS
)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


def test_snapshots_fall_on_multiples_and_the_end(network, photographs):
    content, style = photographs
    snapshots = list(stylize(content, style, network=network, config=CONFIG, snapshot_every=4))
    assert [s.step for s in snapshots] == [4, 6]
    assert [s.losses.total.shape for s in snapshots] == [(4,), (2,)]
    assert all(s.finite for s in snapshots)
    image = np.asarray(snapshots[-1].image)
    assert image.shape == content.shape
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    totals = np.concatenate([s.losses.total for s in snapshots])
    assert totals[-1] < totals[0]
    assert np.abs(image - content).max() > 0.01
    # The caller's arrays are untouched, and so is the picture of an earlier snapshot.
    assert not np.array_equal(snapshots[0].image, snapshots[1].image)


def test_pictures_are_clipped_to_what_can_be_shown(network, photographs):
    config = Config(**{**vars(CONFIG), "learning_rate": 3.0})
    *_, last = stylize(*photographs, network=network, config=config)
    image = np.asarray(last.image)
    assert (image.min(), image.max()) == (0, 1)


def test_how_it_is_cut_into_chunks_changes_nothing(network, photographs):
    content, style = photographs
    run = lambda **options: list(  # noqa: E731
        stylize(content, style, network=network, config=CONFIG, **options)
    )
    whole, timed, single = run(), run(snapshot_seconds=1e-9), run(snapshot_every=1)
    assert len(whole) == 1
    assert [s.step for s in timed] == [s.step for s in single] == [1, 2, 3, 4, 5, 6]
    for other in (timed, single):
        np.testing.assert_array_equal(whole[-1].image, other[-1].image)
        np.testing.assert_array_equal(
            whole[0].losses.total, np.concatenate([s.losses.total for s in other])
        )


def test_snapshots_may_be_further_apart_than_one_call_reaches(network, photographs, monkeypatch):
    monkeypatch.setattr(pace, "CAPACITY", 2)
    monkeypatch.setattr(scale_step, "CAPACITY", 2)
    scale_step.advance.clear_cache()
    content, style = photographs
    snapshots = list(stylize(content, style, network=network, config=CONFIG, snapshot_every=5))
    scale_step.advance.clear_cache()
    assert [s.step for s in snapshots] == [5, 6]
    assert [len(s.losses.total) for s in snapshots] == [5, 1]
    assert np.isfinite(snapshots[0].losses.total).all()


def test_one_program_for_chunks_of_all_lengths_and_all_weights(network, photographs):
    content, style = photographs
    programs = scale_step.advance._cache_size
    list(stylize(content, style, network=network, config=CONFIG, snapshot_every=4))
    before = programs()
    for change in ({"steps": 9}, {"style_weight": 3.0}, {"learning_rate": 0.1}, {"seed": 3}):
        config = Config(**{**vars(CONFIG), **change})
        list(stylize(content, style, network=network, config=config, snapshot_every=2))
    config = dataclasses.replace(CONFIG, style_blend=(2.0, 1.0))
    list(stylize(content, [style, content], network=network, config=config))
    assert programs() == before


def test_the_network_is_no_constant_of_the_program(network, photographs):
    content, style = map(jnp.asarray, photographs)
    config = CONFIG.resolve("cpu")
    begun = scale_step.prepare_step(content, [style], network=network, config=config)
    lowered = scale_step.advance.lower(begun[0], 3, begun[1])
    assert len(lowered.as_text()) < 200_000
    donated = lowered.compile().memory_analysis().alias_size_in_bytes
    assert donated >= 3 * content.nbytes  # the picture and Adam's two moments, in place


def test_a_batch_is_independent_pictures(network, photographs):
    content, style = photographs
    batch = np.stack([content, content[:, ::-1]])
    *_, together = stylize(batch, style, network=network, config=CONFIG)
    assert together.image.shape == batch.shape
    assert all(x.shape == (6, 2) for x in jax.tree.leaves(together.losses))
    for i in range(2):
        *_, alone = stylize(batch[i], style, network=network, config=CONFIG)
        # Float32 sums in another order, and the steps before.
        np.testing.assert_allclose(together.losses.total[:, i], alone.losses.total, rtol=1e-3)
        # Adam's first steps turn rounding into small differences of the picture.
        np.testing.assert_allclose(together.image[i], alone.image, atol=5e-3)


def test_of_a_batch_the_picture_that_went_bad_is_named(random_params, photographs):
    kernel = random_params["conv1_1.kernel"] * np.float32(1e25)  # its squares overflow
    network = build_vgg19({**random_params, "conv1_1.kernel": kernel})
    content, _ = photographs
    zero = np.broadcast_to(np.float32(MEAN), content.shape)  # to the network
    batch = np.stack([zero, content, zero])
    snapshots = list(stylize(batch, zero, network=network, config=CONFIG, snapshot_every=1))
    assert [(s.finite, s.bad) for s in snapshots] == [(False, (1,))]
    np.testing.assert_array_equal(snapshots[0].image, batch)  # the last good one
    assert np.isfinite(snapshots[0].losses.total[:, [0, 2]]).all()


def test_starts_from_the_content(network, photographs):
    content, style = photographs
    *_, last = stylize(content, style, network=network, config=CONFIG)
    assert last.losses.content[0] < 1e-6 * last.losses.content[-1]


@pytest.mark.parametrize("rate", [1e38, 1e20])
def test_a_loss_that_is_not_finite_is_a_value_with_the_last_good_picture(
    network, photographs, rate
):
    content, style = photographs
    config = Config(**{**vars(CONFIG), "learning_rate": rate, "steps": 40})
    snapshots = list(stylize(content, style, network=network, config=config, snapshot_every=2))
    assert not snapshots[-1].finite
    assert all(s.finite for s in snapshots[:-1])
    assert snapshots[-1].step < 40
    assert not np.isfinite(snapshots[-1].losses.total).all()
    assert np.isfinite(snapshots[-1].image).all()


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "lbfgs-torch"])
def test_jaxs_switch_for_finding_nans(network, photographs, optimizer):
    """Nothing is computed that is not a number, also where there is no contrast."""
    content, style = photographs
    config = dataclasses.replace(CONFIG, optimizer=optimizer, steps=2, tv_weight=1.0, tv_loss="l2")
    with jax.debug_nans(True):
        for look in (style, np.full_like(style, 0.5)):
            *_, last = stylize(content, look, network=network, config=config)
            assert last.finite


@pytest.mark.parametrize("optimizer", ["lbfgs", "lbfgs-torch"])
def test_lbfgs_that_finds_nothing_stops(network, photographs, optimizer):
    """A picture that is the style and the content already; scales go on with the next one."""
    flat = np.full((20, 24, 3), 0.5, np.float32)
    config = dataclasses.replace(
        Config(), content_layers=LAYERS, style_layers=LAYERS, optimizer=optimizer, picture="last"
    )
    config = dataclasses.replace(config, steps=40, first_steps=60, min_size=17)
    snapshots = list(stylize(flat, flat, network=network, config=config, snapshot_every=7))
    ends = [s.step for s in snapshots if s.stuck]
    assert ends == [60, 100]
    assert all(s.finite for s in snapshots)
    made = sum(len(s.losses.total) for s in snapshots)
    assert made < 60
    np.testing.assert_allclose(snapshots[-1].image, flat, atol=0.01)
    content, style = (image[:20, :24] for image in photographs)  # the second scale's programs
    config = dataclasses.replace(config, steps=30, min_size=0)
    *_, last = stylize(content, style, network=network, config=config)
    assert (last.step, last.stuck, len(last.losses.total)) == (30, False, 30)


def test_a_network_that_is_too_shallow_is_found_at_the_call(random_params, photographs):
    shallow = build_vgg19(random_params, deepest="relu1_2")
    with pytest.raises(InputError, match="the network ends at relu1_2, which is before relu2_1"):
        stylize(*photographs, network=shallow, config=CONFIG)


def test_mistakes(network, photographs, unchecked):
    content, style = photographs
    small = np.zeros((1, 40, 3), np.float32)
    cases = [
        (
            (content, small),
            {"config": dataclasses.replace(CONFIG, style_fit="longest")},
            "the style image: an image of 40x1 px is too small",
        ),
        ((content, [style, style[:0]]), {}, "the style image is float32"),
        (
            (content, [style, style]),
            {"config": dataclasses.replace(CONFIG, style_blend=(1.0,))},
            "style_blend has 1 shares, but the number of styles is 2",
        ),
        ((small, style), {}, "the content image: an image of 40x1 px is too small"),
        ((content[..., :2], style), {}, "the content image is float32"),
        (((255 * content).astype(np.uint8), style), {}, "the content image is uint8"),
        ((content, style), {"snapshot_every": 0}, "snapshot_every is 0"),
        (
            (content, style),
            {"config": dataclasses.replace(CONFIG, precision="bfloat16")},
            "the network's dtype is 'float32'",
        ),
        (
            (content, style),
            {"config": dataclasses.replace(CONFIG, precision="tf32")},
            "tf32, which a cpu does not have",
        ),
        (
            (content[None], style),
            {"config": dataclasses.replace(CONFIG, optimizer="lbfgs")},
            "lbfgs takes one picture",
        ),
    ]
    for images, options, said in cases:
        # Before the first snapshot is asked for.
        with pytest.raises(InputError, match=said):
            stylize(*images, **{"network": network, "config": CONFIG, **options})


def test_nothing_is_printed(network, photographs, capfd):
    list(stylize(*photographs, network=network, config=CONFIG))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("optimizer", ["lbfgs", "lbfgs-torch"])
def test_lbfgs_descends_from_one_program(network, photographs, optimizer):
    config = Config(**{**vars(CONFIG), "optimizer": optimizer, "memory_size": 5, "steps": 20})
    before = scale_step.advance._cache_size()
    snapshots = list(stylize(*photographs, network=network, config=config, snapshot_every=7))
    assert scale_step.advance._cache_size() == before + 1
    totals = np.concatenate([s.losses.total for s in snapshots])
    assert totals[-1] < 0.5 * totals[0]
    assert snapshots[-1].finite


def test_bfloat16_maps_leave_the_picture_and_the_sums_in_float32(random_params, photographs):
    config = Config(**{**vars(CONFIG), "precision": "bfloat16"})
    network = scale_step.build_network(random_params, resolve(config))
    *_, last = stylize(*photographs, network=network, config=config)
    *_, exact = stylize(
        *photographs,
        network=scale_step.build_network(random_params, resolve(CONFIG)),
        config=CONFIG,
    )
    assert last.image.dtype == last.losses.total.dtype == np.float32
    difference = np.abs(last.losses.total / exact.losses.total - 1).max()
    assert 1e-6 < difference < 0.05  # bfloat16 has 8 bits


def test_float64_makes_everything_float64(random_params, photographs):
    config = Config(**{**vars(CONFIG), "precision": "float64"})
    with jax.enable_x64(True):
        network = scale_step.build_network(random_params, resolve(config))
        *_, last = stylize(*photographs, network=network, config=config)
    assert last.image.dtype == last.losses.total.dtype == np.float64
    assert last.losses.content_terms["relu1_1"].dtype == np.float64
    with pytest.raises(InputError, match="jax_enable_x64"):
        stylize(*photographs, network=network, config=config)


class SeenError(Exception):
    """Raised in place of the work, with what it was asked for."""


@pytest.fixture
def asked(monkeypatch):
    """Return the network and the precision of products that `stylize` comes to compute with."""

    def targets(network, *arguments, **options):
        raise SeenError(network, jax.config.jax_default_matmul_precision)

    def ask(photographs, **options):
        with pytest.raises(SeenError) as seen:
            next(stylize(*photographs, **options))
        return seen.value.args

    monkeypatch.setattr(scale_step, "compute_targets", targets)
    return ask


@pytest.mark.parametrize(
    ("config", "own", "platform", "dtype", "conv", "products"),
    [
        ({}, "float32", "cpu", "float32", "winograd", "highest"),
        ({}, "float32", "gpu", "bfloat16", "direct", None),
        ({"conv": "direct"}, "float32", "cpu", "float32", "direct", "highest"),
        ({"precision": "float32"}, "float32", "gpu", "float32", "direct", "highest"),
        ({"precision": "tf32"}, "float32", "gpu", "float32", "direct", "tensorfloat32"),
        # A network that was built for something else than the default keeps to it.
        ({}, "bfloat16", "cpu", "bfloat16", "winograd", None),
        ({"precision": "bfloat16"}, "bfloat16", "cpu", "bfloat16", "winograd", None),
        ({"conv": "direct"}, "bfloat16", "cpu", "bfloat16", "direct", None),
    ],
)
def test_stylize_computes_as_the_config_and_the_device_say(
    random_params, photographs, asked, monkeypatch, config, own, platform, dtype, conv, products
):
    monkeypatch.setattr(
        transfer_stylize, "resolve", lambda config, **given: config.resolve(platform, **given)
    )
    network = build_vgg19(random_params, dtype=own)
    config = Config(**{**vars(CONFIG), **config})
    found, precision = asked(photographs, network=network, config=config)
    assert (str(found.dtype), found.conv, precision) == (dtype, conv, products)
    assert (str(network.dtype), network.conv) == (own, "direct")


def test_the_network_pools_and_pads_as_the_config_says(random_params, photographs, asked):
    network = build_vgg19(random_params, pooling="l2", pool_scale=3.0)
    config = dataclasses.replace(CONFIG, pooling="max", padding="replicate")
    found, _ = asked(photographs, network=network, config=config)
    assert (found.pooling, found.pool_scale, found.padding) == ("max", 1.0, "replicate")
    assert (network.pooling, network.pool_scale, network.padding) == ("l2", 3.0, "zeros")


def test_a_network_of_a_type_that_no_precision_means(random_params, photographs, unchecked):
    network = build_vgg19(random_params, dtype="float16")
    with pytest.raises(InputError, match="precision is 'float16'; allowed are auto, float32"):
        stylize(*photographs, network=network, config=CONFIG)


def test_precision_reaches_the_compiled_program(network, photographs):
    def products(precision):
        config = dataclasses.replace(CONFIG, precision=precision)
        config = config.resolve("gpu" if precision == "tf32" else "cpu")
        content, style = map(jnp.asarray, photographs)
        begun = scale_step.prepare_step(content, [style], network=network, config=config)
        with jax.default_matmul_precision(config.matmul_precision):
            text = scale_step.advance.lower(begun[0], 1, begun[1]).as_text()
        lines = [x for x in text.splitlines() if "dot_general" in x or "stablehlo.convolution" in x]
        assert len(lines) > 8
        return lines

    assert all(re.search(r"\bHIGHEST\b", line) for line in products("float32"))
    assert all(re.search(r"\bHIGH\b", line) for line in products("tf32"))
    with jax.default_matmul_precision("highest"):  # whatever the caller's own setting is
        assert all("HIGH" not in line for line in products("bfloat16"))


def test_the_loop_on_a_gpu_computes_and_nothing_else(random_params, photographs):
    config = dataclasses.replace(CONFIG, precision="bfloat16").resolve("gpu", capability=9.0)
    network = scale_step.build_network(random_params, config)
    frozen = freeze(network, taps=config.taps)
    content, style = map(jnp.asarray, photographs)
    begun = scale_step.prepare_step(content, [style], network=frozen, config=config)
    traced = scale_step.advance.trace(begun[0], 3, begun[1])
    text = traced.lower(lowering_platforms=("cuda",))
    loop = text.as_text().split("stablehlo.while")[1]
    assert "custom_call" not in loop  # no calls of the host
    assert "stablehlo.reverse" not in loop  # kernels are turned before
    assert not re.search(r"convert .*tensor<3x3x.*xf32>", loop)  # and rounded before
    # Channels stay last: the only transposes are those of Gram matrices.
    for line in re.findall(r"stablehlo\.transpose.*", loop):
        assert re.search(r"\(tensor<(\d+)x\1xf32>\)", line), line
    products = re.findall(r"stablehlo\.dot_general.*-> (\S+)", loop)
    assert [kind for kind in products if kind.endswith("f32>")] == [
        "tensor<64x64xf32>",
        "tensor<128x128xf32>",
    ]
    maps = re.findall(r"stablehlo\.convolution.*-> (\S+)", loop)
    assert maps
    assert all(kind.endswith("bf16>") for kind in maps)
    shapes = jax.tree.map(lambda x: str(x.dtype), (begun[0].variable, begun[0].optimizer))
    assert set(jax.tree.leaves(shapes)) <= {"float32", "int32"}


def test_a_run_in_blocks_is_the_same_run(network, photographs, monkeypatch):
    """As on a GPU, where `backend.block` says so."""

    def last():
        return list(stylize(*photographs, network=network, config=CONFIG))[-1]

    plain, traced = last(), []
    whole = scale_step.run_steps
    monkeypatch.setattr(
        scale_step,
        "run_steps",
        lambda *a, block, **k: traced.append(block) or whole(*a, block=block, **k),
    )
    monkeypatch.setattr(scale_whole, "block", lambda platform: {"cpu": 3}[platform])
    blocks = last()
    assert traced == [3]
    np.testing.assert_allclose(blocks.image, plain.image, atol=1e-6)
    np.testing.assert_allclose(blocks.losses.total, plain.losses.total, rtol=1e-5)
    assert block("cpu") == block("tpu") == 1
    assert block("gpu") > 1


SCALES = Config(
    min_size=22,
    first_steps=5,
    steps=3,
    content_layers=layers("relu2_1"),
    style_layers=LAYERS,
    pooling="average",
    padding="zeros",
)


def test_a_run_over_scales(network, photographs):
    content, style = photographs
    planned = schedule.make_schedule(content.shape[:2], [style.shape[:2]], SCALES)
    assert [(plan.shape, plan.steps) for plan in planned.scales] == [
        ((18, 22), 5),
        ((26, 32), 3),
        ((37, 45), 3),
    ]
    assert planned.steps == 11
    scale_step.advance.clear_cache()
    snapshots = list(stylize(content, style, network=network, config=SCALES, snapshot_every=4))
    assert scale_step.advance._cache_size() == 3  # one program for each scale
    assert [s.step for s in snapshots] == [4, 8, 11]
    assert [s.image.shape[:2] for s in snapshots] == [(18, 22), (26, 32), (37, 45)]
    assert [len(s.losses.total) for s in snapshots] == [4, 4, 3]
    totals = np.concatenate([s.losses.total for s in snapshots])
    assert totals[10] < totals[8] < totals[0]
    other = dataclasses.replace(SCALES, tv_weight=2.0, first_steps=2, seed=3)
    list(stylize(content, style, network=network, config=other))
    assert scale_step.advance._cache_size() == 3


def test_adam_goes_on_at_the_next_scale(network, photographs, monkeypatch):
    *_, last = stylize(*photographs, network=network, config=SCALES)
    monkeypatch.setattr(scale_whole, "resize_state", lambda state, fresh, **_: fresh)
    *_, anew = stylize(*photographs, network=network, config=SCALES)
    assert np.abs(last.image - anew.image).max() > 1e-3


def test_a_picture_that_is_small_already_has_one_scale(photographs):
    config = dataclasses.replace(SCALES, min_size=200)
    (plan,) = schedule.make_schedule((37, 45), [], config).scales
    assert (plan.shape, plan.steps) == ((37, 45), SCALES.first_steps)
    config = dataclasses.replace(SCALES, min_size=0)
    (plan,) = schedule.make_schedule((37, 45), [], config).scales
    assert (plan.shape, plan.steps) == ((37, 45), SCALES.steps)
    assert SCALES.steps != SCALES.first_steps


def test_the_next_scale_begins_with_the_picture_of_the_one_before(network, photographs):
    content, style = photographs
    snapshots = list(stylize(content, style, network=network, config=SCALES, snapshot_every=1))
    small, large = snapshots[4].image, snapshots[5].image
    enlarged = np.asarray(geometry.resample(small, large.shape[:2], method="cubic"))
    # One step of Adam moves no pixel by much more than its rate, and the average less.
    assert np.abs(enlarged - large).max() < 0.05
    assert np.abs(enlarged - geometry.resample(content, large.shape[:2])).mean() > 0.02


def test_snapshots_say_where_they_are_and_a_callback_ends_a_scale(network, photographs):
    asked = []

    def enough(snapshot):
        asked.append((snapshot.scale, snapshot.scales, snapshot.scale_step, snapshot.step))
        return snapshot.scale_step >= 2 and snapshot.scale < 3

    snapshots = stylize(
        *photographs, network=network, config=SCALES, snapshot_every=1, end_scale=enough
    )
    made = [(len(s.losses.total), s.image.shape[0]) for s in snapshots]
    # The steps that are left at a scale are counted: 5, 3 and 3 are planned.
    places = [(1, 1, 1), (1, 2, 2), (2, 1, 6), (2, 2, 7), (3, 1, 9), (3, 2, 10), (3, 3, 11)]
    assert asked == [(scale, 3, at, step) for scale, at, step in places]
    assert made == [(1, 18)] * 2 + [(1, 26)] * 2 + [(1, 37)] * 3


def test_a_state_is_saved_after_its_snapshot_was_taken(network, photographs):
    """A run that is killed between the two makes the snapshot again."""
    events = []

    class Store:
        def save(self, step, state, extra):
            events.append(f"state {step}")

        def resume(self, like):
            return None

    options = {"snapshot_every": 2, "checkpoints": Store(), "checkpoint_seconds": 0.0}
    config = dataclasses.replace(SCALES, min_size=0, steps=5)
    for snapshot in stylize(*photographs, network=network, config=config, **options):
        events.append(f"snapshot {snapshot.step}")
    assert events == ["snapshot 2", "state 2", "snapshot 4", "state 4", "snapshot 5"]


@pytest.mark.parametrize("rate", [1e38])
def test_a_scale_that_fails_leaves_the_last_good_picture(network, photographs, rate):
    config = dataclasses.replace(SCALES, learning_rate=rate, clamp=False, picture="last")
    *_, last = stylize(*photographs, network=network, config=config)
    assert not last.finite
    assert last.step < 11
    assert np.isfinite(last.image).all()


@pytest.mark.parametrize(
    ("space", "picture"), [("srgb", "last"), ("normalized", "average"), ("normalized", "best")]
)
def test_every_space_and_picture(network, photographs, space, picture):
    rate = 0.02 if space == "srgb" else 0.08
    config = dataclasses.replace(
        SCALES, space=space, picture=picture, learning_rate=rate, min_size=0, steps=12
    )
    *_, last = stylize(*photographs, network=network, config=config)
    assert last.losses.total[-1] < 0.9 * last.losses.total[0]
    losses = last.losses
    assert set(losses.terms) == {"tv"}
    expected = 3 * losses.content + losses.style + 20 * losses.terms["tv"]
    np.testing.assert_allclose(losses.total, expected, rtol=1e-6)
    assert np.abs(last.image - photographs[0]).max() > 0.01


def test_only_what_has_a_weight_is_computed(network, photographs):
    config = dataclasses.replace(SCALES, min_size=0, tv_weight=0.0, range_weight=2.0, clamp=False)
    *_, last = stylize(*photographs, network=network, config=config)
    losses = last.losses
    assert set(losses.terms) == {"range"}
    expected = 3 * losses.content + losses.style + 2 * losses.terms["range"]
    np.testing.assert_allclose(losses.total, expected, rtol=1e-6)


def test_layers_count_by_their_weights(network, photographs):
    config = dataclasses.replace(SCALES, min_size=0, style_layers=layers(relu1_1=3.0, relu2_1=0.5))
    *_, last = stylize(*photographs, network=network, config=config)
    terms = last.losses.style_terms
    expected = 3 * terms["relu1_1"] + 0.5 * terms["relu2_1"]
    np.testing.assert_allclose(last.losses.style, expected, rtol=1e-6)


def test_several_styles(network, photographs):
    content, style = photographs
    other = style[:, ::-1, ::-1].copy()
    run = lambda styles, **change: list(  # noqa: E731
        stylize(
            content,
            styles,
            network=network,
            config=dataclasses.replace(SCALES, min_size=0, **change),
        )
    )[-1]
    alone, both = run(style), run([style, other])
    weighted = run((style, other), style_blend=(1.0, 0.0))
    # In a step of Adam a pixel whose gradient is of no size goes where rounding says: seen, one of
    # 4995 was off by 1.5e-4.
    difference = np.linalg.norm(weighted.image - alone.image)
    assert difference < 1e-5 * np.linalg.norm(alone.image)
    np.testing.assert_allclose(weighted.losses.total, alone.losses.total, rtol=1e-6)
    assert np.abs(both.image - alone.image).max() > 1e-3
    swapped = run([other, style], style_blend=(2.0, 2.0))
    np.testing.assert_allclose(swapped.image, both.image, atol=1e-3)


def test_a_start_of_ones_own(network, photographs):
    content, style = photographs
    config = dataclasses.replace(SCALES, min_size=0, steps=1, picture="best")
    given = np.full((5, 4, 3), 0.25, np.float32)
    *_, last = stylize(content, style, network=network, config=config, start=given)
    np.testing.assert_allclose(last.image, np.full(content.shape, 0.25), atol=1e-6)
    noise = dataclasses.replace(config, start="noise", seed=5)
    *_, last = stylize(content, style, network=network, config=noise)
    assert 0.2 < np.std(last.image) < 0.4


@pytest.mark.parametrize(
    ("fit", "scale", "size", "expected"),
    [
        ("longest", 1.0, 0, (60, 80)),
        ("longest", 0.5, 0, (30, 40)),
        ("longest", 9.0, 0, (150, 200)),  # it has no more
        ("longest", 1.0, 100, (75, 100)),
        ("shortest", 1.0, 0, (50, 67)),
        ("shortest", 1.0, 75, (75, 100)),
        ("shortest", 9.0, 0, (150, 200)),
        ("stretch", 1.0, 0, (80, 50)),
        ("stretch", 2.0, 0, (160, 100)),
    ],
)
def test_how_large_the_style_is_looked_at(fit, scale, size, expected):
    config = Config(style_fit=fit, style_scale=scale, style_size=size)
    assert schedule.style_shape((150, 200), (80, 50), config) == expected


def rescaled(params, factors):
    """Multiply what each convolution puts out by a factor, and divide it out in the next one."""
    found, before = dict(params), 1.0
    for conv, factor in zip(ARCHITECTURES["vgg19"].convs, factors, strict=False):
        kernel, bias = (found[f"{conv.name}.{leaf}"] for leaf in ("kernel", "bias"))
        found[f"{conv.name}.kernel"] = (kernel * np.float32(factor / before)).astype(np.float32)
        found[f"{conv.name}.bias"] = (bias * np.float32(factor)).astype(np.float32)
        before = factor
    return found


def test_our_recipe_does_not_depend_on_the_scale_of_activations(random_params, photographs):
    config = Config(
        min_size=22,
        first_steps=8,
        steps=4,
        content_layers=layers("relu2_2"),
        style_layers=layers("relu1_1", "relu2_1", "relu3_1"),
    )

    def paint(params):
        network = scale_step.build_network(params, resolve(config), deepest="relu3_1")
        *_, last = stylize(*photographs, network=network, config=config)
        return np.asarray(last.image)

    picture = paint(random_params)
    assert np.abs(picture - photographs[0]).max() > 0.05
    # Powers of two round nothing.
    exact = paint(rescaled(random_params, (4, 0.5, 64, 1, 1 / 16)))
    np.testing.assert_array_equal(exact, picture)
    # Else rounding turns the sign of small gradients, and Adam's first steps of 0.02 ask the sign.
    rounded = paint(rescaled(random_params, (3.7, 0.21, 55.0, 1.3, 0.013)))
    assert np.abs(rounded - picture).mean() < 1e-3


def test_the_defaults_of_the_loss_are_the_settings():
    import inspect

    config = Config()
    parameters = inspect.signature(style_transfer_loss).parameters
    for name in ("content_weight", "style_weight", "content_loss"):
        assert parameters[name].default == getattr(config, name)
    assert inspect.signature(make_targets).parameters["style_loss"].default == config.style_loss


@pytest.fixture
def stopped(network, photographs, tmp_path):
    """The folder of a run that was left after some steps, and what that run was given."""
    pytest.importorskip("orbax.checkpoint")
    given = {"network": network, "config": SCALES, "snapshot_every": 2}
    snapshots = stylize(*photographs, checkpoints=tmp_path / "run", **given)
    assert next(s.step for s in snapshots if s.step >= 6) == 6  # in the second scale
    snapshots.close()
    return tmp_path / "run", given


def test_a_folder_of_checkpoints_resumes_the_same_run(stopped, network, photographs):
    folder, given = stopped
    whole = list(stylize(*photographs, **given))
    rest = list(stylize(*photographs, checkpoints=str(folder), **given))
    assert [s.step for s in rest] == [s.step for s in whole if s.step > 6]
    assert [(s.scale, s.scale_step) for s in rest] == [(2, 3), (3, 2), (3, 3)]
    np.testing.assert_array_equal(rest[-1].image, whole[-1].image)


def test_a_scale_ends_where_the_picture_stands_still(network, photographs, tmp_path):
    """At one step, however many steps are made at once, and wherever the run is interrupted."""
    pytest.importorskip("orbax.checkpoint")
    config = dataclasses.replace(SCALES, first_steps=40, steps=30, min_size=32, average_decay=0.9)
    given = {"network": network, "config": config}
    looks = [s.image for s in stylize(*photographs, snapshot_every=1, **given)][:40]
    # The change of steps 10, 20, 30 and 40; it falls, as the average of Adam's iterates settles.
    change = [255 * float(np.abs(looks[i] - looks[i - 1]).mean()) for i in (9, 19, 29, 39)]
    assert sorted(change, reverse=True) == change
    given["config"] = dataclasses.replace(config, stop_change=(change[1] + change[2]) / 2)

    def ends(**pauses):
        snapshots = list(stylize(*photographs, **pauses, **given))
        return [(s.step, s.stuck) for s in snapshots if s.stuck], np.asarray(snapshots[-1].image)

    where, picture = ends(snapshot_every=7)
    assert where[0] == (40, True)
    np.testing.assert_array_equal(picture, ends(snapshot_every=1)[1])
    made = [s.losses.total for s in stylize(*photographs, snapshot_every=50, **given) if s.stuck]
    assert len(made[0]) == 30
    for step in (5, 29):
        run = stylize(*photographs, snapshot_every=1, checkpoints=tmp_path / str(step), **given)
        assert next(s.step for s in run if s.step == step)
        run.close()
        again = ends(snapshot_every=7, checkpoints=tmp_path / str(step))
        assert again[0] == where
        np.testing.assert_array_equal(again[1], picture)


@pytest.mark.parametrize("what", ["content image", "style image", "weights", "beta1 0.8, not 0.9"])
def test_a_folder_of_checkpoints_is_refused_to_another_run(
    stopped, random_params, photographs, what
):
    folder, given = stopped
    content, style = photographs
    match what:
        case "content image":
            content = content[::-1]
        case "style image":
            style = style[::-1]
        case "weights":
            bias = random_params["conv2_1.bias"] + np.float32(1e-3)
            given["network"] = build_vgg19({**random_params, "conv2_1.bias": bias})
        case _:
            given["config"] = dataclasses.replace(SCALES, beta1=0.9)
    with pytest.raises(InputError, match=f"belongs to another job, made from (another )?{what}"):
        stylize(content, style, checkpoints=folder, **given)


def test_more_steps_are_the_steps_of_a_longer_run(network, photographs, tmp_path):
    """As long as the longer run has the state on its way."""
    pytest.importorskip("orbax.checkpoint")
    two = dataclasses.replace(SCALES, min_size=28)  # scales of 5 and 3 steps
    longer = dataclasses.replace(two, steps=6)
    given = {"network": network, "snapshot_every": 1}

    def run(config, **kept):
        return stylize(*photographs, config=config, **given, **kept)

    kept = {"checkpoints": tmp_path / "run", "checkpoint_seconds": 0.0}
    *_, last = run(two, **kept)
    assert (last.scale, last.scales, last.step) == (2, 2, 8)
    rest, whole = list(run(longer, **kept)), list(run(longer))
    assert [s.step for s in rest] == [8, 9, 10, 11]  # the last one of the shorter run has no state
    np.testing.assert_array_equal(rest[-1].image, whole[-1].image)
    for config, said in (
        (two, r"have 5 steps of scale 2, but 3 are asked for there; give more, or another folder"),
        (dataclasses.replace(two, steps=5), "have 5 steps of scale 2, but 5 are asked for"),
        (dataclasses.replace(longer, first_steps=6), "with 5 steps at scale 1, .* not 6; give the"),
    ):
        with pytest.raises(InputError, match=said):
            next(run(config, **kept))


class TestVGG16:
    """Whatever takes a network takes VGG-16."""

    def test_it_paints_and_its_loss_is_the_pure_functions(self, random_vgg16, photographs):
        network = build_vgg16(random_vgg16, pooling="max", padding="replicate")
        content = photographs[0]
        style = content[::-1]  # of one size, so that it is looked at as it is
        start = np.full(content.shape, 0.5, np.float32)
        config = Config(min_size=0, steps=2, tv_weight=0.0, precision="float32")
        given = {"network": network, "config": config, "start": start, "snapshot_every": 1}
        first, last = stylize(content, style, **given)
        features = functools.partial(network, taps=config.taps)
        targets = make_targets(
            features,
            jnp.asarray(content),
            jnp.asarray(style),
            content_layers=["relu4_2"],
            style_layers=[layer.name for layer in config.style_layers],
            style_loss=config.style_loss,
        )
        loss, _ = style_transfer_loss(
            jnp.asarray(start),
            targets,
            features=features,
            content_weight=config.content_weight,
            content_loss=config.content_loss,
            style_layer_weights=dict(config.style_layers),
        )
        # The run computes by Winograd's algorithm.
        np.testing.assert_allclose(first.losses.total[0], loss, rtol=1e-4)
        assert last.losses.total[0] < first.losses.total[0]

    def test_layers_that_it_does_not_have(self, random_vgg16, photographs, unchecked):
        network = build_vgg16(random_vgg16)
        config = Config(style_layers=layers("relu1_1", "relu3_4"))
        with pytest.raises(InputError, match="style_layers: unknown VGG-16 layer: 'relu3_4'"):
            stylize(*photographs, network=network, config=config)
        with pytest.raises(InputError, match="unknown VGG-16 layer"):
            dataclasses.replace(config, network="vgg16")
        with pytest.raises(InputError, match="network is 'vgg13'; allowed are vgg19, vgg16"):
            Config(network="vgg13")

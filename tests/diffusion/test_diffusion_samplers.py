"""Samplers against reference trajectories, and what holds without any reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from keras import ops

from keras_unet.diffusion import noise as noises
from keras_unet.diffusion.noise import NoiseSchedule
from keras_unet.diffusion.samplers import (
    DDIM,
    DDPM,
    PNDM,
    SAMPLERS,
    DPMSolver,
    Euler,
    initial_state,
    make_sampler,
    step,
    trajectory,
)
from keras_unet.diffusion.text_to_image import OPTIONS, read_scheduler_config
from keras_unet.errors import ConfigError

SCALED = NoiseSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.fixture(scope="module")
def oracle(shared):
    folder = shared / "oracles" / "diffusion" / "schedulers"
    if not folder.is_dir():
        pytest.skip(f"reference values not found at {folder}")
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    return cases, np.load(folder / "trajectories.npz"), np.load(folder / "tables.npz")


def far(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def follow(case, values, dtype):
    """The largest error over a case's steps, and its plan."""
    config = {**case["config"], "_class_name": case["scheduler"]}
    schedule, sampler, prediction = read_scheduler_config(config)
    options = case["step_kwargs"]
    update = {"eta": options["eta"]} if "eta" in options else {}
    if options.get("use_clipped_model_output"):
        update["clip_noise_too"] = True
    plan = sampler.model_copy(update=update).plan(schedule, case["steps"], prediction)
    expected = values[f"{case['key']}/traj"]
    state = initial_state(plan, values["x_T"].astype(dtype))
    worst = far(state.x, expected[0])
    for k in range(len(plan)):
        out = np.sin(1.3 * (np.asarray(state.x) * plan.scales[k]) + 0.001 * plan.times[k])
        noise = values["noise"][k].astype(dtype) if plan.kind.stochastic else None
        state = step(plan, state, ops.convert_to_tensor(out.astype(dtype)), k, noise)
        worst = max(worst, far(state.x, expected[k + 1]))
    return worst, plan


def test_every_reference_trajectory_in_float64(oracle):
    cases, values, _ = oracle
    assert len(cases) == 230
    errors = {}
    for name, case in cases.items():
        errors[name], plan = follow(case, values, np.float64)
        assert len(plan) == case["calls"], name
        np.testing.assert_allclose(plan.times, values[f"{case['key']}/timesteps"], atol=1e-9)
    assert max(errors.values()) <= 1e-11, max(errors, key=errors.get)


def test_reference_trajectories_in_float32(oracle):
    cases, values, _ = oracle
    for name, case in list(cases.items())[::5]:
        cosine = case["config"].get("beta_schedule") == "squaredcos_cap_v2"
        # where the reference's own float32 is farther from its float64, so may ours be
        bound = max(1e-2 if cosine else 1e-5, 4 * case["f32_vs_f64"])
        assert follow(case, values, np.float32)[0] <= bound, name


def test_times_of_all_spacings(oracle):
    tables = oracle[2]
    checked = 0
    for name in tables.files:
        if not name.startswith("timesteps/"):
            continue
        _, scheduler, spacing, offset, steps = name.split("/")
        config = {"_class_name": scheduler, "timestep_spacing": spacing}
        config["steps_offset"] = int(offset.removeprefix("offset"))
        if scheduler == "PNDMScheduler":
            config["skip_prk_steps"] = True
        schedule, sampler, prediction = read_scheduler_config(config)
        if tables[name].max() >= schedule.steps:  # beyond the table: there is no such noise level
            with pytest.raises(ConfigError, match="asks for time 1000"):
                sampler.plan(schedule, int(steps), prediction)
            continue
        plan = sampler.plan(schedule, int(steps), prediction)
        np.testing.assert_allclose(plan.times, tables[name], atol=1e-9, err_msg=name)
        checked += 1
    assert checked > 300


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("linear", NoiseSchedule()),
        ("scaled_linear", SCALED),
        ("squaredcos_cap_v2", NoiseSchedule(kind="cosine")),
        ("linear_zero_snr", NoiseSchedule(zero_snr=True)),
        ("scaled_linear_zero_snr", SCALED.model_copy(update={"zero_snr": True})),
    ],
)
def test_tables_noise_and_velocity(oracle, name, schedule):
    tables = oracle[2]
    assert far(schedule.betas, tables[f"{name}/betas"]) < 1e-11
    assert far(schedule.alphas_cumprod, tables[f"{name}/alphas_cumprod"]) < 1e-11
    clean, noise = tables["add_noise/x0"], tables["add_noise/noise"]
    times = tables[f"add_noise/{name}/t"]
    noisy = schedule.add_noise(clean, noise, times)
    assert far(noisy, tables[f"add_noise/{name}/noisy"]) < 1e-11
    velocity = schedule.target(clean, noise, times, "v")
    assert far(velocity, tables[f"add_noise/{name}/velocity"]) < 1e-11


ALL = [
    *SAMPLERS.items(),
    ("ddim_eta", DDIM(eta=1.0)),
    ("third", DPMSolver(order=3)),
    ("sde", DPMSolver(stochastic=True)),
    ("trailing", DPMSolver(spacing="trailing")),
]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
@pytest.mark.parametrize(("name", "sampler"), ALL)
def test_a_network_that_knows_the_image_leads_to_it(name, sampler, prediction):
    """With the true answer at every time, every sampler ends at the image (or near it)."""
    if isinstance(sampler, PNDM) and prediction == "sample":
        with pytest.raises(ConfigError, match="PNDM"):
            sampler.plan(SCALED, 20, prediction)
        return
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 1))
    start = np.random.default_rng(1).normal(size=image.shape)
    plan = sampler.plan(SCALED, 30, prediction)
    state = initial_state(plan, start)
    for k in range(len(plan)):
        x, time = np.asarray(state.x) * plan.scales[k], plan.times[k]
        left = np.interp(time, np.arange(1000), SCALED.alphas_cumprod)
        if isinstance(sampler, Euler):  # levels, not a_t, are interpolated there
            left = plan.scales[k] ** 2
        noise = (x - np.sqrt(left) * image) / np.sqrt(1 - left)
        answers = {
            "epsilon": noise,
            "sample": image,
            "v": np.sqrt(left) * noise - np.sqrt(1 - left) * image,
        }
        drawn = np.random.default_rng(k).normal(size=image.shape)
        state = step(plan, state, answers[prediction], k, drawn if plan.kind.stochastic else None)
    # What is left of the noise is at most that of the schedule's first time.
    assert np.abs(np.asarray(state.x) - image).max() < 0.12


def test_a_compiled_trajectory_equals_single_steps_and_is_traced_once():
    import tensorflow as tf

    plan = DDPM().plan(NoiseSchedule(), 12, "epsilon")
    noise = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)
    words = noises.seed_words(5)
    traced = []

    def network(x, time):
        traced.append(1)
        return ops.sin(x + 0.001 * time)

    @tf.function
    def run(first, last, x):
        drawn = lambda k: noises.normal(words, k, (2, 4, 4, 1))  # noqa: E731
        return trajectory(plan, initial_state(plan, x), network, drawn, first, last).x

    whole = run(tf.constant(0), tf.constant(12), noise).numpy()
    half = run(tf.constant(0), tf.constant(5), noise).numpy()
    rest = run(tf.constant(5), tf.constant(12), half).numpy()
    assert len(traced) <= 2  # the loop's body, however many steps
    np.testing.assert_array_equal(whole, rest)
    state = initial_state(plan, noise)
    for k in range(12):
        out = ops.sin(state.x + 0.001 * plan.times[k])
        state = step(plan, state, out, k, noises.normal(words, k, (2, 4, 4, 1)))
    np.testing.assert_allclose(whole, state.x, rtol=2e-5, atol=2e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="expected 1 to 1000"):
        DDIM().plan(NoiseSchedule(), 1001, "epsilon")
    with pytest.raises(ConfigError, match="zero_snr"):
        DDIM(spacing="trailing").plan(NoiseSchedule(zero_snr=True), 10, "epsilon")
    # the last time is not among these, or has a small signal instead of none
    for sampler in (DDIM(), DPMSolver(), Euler(spacing="trailing")):
        sampler.plan(NoiseSchedule(zero_snr=True), 10, "epsilon")
    with pytest.raises(ConfigError, match="offset 900"):
        DDIM(offset=900).plan(NoiseSchedule(), 10, "epsilon")
    with pytest.raises(ConfigError, match="expected one of ddim"):
        make_sampler("dimd")
    plan = DDPM().plan(NoiseSchedule(), 5, "epsilon")
    with pytest.raises(ConfigError, match="noise"):
        trajectory(plan, initial_state(plan, np.zeros((1, 2, 2, 1))), lambda x, t: x)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "LMSDiscreteScheduler"}, "LMSDiscreteScheduler.*expected one of"),
        ({"_class_name": "DDIMScheduler", "beta_strat": 0.1}, "no option beta_strat"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ({"_class_name": "PNDMScheduler"}, "skip_prk_steps = False"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True},
            "use_beta_sigmas = True",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type = 'learned'"),
        ({"timestep_spacing": "even"}, "DDIMScheduler has a value .* spacing: .* got 'even'"),
        ({"num_train_timesteps": 0}, "steps: .* got 0"),
    ],
)
def test_scheduler_options_are_refused_by_name_never_ignored(config, message):
    with pytest.raises(ConfigError, match=message):
        read_scheduler_config(config)


def test_every_scheduler_is_read_with_its_defaults():
    for name in OPTIONS:
        config = {"_class_name": name, "_diffusers_version": "0.42.1"}
        if name == "PNDMScheduler":
            config["skip_prk_steps"] = True
        schedule, sampler, prediction = read_scheduler_config(config)
        assert (schedule, prediction) == (NoiseSchedule(), "epsilon")
        assert len(sampler.plan(schedule, 4, prediction)) >= 4


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_pndm_step_by_step(spacing, prediction):
    """Equations 9 and 12 of 2202.09778, the first step anew as latent diffusion's PLMS does it."""
    steps, gap = 7, 1000 // 7
    plan = PNDM(spacing=spacing).plan(SCALED, steps, prediction)
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 1))
    state, past, begin = initial_state(plan, x), [], None
    for k, time in enumerate(plan.times.astype(int)):
        out = np.sin(1.3 * x + 0.001 * time)
        state = step(plan, state, ops.convert_to_tensor(out), k)
        start, end = time, time - gap
        if k == 1:
            start, end, x, mixed = time + gap, time, begin, (out + past[-1]) / 2
        else:
            past, begin = [*past, out][-4:], x
            mixed = {
                1: lambda p: p[0],
                2: lambda p: (3 * p[1] - p[0]) / 2,
                3: lambda p: (23 * p[2] - 16 * p[1] + 5 * p[0]) / 12,
                4: lambda p: (55 * p[3] - 59 * p[2] + 37 * p[1] - 9 * p[0]) / 24,
            }[len(past)](past)
        now, then = (SCALED.alphas_cumprod[max(t, 0)] for t in (start, end))
        noise = mixed if prediction == "epsilon" else now**0.5 * mixed + (1 - now) ** 0.5 * x
        below = now * (1 - then) ** 0.5 + (now * (1 - now) * then) ** 0.5
        x = (then / now) ** 0.5 * x - (then - now) * noise / below
        assert far(state.x, x) < 1e-12, (k, time)


def test_a_changed_copy_of_a_schedule_has_tables_of_its_own():
    schedule = NoiseSchedule()
    assert schedule.alphas_cumprod[-1] > 0
    assert schedule.model_copy(update={"zero_snr": True}).alphas_cumprod[-1] == 0
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 0.5


def test_min_snr_weights():
    """Equation 4 of 2303.09556, for each prediction."""
    schedule = NoiseSchedule()
    left = schedule.alphas_cumprod
    snr = left / (1 - left)
    cut = np.minimum(snr, 5.0)
    np.testing.assert_allclose(schedule.loss_weights("epsilon", 5.0), cut / snr)
    np.testing.assert_allclose(schedule.loss_weights("sample", 5.0), cut)
    np.testing.assert_allclose(schedule.loss_weights("v", 5.0), cut / (snr + 1))
    assert (schedule.loss_weights("v", None) == 1).all()
    dark = NoiseSchedule(zero_snr=True)
    for prediction in ("epsilon", "sample", "v"):
        assert np.isfinite(dark.loss_weights(prediction, 5.0)).all()


def test_noise_is_a_function_of_seed_image_and_step():
    from scipy import stats

    words = noises.seed_words(2**40 + 7)
    many = np.asarray(noises.normal(words, 3, (6, 9, 7, 3)))
    assert (
        stats.kstest(np.asarray(noises.normal(words, 1, (50, 20, 20, 1))).ravel(), "norm").pvalue
        > 1e-3
    )
    np.testing.assert_allclose(noises.normal(words, 3, (2, 9, 7, 3)), many[:2], atol=1e-6)
    np.testing.assert_array_equal(noises.normal(words, 3, (6, 9, 7, 3)), many)
    others = [
        noises.normal(words, 4, (6, 9, 7, 3)),
        noises.normal(noises.seed_words(7), 3, (6, 9, 7, 3)),
        np.roll(many, 1, axis=0),
    ]
    for other in others:
        assert abs(np.corrcoef(np.ravel(other), many.ravel())[0, 1]) < 0.15

"""Guidance and the whole text-to-image pipeline, against reference values and in small."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from keras_unet import diffusion
from keras_unet.diffusion.model import guide
from keras_unet.diffusion.samplers import initial_state, step
from keras_unet.diffusion.text_to_image import read_scheduler_config
from keras_unet.errors import ConfigError


@pytest.fixture(scope="module")
def oracles(shared):
    folder = shared / "oracles" / "diffusion"
    if not folder.is_dir():
        pytest.skip(f"reference values not found at {folder}")
    return folder


@pytest.fixture(scope="module")
def pipeline(oracles):
    return diffusion.load_diffusers(oracles / "sd_pipeline", dtype="float64")


@pytest.fixture(scope="module")
def expected(oracles):
    said = json.loads((oracles / "sd_pipeline" / "io.json").read_text())
    return said, dict(np.load(oracles / "sd_pipeline" / "io.npz"))


def far(found, reference) -> float:
    found, reference = np.asarray(found), np.asarray(reference)
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def nhwc(array):
    return np.moveaxis(array, 1, -1)


def test_guidance_and_one_step_after_it(oracles):
    values = np.load(oracles / "guidance" / "io.npz")
    said = json.loads((oracles / "guidance" / "config.json").read_text())
    config = {"_class_name": "DDIMScheduler", **said["ddim_config"]}
    schedule, sampler, prediction = read_scheduler_config(config)
    plan = sampler.plan(schedule, said["steps"], prediction)
    negative, positive, sample = (nhwc(values[k]) for k in ("uncond", "cond", "sample"))
    assert plan.times[said["index"]] == values["timestep"]
    cases = [name.removesuffix(".guided") for name in values.files if name.endswith(".guided")]
    assert len(cases) == 16
    for case in cases:
        scale, rescale = (float(part[1:]) for part in case.split("_"))
        guided = guide(negative, positive, scale, rescale)
        assert far(guided, nhwc(values[f"{case}.guided"])) < 1e-11, case
        after = step(plan, initial_state(plan, sample), guided, said["index"])
        assert far(after.x, nhwc(values[f"{case}.prev_sample"])) < 1e-11, case


def test_the_pipeline_gives_the_reference_latents(pipeline, expected):
    said, values = expected
    latents = nhwc(values["latents"])
    options = {"steps": said["steps"], "latents": latents, "output": "latents"}
    embeds = {
        "prompt_embeds": values["prompt_embeds"],
        "negative_prompt_embeds": values["negative_prompt_embeds"],
    }
    guided = pipeline.generate(guidance=said["guidance_scale"], **embeds, **options)
    assert guided.dtype == np.float64
    assert far(guided, nhwc(values["final_latents"])) < 1e-9
    rescaled = pipeline.generate(
        guidance=said["guidance_scale"],
        guidance_rescale=said["guidance_rescale"],
        **embeds,
        **options,
    )
    assert far(rescaled, nhwc(values["final_latents_rescale"])) < 1e-9
    plain = pipeline.generate(guidance=1.0, prompt_embeds=values["prompt_embeds"], **options)
    assert far(plain, nhwc(values["final_latents_no_guidance"])) < 1e-9


def test_prompts_become_the_reference_pictures(pipeline, expected):
    said, values = expected
    options = {"steps": said["steps"], "guidance": said["guidance_scale"]}
    latents = nhwc(values["latents"])
    pictures = pipeline.generate(
        said["prompts"], said["negative_prompts"], latents=latents, **options
    )
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, values["image_uint8"])
    steps = []
    watched = pipeline.generate(
        said["prompts"],
        said["negative_prompts"],
        latents=latents,
        progress=lambda done, total: steps.append((done, total)),
        **options,
    )
    np.testing.assert_array_equal(watched, pictures)
    assert steps == [(k + 1, said["steps"]) for k in range(said["steps"])]


def test_a_seed_decides_and_sizes_are_pixels(pipeline):
    options = {"steps": 2, "size": (64, 48), "output": "latents"}
    first = pipeline.generate("a cell", seed=3, **options)
    factor = pipeline.autoencoder.stride
    assert first.shape == (1, 64 // factor, 48 // factor, 4)
    np.testing.assert_array_equal(first, pipeline.generate("a cell", seed=3, **options))
    assert not np.allclose(first, pipeline.generate("a cell", seed=4, **options))
    other = pipeline.generate("a cell", seed=3, sampler="dpm++", **options)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a prompt or prompt_embeds"),
        ({"prompt": "a", "prompt_embeds": np.zeros((1, 77, 24))}, "either a prompt"),
        ({"prompt": "a", "size": (63, 64)}, "multiples of"),
        ({"prompt": "a", "latents": np.zeros((2, 8, 8, 4))}, "latents of shape"),
        ({"prompt": ["a", "b"], "negative": ["c", "d", "e"]}, "negative embeddings"),
        ({"prompt": "a", "output": "pil"}, "'image' or 'latents'"),
        ({"prompt": "a", "sampler": "plms"}, "expected one of ddim"),
        ({"prompt": "a", "seed": 1.5}, "expected an integer"),
    ],
)
def test_what_does_not_fit_is_said(pipeline, arguments, message):
    with pytest.raises(ConfigError, match=message):
        pipeline.generate(steps=2, **arguments)


def test_a_pipeline_never_clips_latents_and_begins_at_time_one(pipeline):
    """As diffusers' StableDiffusionPipeline, whatever (old) files say or leave out."""
    parts = (pipeline.unet, pipeline.autoencoder)
    for said in ({}, {"clip_sample": True, "steps_offset": 0}):
        made = diffusion.TextToImage(*parts, scheduler_config=said)
        assert made.sampler == diffusion.DDIM(offset=1)
    with pytest.raises(ConfigError, match="no option clip_smaple"):
        diffusion.TextToImage(*parts, scheduler_config={"clip_smaple": True})


def test_a_folder_whose_scheduler_says_no_class(oracles, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(oracles / "sd_pipeline", folder, copy_function=shutil.copyfile)
    scheduler, index = folder / "scheduler" / "scheduler_config.json", folder / "model_index.json"
    for path in (scheduler, index):
        path.chmod(0o644)
    scheduler.write_text(json.dumps({"beta_schedule": "scaled_linear"}))
    said = json.loads(index.read_text())
    index.write_text(json.dumps({**said, "scheduler": ["diffusers", "EulerDiscreteScheduler"]}))
    assert diffusion.load_diffusers(folder).sampler == diffusion.Euler()
    scheduler.write_text(json.dumps({"beta_start": "much"}))
    with pytest.raises(ConfigError, match=r"pipeline: scheduler_config.json: Euler.*beta_start"):
        diffusion.load_diffusers(folder)


def test_the_scheduler_that_stable_diffusion_folders_have(oracles, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(oracles / "sd_pipeline", folder, copy_function=shutil.copyfile)
    config = oracles / "sd_pipeline" / "scheduler_pndm_example" / "scheduler_config.json"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.chmod(0o644)
    scheduler.write_text(config.read_text())
    made = diffusion.load_diffusers(folder)
    assert isinstance(made.sampler, diffusion.PNDM)
    assert made._sampler("ddim") == diffusion.DDIM(offset=1, ends_at_one=False)
    assert made._sampler("dpm++") == diffusion.DPMSolver(spacing="leading", offset=1)
    drawn = made.generate("a cell", steps=3, seed=1)
    assert drawn.shape[0] == 1 and drawn.dtype == np.uint8

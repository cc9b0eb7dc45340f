"""dVAE: its likelihood, what a word is in training, the schedules, and pictures of any size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from segmentarium.losses import LogitLaplace, UniformKL
from segmentarium.pretraining.dvae import DVAE
from segmentarium.registry import create_model

SMALL: dict[str, Any] = {"width": 16, "blocks": 1, "vocabulary": 32, "start": 16}


def made(**arguments: Any) -> Any:
    torch.manual_seed(0)
    return create_model("dvae", **{**SMALL, **arguments})


@pytest.mark.parametrize(("centre", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-0.7, -0.4)])
def test_the_likelihood_is_a_density(centre: float, log_scale: float) -> None:
    """Over all values between 0 and 1 it adds up to 1."""
    count = 200_000
    values = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).float().reshape(1, 1, 1, -1)
    stats = torch.tensor([centre, log_scale]).reshape(1, 2, 1, 1).expand(-1, -1, 1, count)
    each = torch.stack([LogitLaplace()(stats[..., i : i + 1], values[..., i : i + 1]) for i in (10, count // 2)])
    x = values[0, 0, 0, [10, count // 2]].double()
    scale = math.exp(log_scale)
    by_hand = (-(x.logit() - centre).abs() / scale).exp() / (2 * scale * x * (1 - x))
    inside = (x > 1e-4) & (x < 1 - 1e-4)
    assert torch.allclose(each[inside], -by_hand.log().float()[inside], rtol=1e-4)
    inner = values[(values > 2e-4) & (values < 1 - 2e-4)]
    densities = density(inner, centre, log_scale)
    whole = densities.double().sum() / count
    # what lies outside of these bounds, by the distribution function of Laplace
    edge = math.log(2e-4 / (1 - 2e-4))
    tails = 0.5 * math.exp((edge - centre) / scale) + 0.5 * math.exp((edge + centre) / scale)
    assert float(whole + tails) == pytest.approx(1, abs=2e-3)


def density(x: torch.Tensor, centre: float, log_scale: float) -> torch.Tensor:
    """Of each value alone, through the loss's gradient: the mean's share of each."""
    x = x.reshape(-1, 1, 1, 1)
    stats = torch.tensor([centre, log_scale]).reshape(1, 2, 1, 1).expand(len(x), -1, -1, -1)
    return torch.exp(-torch.vmap(lambda s, v: LogitLaplace()(s[None], v[None]))(stats, x))


def test_the_most_likely_centre_is_the_value_s_logit() -> None:
    values = torch.rand(1, 3, 4, 4) * 0.8 + 0.1
    stats = torch.cat([values.logit(), torch.full_like(values, -2.0)], 1)
    best = LogitLaplace()(stats, values)
    for change in (-0.1, 0.1):
        assert LogitLaplace()(torch.cat([stats[:, :3] + change, stats[:, 3:]], 1), values) > best
    with pytest.raises(ValueError, match="give two for each"):
        LogitLaplace()(stats[:, :3], values)


def test_words_equally_probable_cost_nothing() -> None:
    assert float(UniformKL(6.6)(torch.zeros(2, 32, 3, 3))) == pytest.approx(0, abs=1e-5)
    one = torch.zeros(2, 32, 3, 3)
    one[:, 5] = 100.0
    assert float(UniformKL(6.6, 192)(one)) == pytest.approx(6.6 / 192 * math.log(32), rel=1e-5)
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    divergence = float((shares * (shares * 4).log()).sum())
    assert float(UniformKL(1.0)(shares.log().reshape(1, 4, 1, 1))) == pytest.approx(divergence)


def test_schedules_go_along_a_cosine_and_end_in_time() -> None:
    model = made()
    published = [(0, 0.0, 1.0), (2_500, 3.3, None), (5_000, 6.6, None), (75_000, 6.6, 0.53125), (150_000, 6.6, 1 / 16)]
    for step, weight, temperature in published:
        model.at_step(step, 3_000_000)
        assert model.kl_weight == pytest.approx(weight)
        assert temperature is None or model.temperature == pytest.approx(temperature)
    model.at_step(2_000_000, 3_000_000)
    assert (model.kl_weight, model.temperature) == (pytest.approx(6.6), pytest.approx(1 / 16))
    for step, weight, temperature in ((0, 0.0, 1.0), (10, 6.6, None), (50, 6.6, 1 / 16), (99, 6.6, 1 / 16)):
        model.at_step(step, 100)
        assert model.kl_weight == pytest.approx(weight)
        assert temperature is None or model.temperature == pytest.approx(temperature)
    model.at_step(0, 1)  # the shortest run
    falling = [model.at_step(step, 200) or model.temperature for step in range(100)]
    assert falling == sorted(falling, reverse=True)


def test_a_word_is_a_mixture_in_training_and_a_choice_afterwards() -> None:
    model = made()
    seen: list[torch.Tensor] = []
    model.decoder.register_forward_hook(lambda _module, given, _output: seen.append(given[0].detach()))
    image = torch.rand(2, 3, 32, 32) * 0.8 + 0.1
    for temperature in (1.0, 1 / 16):
        model.temperature = temperature
        model.forward_train(image)
    warm, cold = seen
    assert torch.allclose(warm.sum(1), torch.ones(2, 4, 4), atol=1e-5)
    assert warm.max() < 1 - 1e-3
    assert cold.amax(1).mean() > warm.amax(1).mean() + 0.2
    model.eval()
    first, second = model.forward_train(image), model.forward_train(image)
    assert torch.equal(first["stats"], second["stats"])
    assert set(seen[-1].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(seen[-1].argmax(1), model.tokens(image))
    assert torch.equal(model(image), first["stats"])
    model.train()
    torch.manual_seed(1)
    drawn = model.forward_train(image)["stats"]
    torch.manual_seed(1)
    assert torch.equal(model.forward_train(image)["stats"], drawn)
    assert not torch.equal(model.forward_train(image)["stats"], drawn)


def test_the_objective_counts_a_picture_s_values() -> None:
    """Minus the evidence's lower bound, for each value of the picture, with the words' term weighted."""
    model = made().eval()
    image = torch.rand(1, 3, 16, 24) * 0.8 + 0.1
    outputs = model.forward_train(image)
    losses = model.criterion(outputs, {"image": image})
    share = outputs["logits"].log_softmax(1)
    divergence = (share.exp() * (share + math.log(32))).sum()  # of all words of the picture
    assert float(losses["words"]) == pytest.approx(float(6.6 * divergence / image.numel()), rel=1e-4)
    assert losses.keys() == {"likelihood", "words"}


@torch.no_grad()
def test_pictures_of_any_size_and_their_words() -> None:
    model = made().eval()
    for size, grid in (((33, 41), (5, 6)), ((8, 8), (1, 1)), ((32, 64), (4, 8))):
        image = torch.rand(2, 3, *size)
        assert model(image).shape == (2, 6, *size)
        assert model.tokens(image).shape == (2, *grid)
        picture = model.decode(model.tokens(image))
        assert picture.shape == (2, 3, 8 * grid[0], 8 * grid[1])
        assert picture.min() >= 0
        assert picture.max() <= 1
    mapped = model.preprocessing.normalise(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3).expand(1, 3, -1, -1))
    assert torch.allclose(mapped[0, 0, 0], torch.tensor([0.1, 0.5, 0.9]))


def test_scores_stand_beside_a_blur_and_count_words() -> None:
    model = made()
    picture = torch.rand(2, 3, 16, 16)
    batch = {"image": model.preprocessing.normalise(picture)}
    logits = torch.zeros(2, 32, 2, 2)
    for i in range(8):  # eight words, each once
        logits[i // 4, i, i // 2 % 2, i % 2] = 1.0
    stats = torch.cat([batch["image"].logit(), torch.zeros(2, 3, 16, 16)], 1)
    scores = model.scores({"stats": stats, "logits": logits}, batch)
    assert scores["error"] == pytest.approx(0, abs=1e-9)
    assert scores["explained"] == pytest.approx(1)
    assert scores["perplexity"] == pytest.approx(8, rel=1e-5)
    spread = float(picture.var((2, 3), correction=0).mean())
    assert scores["trivial_error"] == pytest.approx(spread, rel=1e-3)
    assert 0 < scores["blur_error"] < scores["trivial_error"]
    assert model.reconstruct({"stats": stats, "logits": logits}, batch)["predicted"].sub(picture).abs().max() < 1e-4


def test_one_part_alone_says_what_it_lacks() -> None:
    encoder, decoder = (DVAE(**SMALL, parts=part).eval() for part in ("encoder", "decoder"))
    image = torch.rand(1, 3, 16, 16)
    assert encoder(image).shape == (1, 32, 2, 2)
    assert decoder(encoder.tokens(image)).shape == (1, 6, 16, 16)
    assert decoder.inputs == ("tokens",)
    with pytest.raises(ValueError, match="the encoder alone"):
        encoder.decode(encoder.tokens(image))
    with pytest.raises(ValueError, match="the decoder alone"):
        decoder.tokens(image)
    for arguments, message in (
        ({"parts": "all"}, "parts is 'all'"),
        ({"width": 6}, "width is 6"),
        ({"blocks": 0}, "blocks 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DVAE(**{**SMALL, **arguments})  # type: ignore[arg-type]

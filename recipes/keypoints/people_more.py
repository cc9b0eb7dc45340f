"""More people with joints, which no person marked: of masks' owners, as MediaPipe's pose network sees them.

    pip install mediapipe==0.10.14
    python recipes/keypoints/people_more.py --data DIR/person_photos DIR/portrait
    python recipes/keypoints/people.py --coco … --panoptic … --sports … --more runs/people_more

400 people are too few to learn joints from nothing: what a published network (Apache-2.0, in that package) says of some thousands
more is a teacher.  Each part of a mask that is large enough is a person; the joints are kept that the teacher sees inside of the
picture, and a person is left out where too many of them lie beside the mask.  What is scored on is marked by people alone.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import mediapipe  # type: ignore[import-not-found]
import numpy as np
from PIL import Image

OUT = Path("runs/people_more")
# COCO's joints, and where they stand among MediaPipe's 33
PLACES = {
    "nose": 0,
    "left_eye": 2,
    "right_eye": 5,
    "left_ear": 7,
    "right_ear": 8,
    "left_shoulder": 11,
    "right_shoulder": 12,
    "left_elbow": 13,
    "right_elbow": 14,
    "left_wrist": 15,
    "right_wrist": 16,
    "left_hip": 23,
    "right_hip": 24,
    "left_knee": 25,
    "right_knee": 26,
    "left_ankle": 27,
    "right_ankle": 28,
}
LEAST_SHARE, LEAST_SIDE = 0.01, 48  # of the picture, and pixels of the box
SEEN, LEAST_JOINTS, INSIDE = 0.5, 5, 0.85  # the teacher's visibility; joints of a person; share of them on the mask
# of the box's longer side: what is shown to the teacher, and how far from the mask a joint may lie
AROUND, BESIDE = 0.2, 0.03


def people(mask: np.ndarray) -> list[np.ndarray]:
    """The parts of a mask (H, W), largest first, that may be a person."""
    _, labels, facts, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    sizes = facts[1:, cv2.CC_STAT_AREA]
    return [labels == 1 + i for i in np.argsort(-sizes) if sizes[i] >= LEAST_SHARE * mask.size]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders with images/, masks/ and train.txt"
    )
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    teacher = mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1, min_detection_confidence=0.3)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for folder in given.data:
        for name in (folder / "train.txt").read_text(encoding="utf-8").split():
            path = next((folder / "images").glob(f"{name}.*"))
            picture = np.array(Image.open(path).convert("RGB"))
            mask = np.array(Image.open(folder / "masks" / f"{name}.png"))
            height, width = mask.shape
            images.append({"id": len(images) + 1, "file_name": str(path.resolve()), "height": height, "width": width})
            for person in people(mask):
                rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
                left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                longer = max(right - left, bottom - top)
                if min(right - left, bottom - top) < LEAST_SIDE / 2 or longer < LEAST_SIDE:
                    continue
                margin = int(AROUND * longer)
                x0, y0 = max(0, left - margin), max(0, top - margin)
                shown = np.ascontiguousarray(picture[y0 : bottom + margin, x0 : right + margin])
                found = teacher.process(shown).pose_landmarks
                if found is None:
                    continue
                marks = [found.landmark[place] for place in PLACES.values()]
                joints = np.array([(x0 + m.x * shown.shape[1], y0 + m.y * shown.shape[0], m.visibility) for m in marks])
                near = cv2.dilate(person.astype(np.uint8), np.ones((2 * int(BESIDE * longer) + 1,) * 2, np.uint8))
                inside = (joints[:, :2] >= 0).all(1) & (joints[:, 0] < width) & (joints[:, 1] < height)
                seen = inside & (joints[:, 2] > SEEN)
                x, y = joints[seen, :2].astype(int).T
                if seen.sum() < LEAST_JOINTS or near[y, x].mean() < INSIDE:
                    continue
                marked = np.where(seen[:, None], np.column_stack((joints[:, :2].round(1), np.full(len(joints), 2))), 0)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": len(images),
                        "category_id": 1,
                        "iscrowd": 0,
                        "bbox": [int(left), int(top), int(right - left), int(bottom - top)],
                        "area": int(person.sum()),
                        "num_keypoints": int(seen.sum()),
                        "keypoints": marked.ravel().tolist(),
                    }
                )
    used = {one["image_id"] for one in annotations}
    categories = [{"id": 1, "name": "person", "keypoints": list(PLACES)}]
    shown = [one for one in images if one["id"] in used]
    content = {"images": shown, "annotations": annotations, "categories": categories}
    (OUT / "keypoints.json").write_text(json.dumps(content), encoding="utf-8")
    print(f"{len(annotations)} people in {len(used)} of {len(images)} pictures: {OUT / 'keypoints.json'}")


if __name__ == "__main__":
    main()

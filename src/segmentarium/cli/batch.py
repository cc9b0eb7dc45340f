"""`segmentarium batch`: prediction over very many pictures, on this machine or on a cluster."""

from __future__ import annotations

import argparse

from segmentarium.cli.engines import add_computing

EXAMPLES = (
    (
        "segmentarium batch photos/ --model street --out masks",
        "masks/masks/NAME.png; the same again goes on where it stopped",
    ),
    ("segmentarium batch 'shots/*.jpg' --model runs/mine --out found --kind rle --workers 2", ""),
    ("segmentarium batch table.parquet --model person --out found --kind parquet", "paths or bytes in a column"),
    ("segmentarium batch s3://bucket/photos --model street --out s3://bucket/masks --address auto", "on a Ray cluster"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="folder, glob, picture, Parquet table of paths or bytes, or an address of a store: s3://, gs://, az://",
    )
    parser.add_argument(
        "--model",
        default="person",
        help="a name (person, street), a weights file, the folder of a training, an exported .onnx or .xml, or\n"
        "hf:OWNER/NAME (default: person)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="a new folder, or that of this job; also at a store"
    )
    parser.add_argument(
        "--kind",
        default="masks",
        choices=("masks", "rle", "parquet"),
        help="a PNG a picture, lines of JSON with masks as runs, or Parquet tables (default: masks)",
    )
    parser.add_argument(
        "--workers", type=int, help="processes with a model each (default: one a GPU, else one); 0: this process"
    )
    parser.add_argument(
        "--address",
        help="of a Ray cluster: auto, HOST:PORT, or local to start one here (default: processes of this machine)",
    )
    parser.add_argument(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="of mask classifiers: a class for every pixel, objects, or everything in segments\n"
        "(default: what the model was trained for)",
    )
    parser.add_argument("--threshold", type=float, help="of segments: how sure the model must be")
    add_computing(parser, device="of PyTorch, e.g. cpu or cuda:0 (default: the GPUs in turn, if there are any)")
    parser.add_argument(
        "--tile", default="auto", metavar="auto|none|PIXELS", help="largest side of a tile, as of segment"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures of one size at a time (default: 8)")
    parser.add_argument(
        "--threads", type=int, help="of a worker, that read, decode and write (default: 2; with a GPU 8)"
    )
    parser.add_argument("--part-size", type=int, default=128, help="pictures that are recorded together (default: 128)")
    parser.add_argument("--column", help="of tables: where the paths or bytes are (default: image, bytes, path, …)")
    parser.add_argument(
        "--max-pixels", type=int, default=2**27, help="larger pictures are not decoded (default: 134,217,728)"
    )
    parser.add_argument("--retry", action="store_true", help="do again what could not be done before")


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some pictures could not be; 2: none could."""
    import segmentarium
    from segmentarium.cli.progress import progress
    from segmentarium.cli.segment import tile_of

    names = (
        "kind", "workers", "address", "task", "threshold", "engine", "precision", "device", "batch_size", "threads", "part_size",
        "column", "max_pixels", "retry",
    )  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    with progress("segmenting") as tell:
        report = segmentarium.batch(
            options.source, options.model, options.out, tile=tile_of(options.tile), progress=tell, **given
        )
    print(report)
    return 0 if not report.failed else 1 if report.done else 2

"""`genesis-train segment`: segment a whole scan with the network of a fine-tuning run."""

from dataclasses import asdict
from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.pipeline.absent import check_finetuned, check_scan


@click.command(cls=options.Command, short_help="Segment a scan with a fine-tuned network.")
@click.argument("run", type=options.There(Path, check_finetuned))
@click.argument("scan", type=options.There(Path, check_scan))
@click.argument("out", type=click.Path(path_type=Path))
@options.device_option
@options.option("--overwrite", "Replace an existing OUT.", bool)
@options.json_option
def segment(run: Path, scan: Path, out: Path, device: str, overwrite: bool) -> None:
    """Segment SCAN with the network of RUN, and write the mask OUT on the scan's own grid.

    RUN is the folder of a fine-tuning run on a segmentation task. SCAN is a file, the folder of a DICOM
    series, or folder#label, as tables show it, if a folder holds several series. OUT must end in .nii.gz,
    .nii, .mha or .nrrd; it receives 1 for foreground and 0 elsewhere.

    \b
    Example:
      genesis-train finetune lungs.zarr --out lungs --weights pretrained
      genesis-train segment lungs scan.mhd lungs.nii.gz
    """
    check_installed("Segmenting", "finetune", "torch", "monai")
    segmented = gt.segment_scan(run, scan, out, device=device, overwrite=overwrite, progress=True)
    output.print_json(asdict(segmented))
    spacing = output.edges([f"{edge:.3g}" for edge in segmented.spacing])
    share = segmented.foreground / max(1, segmented.voxels)
    rows = [
        ("mask", segmented.mask),
        ("grid", f"{output.edges(segmented.shape)} voxels of {spacing} mm, the scan's own"),
        ("windows", f"{segmented.windows:,}"),
        ("foreground", f"{segmented.foreground:,} voxels ({share:.2%}), {segmented.millilitres:,.1f} ml"),
        ("sha256", segmented.sha256),
    ]
    output.show_table(("segment", ""), rows)
    output.say(f"To check {segmented.mask}, overlay it on the scan in a viewer such as 3D Slicer.", err=True)

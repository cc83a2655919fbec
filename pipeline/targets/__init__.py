"""Scans -> labelled cubes: what pre-trained weights are put to the test with (METHOD.md section 6).

    [scan ->] labelled cube [-> fine-tuned weights -> evidence]

Three tasks. `candidates` and `nodules` make that of nodule candidates (ncc), with `world` between millimetres
and voxels; `pairs` and `masks` make any task of segmentation; `findings` makes that of chest diseases (dxc).
`parameters` says what is asked for, `pieces` what a scan is to give and gave, `boxes` cuts, `extract` runs it
over a whole source and `pack` writes it down. `store` is the format and opens it.
"""

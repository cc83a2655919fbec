"""A made-up chest, drawn in HU, for the practice scans and radiographs of `phantom`.

`patient` draws a patient's proportions, `slices` the contents of the thorax slice by slice, `trees` branching
structures and nodules in the lungs, and `chest` assembles a scan and adds the noise of the scanner. For
radiographs `torso` sums the same chest along the rays, `findings` adds abnormal findings, and `radiograph`
decides who is X-rayed, when and how, and renders the grey picture.
"""

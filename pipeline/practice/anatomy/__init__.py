"""A made-up chest, drawn in HU: what `phantom` writes as practice scans and radiographs.

`patient` draws a patient's proportions, `slices` what fills the thorax slice by slice, `trees` what branches
or lies in the lungs, and `chest` puts a scan together and adds the noise of the scanner. For radiographs
`torso` sums the same chest along the rays, `findings` puts in what is wrong, and `radiograph` says who is
X-rayed, when and how, and makes the grey picture.
"""

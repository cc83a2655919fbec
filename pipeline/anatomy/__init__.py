"""A made-up chest, drawn in HU: what `phantom` writes as practice scans.

`patient` draws a patient's proportions, `slices` what fills the thorax slice by slice, `trees` what branches
or lies in the lungs, and `chest` puts a scan together and adds the noise of the scanner.
"""

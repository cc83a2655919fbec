"""Batches in, weights out: the part of the journey from a finished store to a network.

    [scan -> cube -> pair ->] batch -> weights [-> evidence]

`split` says which cubes train and which validate. `batches` streams them, shuffled, as whole numbers: from a
pair store as they lie there, from a cube store degraded on the fly, the same bits either way. `networks` is
the 3D U-Net of the papers under its published names, `networks_2d` the one for images, `pretrain` the loop in
view, `parameters` what a run is made of, `optimisers` its steps, `validation` what it is judged by.
`processes` lets several processes train as one. `checkpoints` writes and reads where a run is, `runs` keeps
its folder, `exchange` writes the weights for others. `watch` and `pictures` show what is going on.

`beginnings` says what a network of a target task begins with, `heads` gives it its last layers, `finetune`
trains it on what `target_data` feeds, `metrics` judge it; `segment` takes it over a whole scan. `arms` and
`trial_plan` say what is to be compared, `trials` carries it out. `results` reads scores, `statistics` holds
arms against each other, `figure` draws that and `evidence` writes it down.
Nothing here imports click, and nothing here prints.
"""

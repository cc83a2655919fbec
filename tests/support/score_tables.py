"""The published scores as a table of arms, and a table of trials."""

#: METHOD.md section 6: the 2D results whose spread was published, 10 trials each.
ARMS = ("scratch-2d", "imagenet", "genesis-ct-2d", "genesis-xray-2d")
PUBLISHED = {
    "NCC": ((96.03, 0.86), (97.64, 0.96), (97.45, 0.61), (93.52, 0.13)),
    "NCS": ((70.48, 1.07), (72.39, 0.77), (72.20, 0.67), (72.88, 0.79)),
    "DXC": ((69.15, 0.77), (75.55, 0.48), (74.99, 0.36), (75.48, 0.13)),
    "IUC": ((92.78, 3.71), (95.51, 1.77), (94.50, 2.08), (94.99, 0.93)),
}
TABLE = "task,arm,mean,sd,n\n" + "".join(
    f"{task},{arm},{mean},{sd},10\n"
    for task, results in PUBLISHED.items()
    for arm, (mean, sd) in zip(ARMS, results, strict=True)
)
TRIALS = "task,arm,trial,value\n" + "".join(
    f"NCC,{arm},{trial},{base + trial % 3}\n"
    for arm, base in (("scratch", 70), ("ours", 74))
    for trial in range(3)
)

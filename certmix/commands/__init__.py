"""One thin file per subcommand: options in, exit code out. Only here is argparse known; nothing is computed."""

from __future__ import annotations

# command: (module with add_arguments(parser) and run(options) -> exit code, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "audit": ("certmix.commands.audit", "certify every input of a dataset, and keep the evidence"),
    "merge": ("certmix.commands.merge", "put parts of an audit together that were proven in different folders"),
    "check": ("certmix.commands.check", "judge every certificate of an audit, in a process without torch"),
    "report": ("certmix.commands.report", "tables and one page of an audit: accuracies, certified shares, radii"),
    "export": ("certmix.commands.export", "what an audit says of each input: CSV, JSON lines, Parquet, JUnit"),
    "show": ("certmix.commands.show", "one input of an audit: verdict, every method's radius, the judge's steps"),
    "sweep": ("certmix.commands.sweep", "every alpha and temperature from one audit, with no new verification"),
    "tune": ("certmix.commands.tune", "choose alpha and temperature on one split, report on another"),
    "lipschitz": (
        "certmix.commands.lipschitz",
        "Lipschitz constants of h and the radii they certify",
    ),
    "models": ("certmix.commands.models", "what each ONNX file of a folder can be: g, h, or neither, and why"),
    "replay": ("certmix.commands.replay", "repeat a random part of an audit's noise draws and compare the counts"),
    "smoothing-bounds": ("certmix.commands.smoothing_bounds", "every smoothing bound side by side, on the same draws"),
    "certify-log": ("certmix.commands.certify_log", "certified accuracy of a mix from a Cohen-style smoothing log"),
    "experiment": ("certmix.commands.experiment", "the paper's experiments on any pair of models"),
    "soundness": ("certmix.commands.soundness", "try to make a certifier lie: ours, or yours"),
    "demo": ("certmix.commands.demo", "audit, check and report a bundled pair of models: a first look"),
    "options": ("certmix.commands.options", "every option of a command with its default, as a file for --config"),
    "completion": ("certmix.commands.completion", "what bash, zsh or tcsh needs to complete commands and options"),
    "doctor": (
        "certmix.commands.doctor",
        "whether an installation is fit: versions, devices, the judge's arithmetic",
    ),
}

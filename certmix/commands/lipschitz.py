"""Lipschitz constants of the robust model: estimated, certified on the ball, certified everywhere, and their radii."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from certmix.commands import arguments as shared
from certmix.commands.parsing import file
from certmix.data.dataset import Dataset
from certmix.errors import UsageError
from proofs_check.certificate import PlainNetwork

if TYPE_CHECKING:
    from certmix.provers.lipschitz_constants import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--robust", type=file, metavar="R.onnx", required=True, help="h")
    shared.add_allow_code(parser)
    shared.add_ends(parser)
    shared.add_data(parser)
    shared.add_norm(parser)
    parser.add_argument("--radius", type=shared.number, metavar="R", required=True, help="of the balls, raw units")
    parser.add_argument("--alpha", type=shared.number, default=1.0, metavar="A", help="of the mix (default 1: h alone)")
    parser.add_argument("--temperature", type=shared.number, default=1.0, metavar="T", help="T > 0 (default 1)")
    parser.add_argument(
        "--engine",
        choices=("best", "auto_lirpa", "crown"),
        default="best",
        help="bounds behind relaxed constants: auto_LiRPA's, the native engine's (crown), or both (best, default)",
    )
    parser.add_argument("--no-lipsdp", action="store_true", help="leave out the semidefinite bounds (L2 only)")
    parser.add_argument(
        "--upstream-jacobian", action="store_true", help="also use auto_LiRPA's JacobianOP (>= 0.7; its word is taken)"
    )
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="of each attack (default 20)")
    parser.add_argument("--restarts", type=int, default=5, metavar="N", help="of the attack (default 5)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="inputs at once (default 16)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    parser.add_argument("--seed", type=int, default=0, help="of the attack (default 0)")
    parser.add_argument("--out", type=file, metavar="DIR", help="also write lipschitz.json and lipschitz.png there")


def run(options: argparse.Namespace) -> int:
    import torch

    from certmix.commands.terminal import Bar
    from certmix.provers.lipschitz_constants import as_record, measure_all
    from certmix.reports.lipschitz_tables import draw, show
    from verifiers.engine import EngineError

    request, network, data = _read(options)
    device, bar = shared.device(options.device), Bar("measuring")
    try:
        inputs = torch.from_numpy(data.inputs)
        parts = measure_all(network, inputs, request, device, options.batch_size, bar.progress)
    except EngineError as error:
        raise UsageError(f"{options.robust} has no Lipschitz bound: {error}") from None
    finally:
        bar.stop()
    record = as_record(parts, request)
    show(record)
    if options.out is not None:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lipschitz.json").write_text(json.dumps(record, indent=1, allow_nan=False))
        draw(record, folder / "lipschitz.png")
    return 0


def _read(options: argparse.Namespace) -> tuple[Request, PlainNetwork, Dataset]:
    import torch

    from certmix.models.model import about_probabilities, load_asked
    from certmix.provers.lipschitz_constants import Request
    from verifiers.lipschitz.estimate import Search

    for name in ("steps", "restarts", "batch_size"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be >= 1, got {getattr(options, name)}")
    if not 0 <= options.alpha <= 1:
        raise UsageError(f"alpha must be in [0, 1], got {options.alpha}")
    if not options.temperature > 0:
        raise UsageError(f"temperature must be > 0, got {options.temperature}")
    search = Search(options.steps, options.restarts, options.seed)
    domain = shared.domain(options)
    request = Request(
        options.norm,
        options.radius,
        domain,
        options.alpha,
        options.temperature,
        not options.no_lipsdp,
        options.upstream_jacobian,
        search,
        options.engine,
    )
    data = shared.data(options, domain)
    _, end = shared.ends(options)
    robust = load_asked(options.robust, data.inputs.shape[1:], end, allow_code=options.allow_code)
    network = robust.require_network()
    data.require(network.input_shape, network.classes, domain)
    shared.warn(about_probabilities({robust.named("robust"): robust.module}, torch.from_numpy(data.inputs)))
    return request, network, data

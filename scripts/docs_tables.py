"""Write what the documentation takes from elsewhere: options of commands, stored results.

Between ``<!-- NAME -->`` and ``<!-- end -->`` of a page stands what this makes of NAME; run it
after an option or a stored result has changed. A test holds the pages to it.
"""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import click
import numpy as np

from waterfill.cli import app
from waterfill.codec.registry import load_codec
from waterfill.evaluation.curves import bd_rate
from waterfill.evaluation.published import published_curve

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduce"
_MARKED = re.compile(r"(<!-- (?!end)([^>]+) -->\n).*?(<!-- end -->)", re.S)


def command_of(name: str) -> click.Command:
    """A command by its words, ``data pack``."""
    command: click.Command = app
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def options(name: str) -> str:
    """The options of a command, with what its help says."""
    command = command_of(name)
    context = click.Context(command, info_name=name)
    rows = []
    for option in command.params:
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record is not None:
            flags, text = record
            # A bar inside a cell's code: code hosts want it escaped, and the site would show how.
            code = f"<code>{flags}</code>" if "|" in flags else f"`{flags}`"
            cells = (code, text or "Over all.")
            rows.append("| " + " | ".join(cell.replace("|", "&#124;") for cell in cells) + " |")
    return "\n".join(["| option | |", "|---|---|", *rows])


def _stored(name: str) -> Any:
    """What a file of stored results says."""
    return json.loads((RESULTS.parent / f"{name}.json").read_text(encoding="utf-8"))


def results() -> Iterator[dict[str, Any]]:
    """Every stored reproduction."""
    for file in sorted(RESULTS.glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if "verdicts" in data:
            yield data


def verdicts() -> str:
    """What became of each claim."""
    rows = [
        f"| `{one['name']}` | {claim['claim']} | **{claim['verdict']}** | {claim['measured']} |"
        for one in results()
        for claim in one["verdicts"]
    ]
    return "\n".join(["| name | claim | verdict | measured |", "|---|---|---|---|", *rows])


def _table(table: dict[str, Any]) -> str:
    """A stored table."""
    columns = table["columns"]
    rows = (columns, ["---"] * len(columns), *table["rows"])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _tables(wanted: Callable[[str], bool]) -> str:
    """All tables of the reproductions whose names are wanted, each under its title."""
    pages = []
    for one in results():
        for table in one["tables"] if wanted(one["name"]) else ():
            title = table["title"]
            if not title[1:2].isupper():  # no abbreviation
                title = title[:1].lower() + title[1:]
            pages += [f"`{one['name']}`: {title}", _table(table)]
    return "\n\n".join(pages)


def systems() -> str:
    """Figure 4's systems, each with its status."""
    return _tables(lambda name: name.startswith("fig4"))


def digits() -> str:
    """Figure 5c's curves at equal error, each with its status."""
    (found,) = (
        table
        for one in results()
        for table in one["tables"]
        if one["name"] == "fig5c" and table["title"].startswith("Bits at equal")
    )
    return _table(found)


def patches() -> str:
    """Figure 5a's estimators, patch by patch."""
    return _tables(lambda name: name == "fig5a")


def domains() -> str:
    """The bundled codec against conventional ones, folder by folder."""
    stored = _stored("domains")
    facts = stored["environment"]
    pictures = {one["domain"]: one["pictures"] for one in stored["curves"]}
    cells = {
        (cell["domain"], cell["anchor"], cell["test"]): cell["result"]
        for cell in stored["bd_rates"]
        if cell["metric"] == "psnr"
    }
    pairs = [("jpeg", "default"), ("webp", "default"), ("jpeg", "webp")]
    rows = []
    for domain, count in pictures.items():
        said = [_with_interval(cells[domain, *pair]) for pair in pairs]
        rows.append(f"| {domain or 'all'} | {count} | {' | '.join(said)} |")
    head = f"`{facts['command']}`, seed {facts['seed']}, {facts['machine']}, {facts['date']}:"
    names = " | ".join(f"`{test}` against `{anchor}`" for anchor, test in pairs)
    return "\n".join([head, "", f"| folder | pictures | {names} |", "|---" * 5 + "|", *rows])


def _with_interval(found: dict[str, Any]) -> str:
    """A BD-rate in percent, with the ends of its interval where there is one."""
    text = f"{found['rate_percent']:+.1f} %"
    if found["interval"]:
        text += " ({:+.1f} … {:+.1f})".format(*found["interval"])
    return text.replace("-", "−")


def regulariser() -> str:
    """Paper 2's tables, ours beside the paper's where it states numbers."""
    return _tables(lambda name: name.startswith("paper2-"))


def provenance() -> str:
    """Under what the results were computed."""
    rows = []
    for one in results():
        facts = one["environment"]
        seeds = ", ".join(map(str, facts.get("training_seeds", [facts["seed"]])))
        columns = (facts["command"], one["scale"], seeds, facts["machine"], facts["date"])
        rows.append("| " + " | ".join((f"`{columns[0]}`", *map(str, columns[1:]))) + " |")
    return "\n".join(["| command | scale | seed | machine | date |", "|" + "---|" * 5, *rows])


def quantisers() -> str:
    """What effort and a trellis save, and what the test channel does by the same prior."""
    stored = _stored("quantisers")
    facts = stored["environment"]
    pictures = len({row["picture"] for row in stored["rows"]})
    found = stored["bd_rate"] | {
        "Gaussian test channel (achievable, no file)": stored["test_channel_bd_rate"]
    }
    rows = [f"| {name} | {rate:+.2f} % |".replace("-", "−") for name, rate in found.items()]
    qualities = len({row["quality"] for row in stored["rows"]})
    head = (
        f"{pictures} Kodak photographs, {qualities} qualities, `benchmarks/quantisers.py`, "
        f"seed {facts['seed']}, {facts['machine']}, {facts['date']}:"
    )
    return "\n".join([head, "", "| | BD-rate against rounding |", "|---|---|", *rows])


def anchors() -> str:
    """Conventional codecs beside published curves of the same ones."""
    stored = _stored("anchors")
    facts = stored["environment"]
    rows = []
    for name, codec in stored["codecs"].items():
        ceiling = codec["ceiling_psnr"]
        for cell in codec["against"]:
            found = cell["result"]
            said = (
                f"{found['rate_percent']:+.1f} %".replace("-", "−"),
                f"{found['quality_db']:+.2f} dB".replace("-", "−"),
            )
            alone = "—" if ceiling is None else f"{ceiling:.1f} dB"
            published = cell["anchor"].removeprefix("published:")
            cells = (f"`{name}`", codec["version"], f"`{published}`", *said, alone)
            rows.append(f"| {' | '.join(cells)} |")
    head = f"24 Kodak photographs, `{facts['command']}`, {facts['machine']}, {facts['date']}:"
    columns = "| codec | library | published | BD-rate | BD-PSNR | its colours alone |"
    return "\n".join([head, "", columns, "|---|---|---|---|---|---|", *rows])


def optimisers() -> str:
    """Held-back loss of a codec trained from nothing by either optimiser."""
    stored = _stored("optimisers")
    facts, rates = stored["environment"], stored["rates"]
    adam, soap = stored["curves"]["adam"], stored["curves"]["soap"]
    rows = [
        f"| {one['step']:.0f} | {one['validation_loss']:.2f} | {one['seconds']:.0f} s "
        f"| {other['validation_loss']:.2f} | {other['seconds']:.0f} s |"
        for one, other in zip(adam, soap, strict=True)
        if 5 * one["step"] % adam[-1]["step"] == 0
    ]
    head = (
        f"Held-back loss, `{facts['command']}`, seed {facts['seed']}, {facts['machine']}, "
        f"{facts['date']}:"
    )
    columns = f"| steps | Adam, {rates['adam']:g} | | SOAP, {rates['soap']:g} | |"
    shares = stored["shares_of_adam"]
    end = (
        f"SOAP is where Adam ends after {shares['step']:.2f} of its steps and "
        f"{shares['seconds']:.2f} of its time."
    )
    return "\n".join([head, "", columns, "|---|---|---|---|---|", *rows, "", end])


def precisions() -> str:
    """Held-back loss of a codec trained in float32 and mixed with bfloat16, seed by seed."""
    stored = _stored("precisions")
    facts, changes = stored["environment"], stored["changes_percent"]
    wide, narrow = (
        [run for run in stored["runs"] if run["precision"] == precision]
        for precision in ("32-true", "bf16-mixed")
    )
    rows = [
        f"| {one['seed']} | {one['validation_loss']:.3f} | {other['validation_loss']:.3f} "
        f"| {_signed(change, 2)} % |"
        for one, other, change in zip(wide, narrow, changes, strict=True)
    ]
    head = (
        f"Held-back loss after {stored['config']['steps']:,} steps, "
        f"`python benchmarks/{facts['command']}`, {facts['machine']}, {facts['date']}:"
    )
    columns = "| seed | float32 | mixed with bfloat16 | |"
    end = (
        f"In the mean {_signed(statistics.fmean(changes), 2)} %; from one seed to another float32 "
        f"itself differs by up to {stored['spread_of_float32_percent']:.1f} %."
    )
    return "\n".join([head, "", columns, "|---|---|---|---|", *rows, "", end])


def _signed(number: float, digits: int) -> str:
    """A number with its sign, which is no hyphen."""
    return f"{number:+.{digits}f}".replace("-", "−")


def _percent(rate: float) -> str:
    return f"{_signed(rate, 1)} %"


def kodak() -> str:
    """The bundled codec on Kodak: its curve, and where it lies beside others."""
    stored = _stored("kodak")
    facts = stored["environment"]
    images = [image for row in stored["rows"] for image in row["images"]]
    within = sum(image["within_bounds"] and image["pixels_equal"] for image in images)
    rows = []
    for row in stored["rows"]:
        bpp, decibels, similar = (
            fmean(image[name] for image in row["images"]) for name in ("bpp", "psnr", "ms_ssim")
        )
        rows.append(f"| {row['quality']:g} | {bpp:.3f} | {decibels:.2f} | {similar:.3f} |")
    rates, integers = stored["bd_rate_percent"], stored["integer_cost_percent"]
    written = _written_with_effort()
    curve = [(quality, rate) for rate, quality in stored["curve"]]
    below = {name: _below(curve, found) for name, found in _curves_beside_effort().items()}
    return "\n".join(
        [
            f"On the 24 Kodak photographs (`python benchmarks/{facts['command']}`, "
            f"{facts['machine']}, {facts['date']}), means over the pictures:",
            "",
            "| quality | bpp | PSNR dB | MS-SSIM |",
            "|---|---|---|---|",
            *rows,
            "",
            f"- BD-rate by PSNR: {_percent(rates['jpeg'])} against Pillow's JPEG 4:2:0 and "
            f"{_percent(rates['webp'])} against its WebP, in one run; below JPEG at "
            f"{below['jpeg']}, below WebP at {below['webp']} and below JPEG 2000 (9/7) at "
            f"{below['jpeg2000']} of {len(curve)} rates.",
            written,
            _against_published(curve),
            f"- {within} of {len(images)} files lie between their ideal code length and "
            "1.005 × it + 64 bytes, and decode to the encoder's pixels. Integer networks and "
            "tables in place of floating point change the rate by "
            f"{_signed(min(integers), 2)} to {_signed(max(integers), 2)} %.",
        ]
    )


#: PSNR in dB and bpp.
_Curve = list[tuple[float, float]]


def _below(curve: _Curve, other: _Curve) -> int:
    """At how many points a curve spends less than another at the same PSNR."""
    psnr, bpp = zip(*sorted(other), strict=True)
    return sum(rate < math.exp(np.interp(quality, psnr, np.log(bpp))) for quality, rate in curve)


def _curves_beside_effort() -> dict[str, _Curve]:
    """Mean curves over Kodak by codec."""
    stored = _stored("kodak_effort")
    curves: dict[str, _Curve] = {}
    for point in stored["curves"]:
        curves.setdefault(point["codec"], []).append((point["psnr"], point["bpp"]))
    return curves


def _own_name(stored: dict[str, Any]) -> str:
    """The one codec of ours in an evaluation."""
    (own,) = (str(codec["name"]) for codec in stored["codecs"] if codec["kind"] == "own")
    return own


def _written_with_effort() -> str:
    """BD-rates of files that took more time to write, and at how many rates they are smaller."""
    stored = _stored("kodak_effort")
    cells = {
        (cell["anchor"], cell["test"]): cell["result"]
        for cell in stored["bd_rates"]
        if cell["metric"] == "psnr"
    }
    own = _own_name(stored)
    curves = _curves_beside_effort()
    said = []
    for anchor, name in (("jpeg", "JPEG"), ("webp", "WebP"), ("jpeg2000", "JPEG 2000 (9/7)")):
        below = _below(curves[own], curves[anchor])
        rate = _with_interval(cells[anchor, own])
        said.append(f"{rate} against {name}, below it at {below} of {len(curves[own])} rates")
    flags = " ".join(f"--{flag}" for flag in reversed(own.split(", ")[1:]))
    head = f"- Written with `{flags}`, 95 % intervals over the pictures: "
    return f"{head}{'; '.join(said)} (`benchmarks/results/kodak_effort.json`)."


#: Curves that readers know, from the weakest.
_PUBLISHED = {
    "paper-bmshj2018-hyperprior": "the hyperprior of Ballé 2018",
    "hyperprior": "CompressAI's training of it",
    "bpg": "BPG 4:4:4",
    "mbt2018": "the masked context of Minnen 2018",
    "vtm": "VTM-9.1",
}


def _against_published(plain: _Curve) -> str:
    """BD-rates against curves that others have published, of files plain and with more effort."""
    effort = _curves_beside_effort()[_own_name(_stored("kodak_effort"))]
    said = []
    for name, title in _PUBLISHED.items():
        points = [(point.bpp, point.psnr) for point in published_curve(name).points]
        rates = (bd_rate(points, [(bpp, psnr) for psnr, bpp in curve]) for curve in (plain, effort))
        said.append(f"{' and '.join(map(_percent, rates))} against {title}")
    head = "- Against curves as published, with plain rounding and written so: "
    return f"{head}{'; '.join(said)}."


def quantisation_gap() -> str:
    """How much of the gap to the test channel effort and a trellis close."""
    stored = _stored("quantisers")
    facts, gap = stored["environment"], stored["test_channel_bd_rate"]
    pictures, qualities = (len({row[k] for row in stored["rows"]}) for k in ("picture", "quality"))
    rows = [
        f"| {name.removeprefix('rounding, ')} | {_signed(rate, 2)} % | {100 * rate / gap:.0f} % |"
        for name, rate in stored["bd_rate"].items()
    ]
    head = (
        f"{pictures} Kodak photographs, {qualities} qualities, every file decoded "
        f"(`benchmarks/quantisers.py`, {facts['date']}). The quantisation gap is the distance to "
        "the Gaussian test channel by the same prior, which is achievable and "
        f"{_signed(gap, 2)} % here:"
    )
    table = ["| | BD-rate | of the quantisation gap |", "|---|---|---|", *rows]
    seconds: dict[tuple[str, float], list[float]] = {}
    for row in stored["rows"]:
        if row["quantiser"].endswith("effort 8"):
            setting = row["quantiser"], row["quality"]
            seconds.setdefault(setting, []).append(row["encode_seconds"])
    medians = [median(found) for found in seconds.values()]
    end = (
        f"With effort 8, an encoder on one core took {min(medians):.0f} to {max(medians):.0f} s "
        "for a picture of 768×512 (medians by quality, with the trellis and without)."
    )
    return "\n".join([head, "", *table, "", end])


def limits_paper() -> str:
    """Figure 4's systems by their BD-rates."""
    rows = []
    for name in ("fig4a", "fig4b"):
        stored = _stored(f"reproduce/{name}")
        rows += [(row[0], row[1], row[-1]) for row in stored["tables"][0]["rows"]]
        facts = stored["environment"]
    seen = dict.fromkeys(row for row in rows if row[-1] != "+0.0 %")
    lines = [f"| {' | '.join(row)} |" for row in seen]
    head = f"24 Kodak photographs, four rates, {facts['machine']}, {facts['date']}:"
    table = ["| system | status | BD-rate |", "|---|---|---|", *lines]
    similar = _stored("reproduce/fig4b-ms-ssim")
    told = [row[-1] for row in similar["tables"][0]["rows"] if row[1] == "genie-aided"]
    end = (
        "By MS-SSIM, fine-tuned for it (`fig4b-ms-ssim`), the limits without and with context lie "
        f"at {' and '.join(told)} (genie-aided)."
    )
    return "\n".join([head, "", *table, "", end])


_ORACLES = ("oracle, test channel", "oracle, test channel, context")


def beside_published() -> str:
    """Figure 5a's curves."""
    rows = _stored("reproduce/fig5a")["tables"][0]["rows"]
    found = {name: rate for name, _, rate in rows}

    def least(rates: Iterable[str]) -> str:
        return min(rates, key=lambda rate: float(rate.replace("−", "-").split()[0]))

    best = least(rate for name, rate in found.items() if name.startswith("published"))
    own = least(
        rate
        for name, status, rate in rows
        if name.startswith("bundled codec") and status == "achievable"
    )
    oracles = (found[f"bundled codec: {oracle}"] for oracle in _ORACLES)
    return (
        "Beside published codecs (`fig5a`, the bundled codec without fine-tuning, qualities 1 to "
        f"7, BD-rate against VTM-9.1): its files lie at {found['bundled codec: bitstream']}, its "
        f"best achievable rung at {own}, the oracles at {' and '.join(oracles)} (genie-aided), the "
        f"best published codec at {best}. Estimators on patches of the same photographs are upper "
        f"bounds far above: the sandwich at {found['sandwich, 16×16 patches']} on 16×16 pixels, "
        "NERD and WGD soon at the ceiling that the number of their atoms sets."
    )


def domains_in_short() -> str:
    """The bundled codec against WebP on pictures of other kinds, in a sentence."""
    stored = _stored("domains")
    qualities = len({one["setting"] for one in stored["curves"] if one["codec"] == "default"})
    found = [
        f"{_with_interval(cell['result'])} on `{cell['domain']}`"
        for cell in stored["bd_rates"]
        if cell["domain"]
        and (cell["metric"], cell["anchor"], cell["test"]) == ("psnr", "webp", "default")
    ]
    pictures = {one["domain"]: one["pictures"] for one in stored["curves"]}
    return (
        f"On pictures of other kinds ({pictures[None]} in {len(found)} folders, {qualities} "
        "qualities; `benchmarks/results/domains.json`, "
        "[by folder](docs/commands/evaluate.md#the-bundled-codec-by-domain)), BD-rate against "
        f"WebP, from 8 pictures on with 95 % intervals: {', '.join(found)}. "
        "It was trained for neither pixel art nor screens."
    )


def learning_curve() -> str:
    """How long the bundled codec has been trained."""
    seconds: dict[str, float] = {}
    with (RESULTS.parent / "bundled_training.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            seconds[row["run"]] = float(row["seconds"])
    return (
        f"`benchmarks/results/bundled_training.csv` is its learning curve: {len(seconds)} runs on "
        f"two shared cores, {sum(seconds.values()) / 3600:.1f} hours in all."
    )


def weights() -> str:
    """Which weights the stored results are of."""
    ledger = _stored("weights")
    bundled = load_codec().weights_id.hex()
    others = [f"`{name}` is of {of}" for name, of in ledger.items() if of != bundled]
    rest = "; ".join(others)
    return f"The bundled codec's weights are {bundled}" + (f"; {rest}." if rest else ".")


def times() -> str:
    """What the whole ladder takes, from its start to its report."""
    stored = _stored("limits")
    facts = stored["environment"]
    rows = [
        f"| {name} | {row['seconds']:.0f} s | {row['seconds_per_megapixel']:.1f} s "
        f"| {row['peak_mib']:.0f} MiB |"
        for name, row in stored["rows"].items()
    ]
    head = (
        f"Quality {stored['quality']:g}, `benchmarks/limits.py`, "
        f"seed {facts['seed']}, {facts['machine']}, {facts['date']}:"
    )
    columns = "| | from start to report | for a megapixel | peak memory |"
    return "\n".join([head, "", columns, "|---|---|---|---|", *rows])


#: Architectures, and what they are made of.
_FAMILY = {
    "default": ("the bundled one", "filters and 16×16 blocks", "μ, σ", "5 groups, checkerboard"),
    "factorized": ("Ballé 2017", "convolutions, GDN", "—; one density a channel", "—"),
    "scale-hyperprior": ("Ballé 2018", "convolutions, GDN", "σ", "—"),
    "mean-scale": ("Minnen 2018", "convolutions, GDN", "μ, σ", "—"),
    "autoregressive": ("Minnen 2018", "convolutions, GDN", "μ, σ", "masked 5×5"),
    "attention": ("Cheng 2020", "residual blocks, attention", "μ, σ", "masked 5×5"),
    "attention-mixture": (
        *("Cheng 2020", "residual blocks, attention", "mixtures of 3", "masked 5×5"),
    ),
    "space-channel": (
        *("as ELIC, He 2022", "residual blocks, attention", "μ, σ", "5 groups, checkerboard"),
    ),
    "table1": ("limits paper", "convolutions, GDN", "μ, σ", "—"),
    "table1-context": ("limits paper", "convolutions, GDN", "μ, σ", "masked 5×5"),
    "table2": ("limits paper, digits", "convolutions, GDN", "μ, σ", "—"),
    "table2-context": ("limits paper, digits", "convolutions, GDN", "μ, σ", "masked 5×5"),
}


@cache
def family() -> str:
    """Architectures, with what they take."""
    rows = []
    for name, (source, transform, side, context) in _FAMILY.items():
        codec = load_codec(name, pretrained=False)
        widths, takes = codec.config, codec.complexity()
        rows.append(
            f"| `{name}` ({source}) | {transform} | {side} | {context} | {widths.n}, {widths.m} "
            f"| {takes.parameters / 1e6:.1f} M | {takes.encoder:.0f}, {takes.decoder:.0f} |"
        )
    columns = (
        "| name | transform | by side information | context | N, M | parameters "
        "| kMAC/pixel to encode, to decode |"
    )
    end = (
        "kMAC/pixel: thousands of multiply–accumulate operations for a pixel, without the entropy "
        "coder (`load_codec(…).complexity()`)."
    )
    return "\n".join([columns, "|---|---|---|---|---|---|---|", *rows, "", end])


#: Models of ``benchmarks/coding.py``, with the widths (N, M), or N where M is the same.
_CODED = {
    "bmshj2018-hyperprior": "scale hyperprior (128, 192)",
    "mbt2018-mean": "mean-scale (128, 192)",
    "mbt2018": "autoregressive (192, 192)",
    "cheng2020-attn": "attention (128, 128)",
}


def coding() -> str:
    """What coding takes, beside another library in the same run."""
    stored = _stored("coding")
    models, facts = stored["models"], stored["environment"]
    rows = []
    for key, name in _CODED.items():
        one = models[key]
        cells = [f"{one['encode_s']:.2f} s", f"{one['decode_s']:.2f} s"]
        for ratios in (one["ratios_encode_s"], one["ratios_decode_s"]):
            cells.append(" to ".join(dict.fromkeys(f"{r:.1f}" for r in sorted(ratios))))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = f"`benchmarks/coding.py`, seed {facts['seed']}, {facts['machine']}, {facts['date']}:"
    columns = (
        "| model (N, M) | encode | decode | CompressAI encodes, times as long "
        "| decodes, times as long |"
    )
    masked, attention = (models[key]["stages_s"]["g_s"] for key in ("mbt2018", "cheng2020-attn"))
    end = (
        f"Of decoding the synthesis g_s alone takes {masked:.2f} s in the autoregressive model and "
        f"{attention:.2f} s in the attention model."
    )
    return "\n".join([head, "", columns, "|---|---|---|---|---|", *rows, "", end])


def training_steps() -> str:
    """What a step of training takes, beside another library in the same run."""
    rows, days = [], set()
    for end, arithmetic in (("", "mixed with bfloat16"), ("_float32", "float32")):
        for start, name in (("", "mean-scale (128, 192)"), ("_autoregressive", _CODED["mbt2018"])):
            stored = _stored(f"training_step{start}{end}")
            own, facts = stored["own"], stored["environment"]
            ratios = sorted(seconds / own["step_s"] for seconds in stored["peer_step_s"])
            days.add(facts["date"].split()[0])
            times = f"{ratios[0]:.1f} to {ratios[-1]:.1f}, median {statistics.median(ratios):.1f}"
            rows.append(
                f"| {name} | {arithmetic} | {own['step_s']:.2f} s "
                f"| {100 * own['share_of_peak']:.0f} % | {times} |"
            )
    head = f"`benchmarks/training.py`, {facts['machine']}, {' and '.join(sorted(days))}:"
    columns = (
        "| model (N, M) | arithmetic | step | share of the largest matrix product's rate "
        "| CompressAI, times as long |"
    )
    return "\n".join([head, "", columns, "|---|---|---|---|---|", *rows])


def made(name: str) -> str:
    """What belongs between the marks of this name."""
    kind, _, rest = name.partition(" ")
    return options(rest) if kind == "options" else globals()[kind]()  # type: ignore[no-any-return]


def filled(text: str) -> str:
    """A page with its marked parts made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{made(m[2])}\n\n{m[3]}", text)


def pages() -> list[Path]:
    """All that may hold marks."""
    others = (ROOT / "README.md", RESULTS.parent / "README.md")
    return [*others, *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")

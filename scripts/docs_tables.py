"""Write what the documentation takes from elsewhere: options of commands, stored results.

Between ``<!-- NAME -->`` and ``<!-- end -->`` of a page stands what this makes of NAME; run it
after an option or a stored result has changed. A test holds the pages to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from waterfill.cli import app

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
            cells = (f"`{flags}`", text or "Over all.")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(["| option | |", "|---|---|", *rows])


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
    stored = json.loads((RESULTS.parent / "domains.json").read_text(encoding="utf-8"))
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
        columns = (facts["command"], one["scale"], facts["seed"], facts["machine"], facts["date"])
        rows.append("| " + " | ".join((f"`{columns[0]}`", *map(str, columns[1:]))) + " |")
    return "\n".join(["| command | scale | seed | machine | date |", "|" + "---|" * 5, *rows])


def quantisers() -> str:
    """What effort and a trellis save, and what the test channel does by the same prior."""
    stored = json.loads((RESULTS.parent / "quantisers.json").read_text(encoding="utf-8"))
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
    stored = json.loads((RESULTS.parent / "anchors.json").read_text(encoding="utf-8"))
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
    stored = json.loads((RESULTS.parent / "optimisers.json").read_text(encoding="utf-8"))
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


def times() -> str:
    """What the whole ladder takes, from its start to its report."""
    stored = json.loads((RESULTS.parent / "limits.json").read_text(encoding="utf-8"))
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


def made(name: str) -> str:
    """What belongs between the marks of this name."""
    kind, _, rest = name.partition(" ")
    return options(rest) if kind == "options" else globals()[kind]()  # type: ignore[no-any-return]


def filled(text: str) -> str:
    """A page with its marked parts made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{made(m[2])}\n\n{m[3]}", text)


if __name__ == "__main__":
    for page in sorted((ROOT / "docs").rglob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")

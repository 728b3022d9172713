"""Bit tables in YAML: globs over site names to bits, to be read and edited."""

import re
from collections.abc import Mapping
from pathlib import Path

from vitq.bits import Bits, BitTable
from vitq.errors import RecipeError, did_you_mean
from vitq.recipes.document import read_yaml, write_yaml
from vitq.recipes.library import LARGEST_FILE

KEYS = ("bits", "sites")
HEAD = """# Bits by site, for vitq quantize --bits THIS-FILE. Edit freely: the keys of 'sites' are globs over
# site names, the last match wins; sites that none names get 'bits'. 2 to 8 bits, 32 leaves a site in floating point.
"""


def is_table(text: str) -> bool:
    """Tell whether bits are given by a file."""
    return text.strip().endswith((".yaml", ".yml"))


def read_table(path: str | Path) -> BitTable:
    """Read a bit table; RecipeError, which names the file, where it is missing or not one."""
    file = Path(path)
    where = f"bit table '{path}'"
    try:
        if file.exists() and not file.is_file():
            raise RecipeError(f"{where} is no file")
        if file.stat().st_size > LARGEST_FILE:
            raise RecipeError(f"{where} has more than {LARGEST_FILE:,} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read: {error}") from None
    data = read_yaml(text, where)
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: write 'bits: w4a4' and 'sites:', globs with their bits")
    for key in data:
        if key not in KEYS:
            raise RecipeError(f"{where}: unknown key '{str(key)[:80]}'{did_you_mean(str(key)[:80], KEYS)}")
    if not isinstance(data.get("bits"), str):
        raise RecipeError(f"{where}: 'bits' is missing: what sites get that no glob names, such as w4a4")
    sites = data.get("sites") or {}
    if not isinstance(sites, Mapping):
        raise RecipeError(f"{where}: 'sites' must be 'glob: bits' lines")
    try:
        base = Bits.parse(data["bits"])
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    return BitTable(base, dict(sites), where)


def write_table(table: BitTable) -> str:
    """Return a table as YAML that ``read_table`` reads back equal."""
    return HEAD + write_yaml({"bits": str(table.base), "sites": dict(table.sites)})


def table_of(bits: Mapping[str, int], base: Bits) -> BitTable:
    """Return a short table that gives each site its bits: one glob for the sites of a kind, then the exceptions.

    A kind is what differs in numbers alone (``blocks.*.attn.qkv/weight``); its glob has the bits that most have.
    """
    kinds: dict[str, list[str]] = {}
    for site in bits:
        kinds.setdefault(_kind(site), []).append(site)
    sites: dict[str, int] = {}
    for kind, members in kinds.items():
        if len(members) > 1:
            own = [bits[site] for site in members]
            sites[kind] = max(dict.fromkeys(own), key=own.count)
    general = BitTable(base, sites)
    own_sites = {_escaped(site): width for site, width in bits.items() if general.bits_of(site) != width}
    return BitTable(base, {**sites, **own_sites})


def _kind(site: str) -> str:
    return re.sub(r"(?<![A-Za-z0-9_])[0-9]+(?![A-Za-z0-9_])", "*", _escaped(site))


def _escaped(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)

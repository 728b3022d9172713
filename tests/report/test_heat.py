"""Heat maps of bits."""

from vitq.report.heat import heat_rows, is_mixed


def test_rows_are_kinds_and_columns_blocks() -> None:
    bits = {
        "patch/weight": 8,
        "a.0.fc/weight": 4,
        "a.1.fc/weight": 2,
        "a.1.down/weight": 32,
        "a.0/key": 3,
        "head/input": 8,
    }
    blocks = {name: name.split(".fc")[0].split(".down")[0].split("/")[0] for name in bits}
    blocks |= {"patch/weight": "patch-stem", "head/input": ""}
    rows = {row.kind: [cell and cell.bits for cell in row.cells] for row in heat_rows(bits, blocks)}
    assert rows == {
        "patch/weight": [8],
        "fc/weight": [4, 2],
        "down/weight": [None, 32],
        "key": [3, None],
        "head/input": [8],
    }


def test_bits_are_mixed_where_weights_or_activations_differ_among_themselves() -> None:
    assert not is_mixed({"a/weight": 4, "a/input": 8}, {"a/weight"})
    assert is_mixed({"a/weight": 4, "b/weight": 8}, {"a/weight", "b/weight"})

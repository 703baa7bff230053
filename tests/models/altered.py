"""Files as accidents leave them."""

from __future__ import annotations

from hypothesis import strategies as st


def altered(data: st.DataObject, content: bytes) -> bytes:
    """A file truncated, doubled, with bytes changed, swapped, removed or added."""
    places = st.integers(0, len(content) - 1)
    first, second = sorted((data.draw(places), data.draw(places)))
    extra = data.draw(st.binary(min_size=1, max_size=16))
    match data.draw(st.sampled_from(["cut", "double", "change", "remove", "insert", "swap"])):
        case "cut":
            return content[:first]
        case "double":
            return content + content[first:]
        case "change":
            return content[:first] + extra + content[first + len(extra) :]
        case "remove":
            return content[:first] + content[second:]
        case "insert":
            return content[:first] + extra + content[first:]
        case _:
            return content[second:] + content[first:second] + content[:first]

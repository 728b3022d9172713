"""Names from outside as texts that any terminal, log or JSON file can hold."""

LONGEST_NAME = 200


def shown(name: object) -> str:
    """Return a name for messages: unprintable characters and bytes that are not UTF-8 escaped, the middle cut out
    beyond 200 characters.
    """
    text = str(name)
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME // 2]}…{text[-LONGEST_NAME // 2 :]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

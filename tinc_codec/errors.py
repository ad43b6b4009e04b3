"""Errors of tinc_codec: each message names the value, the limit and the remedy."""


class TincError(Exception):
    """Base of every error that tinc_codec raises on purpose."""


class InvalidSetting(TincError, ValueError):
    """A setting is outside its range, or cannot be met for this chunk."""


class UnsupportedData(TincError, TypeError):
    """The array is of a kind that the codec does not take (dtype, size, content)."""


class CorruptPayload(TincError, ValueError):
    """The bytes are not a payload, or were damaged.

    Messages say what is wrong; the remedy, which is the same for all, is added here.
    """

    def __str__(self) -> str:
        return f"{super().__str__()}; restore what is damaged from its source, or from a copy"


class TruncatedPayload(CorruptPayload):
    """The payload ends before its own lengths say it should."""


class UnsupportedVersion(TincError, ValueError):
    """The payload needs a newer reader: a format version or a required section unknown here."""

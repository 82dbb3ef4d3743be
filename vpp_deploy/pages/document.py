"""A whole HTML document around a page's parts."""

from collections.abc import Iterable
from html import escape

from vpp_deploy.pages.style import STYLE


def render_document(title: str, parts: Iterable[str]) -> str:
    """The document; empty parts are left out.

    Args:
        title: as plain text.
        parts: HTML, in which every text that comes from a file is escaped.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )

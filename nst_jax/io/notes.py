"""Texts inside image files: iTXt in PNG, XMP in the other formats."""

import re
from xml.sax.saxutils import escape, unescape

from PIL import Image

KEYWORD = "nst_jax"  # of a PNG text
_RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF {_RDF}></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_DESCRIPTION = (
    f'<rdf:Description rdf:about="" {_RDF} xmlns:nst_jax="urn:nst_jax">'
    "<nst_jax:note>{}</nst_jax:note></rdf:Description>"
)
_NOTE = re.compile(b"<nst_jax:note>(.*?)</nst_jax:note>", re.DOTALL)
_END = re.compile(r"</([\w.-]+:)?RDF>")


def with_note(packet: bytes, note: str) -> bytes:
    """Return an XMP packet with a note; each of the two may be empty."""
    if not note:
        return packet
    text = packet.decode() or _PACKET
    *_, end = _END.finditer(text)
    description = _DESCRIPTION.format(escape(note))
    return (text[: end.start()] + description + text[end.start() :]).encode()


def find_note(image: Image.Image) -> str:
    """Return the note in a file that Pillow has opened; "" if there is none."""
    if KEYWORD in image.info:
        return str(image.info[KEYWORD])
    packet = image.info.get("xmp", b"")
    found = _NOTE.search(packet) if isinstance(packet, bytes) else None
    return unescape(found[1].decode(errors="replace")) if found else ""

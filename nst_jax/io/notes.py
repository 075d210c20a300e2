"""Texts inside image files: iTXt in PNG, XMP in the other formats."""

import re
from typing import Any
from xml.sax.saxutils import escape, unescape

from PIL import Image, PngImagePlugin

_KEYWORD, _XMP_TAG = "nst_jax", 700  # of a PNG text, of TIFF
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:nst_jax="urn:nst_jax">'
    "<nst_jax:note>{}</nst_jax:note>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_NOTE = re.compile(b"<nst_jax:note>(.*?)</nst_jax:note>", re.DOTALL)


def note_options(codec: str, note: str) -> dict[str, Any]:
    """Return the keywords by which `PIL.Image.Image.save` writes a note into a file.

    Args:
      codec: Pillow's name of the format: PNG, JPEG, WEBP, TIFF or AVIF.
      note: any text.
    """
    if codec == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt(_KEYWORD, note)
        return {"pnginfo": texts}
    packet = _PACKET.format(escape(note)).encode()
    return {"tiffinfo": {_XMP_TAG: packet}} if codec == "TIFF" else {"xmp": packet}


def find_note(image: Image.Image) -> str:
    """Return the note in a file that Pillow has opened; "" if there is none."""
    if _KEYWORD in image.info:
        return str(image.info[_KEYWORD])
    packet = image.info.get("xmp", b"")
    found = _NOTE.search(packet) if isinstance(packet, bytes) else None
    return unescape(found[1].decode(errors="replace")) if found else ""

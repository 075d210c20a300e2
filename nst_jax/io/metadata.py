"""Metadata of a photograph that stay true for a picture painted from it."""

import math
from typing import Any
from xml.dom import minidom

from PIL import ExifTags, Image

Dpi = tuple[float, float]  # horizontal, vertical

_BASE, _PHOTO, _GPS = ExifTags.Base, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
# The first tags of a TIFF file describe its pixels: of these, only what the picture shares.
_KEPT = (
    *(_BASE.ImageDescription, _BASE.Make, _BASE.Model, _BASE.Software, _BASE.DateTime),
    *(_BASE.Artist, _BASE.Copyright, _BASE.Rating, _BASE.RatingPercent),
    *(_BASE.XPTitle, _BASE.XPComment, _BASE.XPAuthor, _BASE.XPKeywords, _BASE.XPSubject),
)
# Of the others, all but those of other pixels, and notes that only the camera's maker can move.
_DROPPED = (
    *(_BASE.ExifImageWidth, _BASE.ExifImageHeight, _BASE.ColorSpace, _BASE.MakerNote),
    *(_BASE.ComponentsConfiguration, _BASE.CompressedBitsPerPixel, ExifTags.IFD.Interop),
    *(_BASE.FocalPlaneXResolution, _BASE.FocalPlaneYResolution, _BASE.FocalPlaneResolutionUnit),
    *(0x9214, 0xA214),  # where the subject is, in px
)
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# The same in XMP, and the place of data that are no longer in the file.
_DROPPED_XMP = {
    *("Orientation", "ImageWidth", "ImageLength", "XResolution", "YResolution", "ResolutionUnit"),
    *("BitsPerSample", "Compression", "PhotometricInterpretation", "SamplesPerPixel"),
    *("PixelXDimension", "PixelYDimension", "ColorSpace", "NativeDigest", "Thumbnails"),
    *("ICCProfile", "ColorMode", "HasExtendedXMP"),
}
# Settings of an editor, which would be applied again; gain maps and films of telephones; the
# identity and the history of the file; an earlier note.
_DROPPED_SPACES = (
    *("http://ns.adobe.com/camera-raw-settings/", "http://ns.adobe.com/hdr-gain-map/"),
    *("http://ns.google.com/photos/", "http://ns.apple.com/", "http://ns.adobe.com/xap/1.0/mm/"),
    "urn:nst_jax",
)


def dpi_of(image: Image.Image) -> Dpi | None:
    """Return the dots per inch that a file declares; None if there are none, or absurd ones."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(each) and 1 <= each < 65536 for each in (x, y)) else None


def exif_of(image: Image.Image) -> bytes:
    """Return the EXIF data of a file for an upright picture of another size; empty if unusable.

    Without the orientation, which means upright, the thumbnail, the maker's note, and the tags that
    describe the pixels.
    """
    try:
        had, kept = image.getexif(), Image.Exif()
        for tag in _KEPT:
            if tag in had:
                kept[tag] = _unchanged(had[tag])
        for group in (_PHOTO, _GPS):
            if found := {tag: x for tag, x in had.get_ifd(group).items() if tag not in _DROPPED}:
                kept[group] = found
        if dpi := dpi_of(image):
            kept[_BASE.XResolution], kept[_BASE.YResolution] = dpi
            kept[_BASE.ResolutionUnit] = 2  # inch
        return kept.tobytes() if kept else b""
    except Exception:  # damaged data make Pillow raise nearly everything
        return b""


def tags_of(exif: bytes) -> dict[int, Any]:
    """Return EXIF data as the tags of a TIFF file; those of groups are tables of their own."""
    had = Image.Exif()
    had.load(exif)
    groups = (_PHOTO, _GPS)
    return {tag: had.get_ifd(tag) if tag in groups else _unchanged(had[tag]) for tag in had}


def _unchanged(value: Any) -> Any:
    """Return the bytes of a text: Pillow reads it as Latin-1, but would write it as ASCII."""
    return value.encode("latin-1") if isinstance(value, str) else value


def xmp_of(image: Image.Image) -> bytes:
    """Return the XMP packet of a file for an upright picture of another size; empty if unusable."""
    packet = image.info.get("xmp")
    if not isinstance(packet, bytes) or b"<!" in packet:  # entities can take any amount of memory
        return b""
    try:
        document = minidom.parseString(packet.decode().strip("\0 \n\ufeff"))
    except Exception:  # it is not UTF-8, or no XML
        return b""
    for node in document.getElementsByTagNameNS(_RDF, "Description"):
        for attribute in list(node.attributes.values()):
            if _is_dropped(attribute):
                node.removeAttributeNode(attribute)
        for child in filter(_is_dropped, list(node.childNodes)):
            node.removeChild(child)
    if not any(rdf.childNodes for rdf in document.getElementsByTagNameNS(_RDF, "RDF")):
        return b""
    return "".join(node.toxml() for node in document.childNodes).encode()


def _is_dropped(node: minidom.Node) -> bool:
    return node.localName in _DROPPED_XMP or (node.namespaceURI or "").startswith(_DROPPED_SPACES)

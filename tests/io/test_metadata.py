"""Metadata go from a photograph into the picture, as far as they are true for both."""

import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image

from nst_jax.io.extras import Extras, load_extras
from nst_jax.io.images import image_note, load_image, save_image
from nst_jax.io.metadata import dpi_of
from nst_jax.io.notes import with_note

SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif")
PHOTO, GPS, BASE = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.Base
DC, TIFF = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/tiff/1.0/"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="{DC}" xmlns:tiff="{TIFF}">
  <r:Description r:about="" tiff:Orientation="6" dc:source="a &amp; b"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Exposure2012="+1.00"
    xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1">
   <dc:title><r:Alt><r:li xml:lang="de">Brücke &lt;1&gt;</r:li></r:Alt></dc:title>
   <tiff:ImageWidth>4000</tiff:ImageWidth>
   <crs:ToneCurve><r:Seq><r:li>0, 0</r:li></r:Seq></crs:ToneCurve>
  </r:Description>
  <r:Description r:about="" xmlns:nst_jax="urn:nst_jax"><nst_jax:note>old</nst_jax:note>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()
TIME, PLACE, ARTIST = "2024:05:06 07:08:09", (48.0, 31.0, 12.5), "Jürgen"


def photo_exif():
    exif = Image.Exif()
    exif[BASE.Make], exif[BASE.Artist], exif[BASE.Orientation] = "Camera", ARTIST.encode(), 6
    exif[PHOTO] = {
        **{BASE.DateTimeOriginal: TIME, BASE.ISOSpeedRatings: 200, BASE.ExposureTime: 0.004},
        **{BASE.ExifImageWidth: 4000, BASE.ExifImageHeight: 3000, BASE.MakerNote: b"x" * 99},
        **{
            BASE.ExifVersion: b"0231",
            BASE.UserComment: b"ASCII\0\0\0hello",
            BASE.ColorSpace: 65535,
        },
    }
    exif[GPS] = {1: "N", 2: PLACE}
    return exif


def with_thumbnail(data):
    """Add a second directory to EXIF data, as the thumbnail's."""
    order = "<" if data[6:8] == b"II" else ">"
    (count,) = struct.unpack(order + "H", data[14:16])
    link = 16 + 12 * count
    entries = struct.pack(order + "HHHII", 1, BASE.Compression, 4, 1, 6) + bytes(4)
    return data[:link] + struct.pack(order + "I", len(data) - 6) + data[link + 4 :] + entries


def photo(folder, suffix=".jpg", **options):
    path, image = folder / f"photo{suffix}", Image.new("RGB", (60, 40), "gray")
    exif = with_thumbnail(photo_exif().tobytes())
    given = {"exif": exif, "xmp": XMP, "dpi": (300, 240)} | options
    if suffix == ".tif":  # Pillow takes tags in their place
        tags = Image.Exif()
        tags.load(exif)
        tags[700], tags[BASE.Artist] = XMP, ARTIST.encode()
        given = {"tiffinfo": tags, "dpi": (300, 240)}
    image.save(path, **given)
    return path


@pytest.mark.parametrize("source", [".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_true_for_the_picture_goes_with_it(tmp_path, source, suffix, bits):
    if bits == 16 and suffix not in (".png", ".tif"):
        return
    path = tmp_path / f"a{suffix}"
    extras = load_extras(photo(tmp_path, source))
    save_image(path, np.zeros((20, 30, 3), np.float32), note="n <&>", bits=bits, extras=extras)
    assert load_image(path).shape == (20, 30, 3)  # and is not turned
    assert image_note(path) == "n <&>"
    with Image.open(path) as image:
        exif, info = image.getexif(), dict(image.info)
        groups = [exif.get_ifd(group) for group in (ExifTags.IFD.IFD1, PHOTO, GPS)]
    assert (exif[BASE.Make], exif[BASE.Artist].encode("latin-1").decode()) == ("Camera", ARTIST)
    assert exif.get(BASE.Orientation, 1) == 1
    thumbnail, found, place = groups
    assert thumbnail == {}
    assert (found[BASE.DateTimeOriginal], found[BASE.ISOSpeedRatings]) == (TIME, 200)
    assert (found[BASE.ExifVersion], found[BASE.UserComment][-5:]) == (b"0231", b"hello")
    assert float(found[BASE.ExposureTime]) == 0.004
    dropped = {BASE.ExifImageWidth, BASE.ExifImageHeight, BASE.MakerNote, BASE.ColorSpace}
    assert not dropped & found.keys()
    assert tuple(map(float, place[2])) == PLACE
    if source != ".webp":
        dpi = [float(each) for each in info.get("dpi", (300, 240))]
        np.testing.assert_allclose(dpi, (300, 240), atol=0.1)
        assert (exif[BASE.XResolution], exif[BASE.YResolution]) == (300, 240)
    root = ElementTree.fromstring(info["xmp"])
    texts = [node.text for node in root.iter() if node.text and node.text.strip()]
    notes = [] if suffix == ".png" else ["n <&>"]
    assert texts == ["Brücke <1>", *notes]
    attributes = {name: value for node in root.iter() for name, value in node.attrib.items()}
    assert attributes[f"{{{DC}}}source"] == "a & b"
    assert not any(x in name for name in attributes for x in ("tiff", "camera-raw", "google"))


def test_a_16_bit_tiff_says_the_same_to_tifffile(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(0).random((300, 7, 3), np.float32)
    alpha = np.arange(300 * 7).astype(np.uint8).reshape(300, 7)
    extras = load_extras(photo(tmp_path))._replace(alpha=alpha)
    save_image(tmp_path / "a.tif", levels, bits=16, extras=extras)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        (page,) = file.pages
        np.testing.assert_allclose(page.asarray()[..., :3], levels * 65535.0, atol=0.51)
        np.testing.assert_array_equal(page.asarray()[..., 3], alpha * 257.0)
        assert page.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
        assert page.tags["ExifTag"].value["DateTimeOriginal"] == TIME
        assert page.tags["GPSTag"].value["GPSLatitudeRef"] == "N"


def test_the_photo_of_these_tests_has_a_thumbnail(tmp_path):
    with Image.open(photo(tmp_path)) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1) == {BASE.Compression: 6}


def test_metadata_stay_away_on_demand(tmp_path):
    assert load_extras(photo(tmp_path), metadata=False) == Extras()


@pytest.mark.parametrize(
    "dpi", [None, (0, 0), (72,), 72, ("a", "b"), (float("nan"), 72), (72, 1e9)]
)
def test_absurd_dots_per_inch_are_left_out(dpi):
    image = Image.new("RGB", (3, 2))
    image.info["dpi"] = dpi
    assert dpi_of(image) is None


DAMAGED = {
    "exif of noise": {"exif": b"Exif\0\0" + bytes(range(200))},
    "exif cut": {"exif": photo_exif().tobytes()[:60]},
    "xmp cut": {"xmp": XMP[:400]},
    "xmp of another encoding": {"xmp": XMP.decode().encode("latin-1", "replace")},
    "xmp with entities": {"xmp": b'<!DOCTYPE x [<!ENTITY a "b">]>' + XMP[XMP.index(b"<x:") :]},
    "xmp with a hidden note": {
        "xmp": XMP.replace(b"4000", b"<![CDATA[<nst_jax:note>old</nst_jax:note>]]>")
    },
    "xmp without rdf": {"xmp": b"<x/>"},
    "xmp that is empty": {"xmp": b'<R:RDF xmlns:R="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>'},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_metadata_are_left_out(tmp_path, damage):
    path = photo(tmp_path, **DAMAGED[damage])
    extras = load_extras(path)
    if damage.startswith("xmp"):
        assert extras.xmp == b""
    for suffix in SUFFIXES:
        save_image(tmp_path / f"a{suffix}", load_image(path), note="x", extras=extras)
        assert image_note(tmp_path / f"a{suffix}") == "x"


@pytest.mark.parametrize("seed", range(40))
def test_exif_with_any_bytes_changed_does_no_harm(tmp_path, seed):
    rng, data = np.random.default_rng(seed), bytearray(photo_exif().tobytes())
    for place in rng.integers(6, len(data), 5):
        data[place] = rng.integers(256)
    extras = load_extras(photo(tmp_path, exif=bytes(data)))
    for suffix, bits in ((".png", 8), (".tif", 8), (".tif", 16)):
        path = tmp_path / f"a{suffix}"
        save_image(path, np.zeros((2, 3, 3), np.float32), note="x", extras=extras, bits=bits)
        assert image_note(path) == "x"
        assert load_image(path).shape == (2, 3, 3)


def test_metadata_too_long_for_a_format_are_left_out(tmp_path):
    long = with_note(load_extras(photo(tmp_path)).xmp, "y" * 70_000)
    image = np.zeros((2, 3, 3), np.float32)
    save_image(tmp_path / "a.jpg", image, note="x", extras=Extras(xmp=long, dpi=(72, 72)))
    assert image_note(tmp_path / "a.jpg") == "x"

"""Every mode of Pillow becomes 8-bit grey or RGB by a rule that can be computed from the file's numbers alone."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dist_advss.data.image_files import Unreadable, decode, original, square
from dist_advss.data.image_modes import endings
from dist_advss.errors import UserError

SIZE = 8
RAMP = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE)  # includes both ends


def read(file: Path, channels: int = 3) -> np.ndarray:
    """The image by both ways that are in use, which agree where nothing is scaled: the memory loader's and the beton's."""
    as_square = square(file, SIZE, channels)
    assert np.array_equal(as_square, original(file, 512, channels))
    assert np.array_equal(as_square, decode([file], SIZE, channels)[0])
    return as_square


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        square(file, SIZE, 3)
    text = str(caught.value)
    assert text.startswith(f"{file}: cannot be read as an image (")
    assert "\n" not in text
    return text


def grey(levels: np.ndarray) -> np.ndarray:
    """RGB of these grey levels."""
    return np.repeat(levels.astype(np.uint8)[..., None], 3, axis=2)


def png(file: Path, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> None:
    """A PNG of SIZE x SIZE pixels, written without Pillow. `rows` holds the pixels; every row gets filter 0."""
    width = len(rows) // SIZE
    lines = b"".join(b"\0" + rows[k * width : (k + 1) * width] for k in range(SIZE))
    header = struct.pack(">IIBBBBB", SIZE, SIZE, depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    file.write_bytes(content)


def tiff(file: Path, rows: bytes, bits: int, sample_format: int, photometric: int = 1, order: str = "<") -> None:
    """An uncompressed grey TIFF of SIZE x SIZE pixels, written without Pillow."""
    tags = {256: SIZE, 257: SIZE, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: SIZE, 279: len(rows)}
    tags[339] = sample_format
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in sorted(tags.items()):
        if tag in (273, 279):
            directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
        else:
            directory += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(rows))
    file.write_bytes(head + rows + directory + struct.pack(f"{order}I", 0))


# 16 and 32 bits, floats


def test_sixteen_bits_are_scaled_by_257_to_the_nearest_level(tmp_path: Path) -> None:
    values = np.rint(RAMP * 65535).astype(np.uint16)
    expected = grey(np.rint(values / 257))
    png(tmp_path / "a.png", 16, 0, values.astype(">u2").tobytes())
    tiff(tmp_path / "little.tif", values.tobytes(), 16, 1)
    tiff(tmp_path / "big.tif", values.astype(">u2").tobytes(), 16, 1, order=">")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    for name in ("a.png", "little.tif", "big.tif", "a.pgm"):
        image = read(tmp_path / name)
        assert np.array_equal(image, expected), name
        assert (image.min(), image.max()) == (0, 255)
        assert np.array_equal(read(tmp_path / name, 1)[..., 0], expected[..., 0])


def test_eight_bits_widened_to_sixteen_come_back_exactly(tmp_path: Path) -> None:
    levels = np.rint(RAMP * 255).astype(np.uint16)
    png(tmp_path / "a.png", 16, 0, (levels * 257).astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "a.png"), grey(levels))


def test_a_pgm_is_scaled_by_its_own_maximum(tmp_path: Path) -> None:
    values = np.rint(RAMP * 1023).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 1023\n" + values.tobytes())
    assert np.abs(read(tmp_path / "a.pgm").astype(int) - grey(np.rint(values / 1023 * 255))).max() <= 1


def test_twelve_bits_of_a_tiff_are_scaled_from_4095(tmp_path: Path) -> None:
    values = np.rint(RAMP * 4095).astype(int).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
    tiff(tmp_path / "a.tif", packed.astype(np.uint8).tobytes(), 12, 1)
    assert np.array_equal(read(tmp_path / "a.tif"), grey(np.rint(RAMP * 4095) * 255 / 4095 + 0.5))


@pytest.mark.parametrize(("kind", "sample_format", "largest"), [("<u4", 1, 2**32 - 1), ("<i4", 2, 2**31 - 1)])
def test_thirty_two_bits_are_scaled_from_the_largest_of_their_type(
    tmp_path: Path, kind: str, sample_format: int, largest: int
) -> None:
    values = np.rint(RAMP * largest).astype(np.uint64)
    tiff(tmp_path / "a.tif", values.astype(kind).tobytes(), 32, sample_format)
    assert np.array_equal(read(tmp_path / "a.tif"), grey(np.rint(values / largest * 255)))


@pytest.mark.parametrize(("kind", "bits"), [("<i4", 32), ("<i2", 16)])
def test_negative_integers_are_refused(tmp_path: Path, kind: str, bits: int) -> None:
    tiff(tmp_path / "a.tif", (np.rint(RAMP * 100) - 5).astype(kind).tobytes(), bits, 2)
    assert "its integers start at -5" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(("bits", "largest"), [(32, 2**32 - 1), (16, 2**16 - 1)])
def test_values_that_would_all_be_black_are_refused(tmp_path: Path, bits: int, largest: int) -> None:
    tiff(tmp_path / "a.tif", np.rint(RAMP * 100).astype(f"<u{bits // 8}").tobytes(), bits, 1)
    assert f"end at 100 of {largest}, so all would be black; store them with 8 bits" in refusal(tmp_path / "a.tif")


def test_a_black_image_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 16, 0, bytes(2 * SIZE * SIZE))
    assert read(tmp_path / "a.png").max() == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_are_scaled_from_zero_to_one(tmp_path: Path, order: str) -> None:
    tiff(tmp_path / "a.tiff", RAMP.astype(f"{order}f4").tobytes(), 32, 3, order=order)
    assert np.array_equal(read(tmp_path / "a.tiff"), grey(np.rint(RAMP * 255)))
    tiff(tmp_path / "levels.tiff", (np.rint(RAMP * 255) / 255).astype(f"{order}f4").tobytes(), 32, 3, order=order)
    assert np.array_equal(read(tmp_path / "levels.tiff"), grey(np.rint(RAMP * 255)))


def test_a_portable_float_map_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pfm").write_bytes(b"Pf\n8 8\n-1.0\n" + RAMP[::-1].astype("<f4").tobytes())
    assert np.array_equal(read(tmp_path / "a.pfm"), grey(np.rint(RAMP * 255)))


@pytest.mark.parametrize("extreme", [-0.01, 1.5, 255, np.inf, np.nan])
def test_floats_without_a_known_scale_are_refused(tmp_path: Path, extreme: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 4] = extreme
    tiff(tmp_path / "a.tif", values.tobytes(), 32, 3)
    assert "only 0 to 1 have a known scale" in refusal(tmp_path / "a.tif")


def test_a_tiff_whose_zero_is_white_is_inverted_at_every_depth(tmp_path: Path) -> None:
    expected = grey(255 - np.rint(RAMP * 255))
    tiff(tmp_path / "8.tif", np.rint(RAMP * 255).astype(np.uint8).tobytes(), 8, 1, photometric=0)
    tiff(tmp_path / "16.tif", (np.rint(RAMP * 255) * 257).astype("<u2").tobytes(), 16, 1, photometric=0)
    tiff(tmp_path / "f.tif", RAMP.astype("<f4").tobytes(), 32, 3, photometric=0)
    for name in ("8.tif", "16.tif", "f.tif"):
        assert np.array_equal(read(tmp_path / name), expected), name


def test_colours_of_sixteen_bits_are_their_upper_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (SIZE, SIZE, 3), np.uint16)
    png(tmp_path / "a.png", 16, 2, values.astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "a.png"), values >> 8)


# Orientation


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path: Path, form: str, orientation: int) -> None:
    """Per the EXIF standard: where the stored row 0 and column 0 are in the scene."""
    scene = np.zeros((SIZE, SIZE, 3), np.uint8)
    scene[:4, :4], scene[:4, 4:], scene[4:, :4], scene[4:, 4:] = 30, 90, 160, 230
    from_scene = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],  # row 0 is the top, column 0 the right
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),  # row 0 is the left, column 0 the top
        6: lambda a: a[:, ::-1].transpose(1, 0, 2),  # row 0 is the right, column 0 the top
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a[::-1].transpose(1, 0, 2),  # row 0 is the left, column 0 the bottom
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if form == "jpg" else {"lossless": True} if form == "webp" else {}
    stored = np.ascontiguousarray(from_scene[orientation](scene))
    Image.fromarray(stored).save(tmp_path / f"a.{form}", exif=exif, **options)
    assert np.abs(read(tmp_path / f"a.{form}").astype(int) - scene).max() <= 3


def test_a_wide_photograph_that_was_held_upright_is_tall(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert original(tmp_path / "a.jpg", 512, 3).shape == (40, 20, 3)


def test_a_damaged_exif_block_does_not_matter(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    for number, block in enumerate((b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0")):
        file = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(file)
        content = file.read_bytes()
        body = block[6:]
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        file.write_bytes(content[:33] + chunk + content[33:])  # behind the header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(read(file), pixels)


# Transparency


def blended(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colour over white."""
    share = alpha.astype(float)[..., None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["png", "webp", "tif", "tga"])
def test_transparent_pixels_show_white_and_not_their_hidden_colour(tmp_path: Path, form: str) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    pixels[:4, :, 3], pixels[4, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if form == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{form}", **options)
    image = read(tmp_path / f"a.{form}").astype(float)
    assert (image[:4] == 255).all()
    assert np.array_equal(image[4], pixels[4, :, :3])
    assert np.abs(image - blended(pixels[..., :3], pixels[..., 3])).max() <= 1


def test_grey_with_alpha_is_blended_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 2), np.uint8)
    Image.fromarray(pixels, "LA").save(tmp_path / "a.png")
    expected = blended(pixels[..., :1], pixels[..., 1])
    assert np.abs(read(tmp_path / "a.png").astype(float) - expected).max() <= 1
    assert np.abs(read(tmp_path / "a.png", 1).astype(float) - expected).max() <= 1


def test_a_palette_with_transparent_entries_is_blended(tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 4, (SIZE, SIZE), np.uint8)
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]], np.uint8)
    alpha = np.array([0, 255, 128, 255], np.uint8)
    png(tmp_path / "a.png", 8, 3, index.tobytes(), (b"PLTE", colours.tobytes()), (b"tRNS", alpha.tobytes()))
    assert np.abs(read(tmp_path / "a.png") - blended(colours[index], alpha[index])).max() <= 1
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.gif", transparency=0)
    expected = colours[index]
    expected[index == 0] = 255
    assert np.array_equal(read(tmp_path / "a.gif"), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_that_stands_for_nothing_is_white(tmp_path: Path, depth: int) -> None:
    levels = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE), np.uint8) * 100 + 50
    scale = 257 if depth == 16 else 1
    kind = f">u{depth // 8}"
    nothing = struct.pack(">H", 50 * scale)
    png(tmp_path / "grey.png", depth, 0, (levels.astype(int) * scale).astype(kind).tobytes(), (b"tRNS", nothing))
    assert np.array_equal(read(tmp_path / "grey.png"), grey(np.where(levels == 50, 255, levels)))
    colour = grey(levels)
    png(tmp_path / "rgb.png", depth, 2, (colour.astype(int) * scale).astype(kind).tobytes(), (b"tRNS", nothing * 3))
    assert np.array_equal(read(tmp_path / "rgb.png"), np.where(colour == 50, 255, colour))


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), pixels[..., :3])


# Other colours


def test_a_palette_and_one_bit_have_their_colours(tmp_path: Path) -> None:
    index = np.random.default_rng(0).integers(0, 4, (SIZE, SIZE), np.uint8)
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]], np.uint8)
    png(tmp_path / "a.png", 8, 3, index.tobytes(), (b"PLTE", colours.tobytes()))
    assert np.array_equal(read(tmp_path / "a.png"), colours[index])
    bits = index % 2
    png(tmp_path / "bits.png", 1, 0, np.packbits(bits, axis=1).tobytes())
    assert np.array_equal(read(tmp_path / "bits.png"), grey(bits * 255))


def test_a_cmyk_jpeg_has_the_colours_of_its_inks(tmp_path: Path) -> None:
    for ink, expected in (
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ):
        Image.new("CMYK", (SIZE, SIZE), ink).save(tmp_path / "a.jpg", quality=100)
        assert np.abs(read(tmp_path / "a.jpg").astype(int) - expected).max() <= 2
        assert np.abs(read(tmp_path / "a.jpg", 1).astype(int) - np.dot(expected, (0.299, 0.587, 0.114))).max() <= 2


def test_a_jpeg_of_full_chroma_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (180, 40, 90)).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - (180, 40, 90)).max() <= 2


@pytest.mark.parametrize("form", ["gif", "tif", "webp", "png"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), (level, level, level)) for level in (60, 120, 240)]
    options = {"lossless": True} if form == "webp" else {}
    frames[0].save(tmp_path / f"a.{form}", save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(read(tmp_path / f"a.{form}"), np.full((SIZE, SIZE, 3), 60))


def test_lab_has_the_colour_of_its_profile(tmp_path: Path) -> None:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (SIZE, SIZE), (180, 40, 90)), transform)
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif").astype(int) - (180, 40, 90)).max() <= 3


# Files that are not read


def test_formats_that_run_other_programs_are_not_opened(tmp_path: Path) -> None:
    """A PostScript file is a program for Ghostscript, whatever its name."""
    stream = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(stream, "EPS")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert "unknown format" in refusal(tmp_path / "a.jpg")
    assert endings() & {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5"} == set()


def test_the_endings_of_pictures_are_known() -> None:
    assert endings() >= {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".gif",
        ".jp2",
    }


def test_a_decompression_bomb_is_one_line(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 8, 0, bytes(SIZE * SIZE))
    content = (tmp_path / "a.png").read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    assert "decompression bomb" in refusal(tmp_path / "a.png")


def test_all_unreadable_files_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{k:03}.png" for k in range(200)]
    for k, file in enumerate(files):
        if k % 10 == 3:
            file.write_bytes(b"no image")
        else:
            png(file, 8, 0, bytes(SIZE * SIZE))
    with pytest.raises(Unreadable) as caught:
        decode(files, SIZE, 3)
    text = str(caught.value)
    assert [file for file, _ in caught.value.failures] == files[3::10]
    assert text.startswith(f"20 images cannot be read, such as {files[3]} (unknown format), ")
    assert str(files[43]) in text
    assert str(files[53]) not in text
    assert "\n" not in text
    # rank 0 sends the error to the other processes
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_the_name_of_a_file_may_be_any_bytes(tmp_path: Path) -> None:
    file = Path(str(tmp_path) + "/caf\udce9.png")  # é in Latin-1
    file.write_bytes(b"no image")
    with pytest.raises(Unreadable, match=r"caf\\xe9\.png") as caught:
        square(file, SIZE, 3)
    str(caught.value).encode()
